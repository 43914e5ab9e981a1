"""Locations in the build file for errors that name a key of it, whichever stage raises them."""

from __future__ import annotations

import dataclasses
from types import TracebackType

from xamc.compiler.spec.model import LoadedSpec
from xamc.errors import Location, XamcError


class LocatedErrors:
    """While it is entered, an error that names spec keys and no location gets that of the first key that is written, or
    of a misspelled key that was meant to be it; and every error gets the spec's warnings.

    So frontends and targets need not know where a spec came from::

        with LocatedErrors() as located:
            located.loaded = loaded = load_spec(source)
            raise InputError("E1101", "checkpoint x doesn't exist", keys=("frontend.checkpoint",))

    Attributes:
        loaded: the spec, once there is one.
    """

    def __init__(self, loaded: LoadedSpec | None = None) -> None:
        self.loaded = loaded

    def __enter__(self) -> LocatedErrors:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, XamcError) and self.loaded is not None and not error.locations:
            error.locations = next(filter(None, map(self._location, error.keys)), ())
            error.sources = {**self.loaded.sources, **error.sources}
        if isinstance(error, XamcError) and self.loaded is not None and not error.warnings:
            error.warnings = self.loaded.warnings

    def _location(self, key: str) -> tuple[Location, ...]:
        """Where a key is written; where it is written with another name, the location says so."""
        assert self.loaded is not None
        if written := self.loaded.at(key):
            return written
        for warning in self.loaded.warnings:
            if warning.meant and warning.locations and f"{key}.".startswith(f"{warning.meant}."):
                return (dataclasses.replace(warning.locations[0], note=f"did you mean {warning.meant}?"),)
        return ()
