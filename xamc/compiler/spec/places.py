"""Places in the build file for errors that name a key of it, whichever stage raises them."""

from __future__ import annotations

from types import TracebackType

from xamc.compiler.errors import XamcError
from xamc.compiler.spec.model import LoadedSpec


class PlacedErrors:
    """While it is entered, an error that names spec keys and no place gets the place of the first key that is written.

    So frontends and targets need not know where a spec came from::

        with PlacedErrors() as placed:
            placed.loaded = loaded = load_spec(source)
            raise InputError("E1101", "checkpoint x doesn't exist", keys=("frontend.checkpoint",))

    Attributes:
        loaded: the spec, once there is one.
    """

    def __init__(self, loaded: LoadedSpec | None = None) -> None:
        self.loaded = loaded

    def __enter__(self) -> PlacedErrors:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, XamcError) and self.loaded is not None and not error.locations:
            error.locations = next(filter(None, map(self.loaded.at, error.keys)), ())
            error.sources = {**self.loaded.sources, **error.sources}
