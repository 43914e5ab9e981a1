"""The errors xamc raises on purpose, each with an exit code and a documented code.

Exit codes: 1 the user's input, 2 misuse of the command line, 3 unsupported, 4 toolchain, 70 our bug.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Location:
    """A place in a text file; line and column count from 1, `length` characters are underlined."""

    path: Path
    line: int
    column: int
    length: int = 1
    note: str = ""


def _restored(cls: type[XamcError], state: dict[str, Any]) -> XamcError:
    """An error as it was when it was pickled."""
    error = cls.__new__(cls)
    vars(error).update(state)
    return error


@dataclass(eq=False)
class XamcError(Exception):
    """Base of every deliberate error.

    Attributes:
        code: stable identifier such as ``E1042``; ``xamc explain CODE`` describes it.
        message: one sentence naming the key, tensor or op at fault.
        fix: what the user can do about it, one sentence.
        locations: places in the user's text files, most important first.
        details: further lines (a log's tail, a list of offenders).
        keys: the spec's keys at fault, dotted, the most precise first; whoever loaded the spec knows where the first of
            them that is written stands (see `xamc.compiler.spec.locations`).
        sources: path → text, for locations whose text is not to be read from the disk.
        warnings: what was said of the spec before, for those who read errors as data.
    """

    code: str
    message: str
    fix: str = ""
    locations: tuple[Location, ...] = ()
    details: tuple[str, ...] = field(default=())
    keys: tuple[str, ...] = ()
    sources: Mapping[Path, str] = field(default_factory=dict)
    warnings: tuple[Any, ...] = ()

    exit_code = 70

    def __reduce__(self) -> tuple[Any, ...]:
        # exceptions are pickled by their positional arguments, and ours are made with keywords, or by subclasses
        return _restored, (type(self), dict(vars(self)))

    def __str__(self) -> str:
        text = f"{self.code} {self.message}"
        return f"{text} (fix: {self.fix})" if self.fix else text


class InputError(XamcError):
    """The user's input is wrong: a spec, a checkpoint, a prompt."""

    exit_code = 1


class MisuseError(XamcError):
    """The command line is wrong."""

    exit_code = 2


class UnsupportedError(XamcError):
    """The request is understood and not supported."""

    exit_code = 3


class ToolchainError(XamcError):
    """A tool below us (TVM, gcc, ONNX Runtime, the disk) failed or is missing."""

    exit_code = 4


class InternalError(XamcError):
    """A defect of xamc itself."""

    exit_code = 70
