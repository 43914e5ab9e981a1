"""The problems that a spec or a command met, one by one and as data for scripts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xamc.compiler.spec.errors import SpecErrors
from xamc.compiler.spec.model import SpecWarning
from xamc.errors import XamcError

Problem = XamcError | SpecWarning


def problems_of(error: BaseException | Problem) -> tuple[Problem, ...]:
    """The single problems of an error: those of a spec or of an exception group, or the error itself.

    A spec's warnings come before its errors, so that the errors stand last on the screen.
    """
    if isinstance(error, SpecErrors):
        return error.warnings + error.errors
    if isinstance(error, BaseExceptionGroup):
        return tuple(problem for inner in error.exceptions for problem in problems_of(inner))
    if isinstance(error, XamcError | SpecWarning):
        return (error,)
    raise TypeError(f"{type(error).__name__} is not an error of xamc")


def to_json(problems: BaseException | Problem | Sequence[Problem]) -> dict[str, Any]:
    """Errors and warnings as data for json.dumps: `{"errors": [...], "warnings": [...], "exit_code": n}`.

    The exit code is that of the error; for several, the first one's; 0 for warnings alone.
    """
    several = problems if isinstance(problems, Sequence) else problems_of(problems)
    errors = [problem for problem in several if isinstance(problem, XamcError)]
    warnings = [problem for problem in several if isinstance(problem, SpecWarning)]
    warnings += [warning for error in errors for warning in error.warnings if warning not in warnings]
    return {
        "errors": [_as_dict(error) | {"details": list(error.details)} for error in errors],
        "warnings": [_as_dict(warning) for warning in warnings],
        "exit_code": errors[0].exit_code if errors else 0,
    }


def _as_dict(problem: Problem) -> dict[str, Any]:
    return {
        "code": problem.code,
        "message": problem.message,
        "fix": problem.fix,
        "locations": [
            {
                "path": str(location.path),
                "line": location.line,
                "column": location.column,
                "length": location.length,
                "note": location.note,
            }
            for location in problem.locations
        ],
    }
