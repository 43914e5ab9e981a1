"""All errors of one spec, raised together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from xamc.compiler.spec.model import SpecWarning
from xamc.errors import InputError, XamcError

#: Stands for a path in locations that point into a `--set` argument; the line is the argument's number.
SET_PATH = Path("--set")


class SpecErrors(InputError):
    """Every error found in one spec; code, message, fix and locations are those of the first.

    Attributes:
        errors: in the order of the file, at least one.
        sources: path → text for locations whose text is not to be read from the disk: the spec as it was when it was
            read, and the `--set` arguments, one a line.
        warnings: what else was found; an ignored key is often the cause of an error.
    """

    def __init__(
        self,
        errors: Sequence[XamcError],
        sources: Mapping[Path, str] | None = None,
        warnings: Sequence[SpecWarning] = (),
    ) -> None:
        """Takes at least one error."""
        first = errors[0]
        super().__init__(
            first.code, first.message, first.fix, first.locations, first.details, sources=dict(sources or {})
        )
        self.errors = tuple(errors)
        self.warnings = tuple(warnings)

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)
