"""Errors at the end of a command: ours as one screen, others as a short message with a log file."""

from __future__ import annotations

import contextlib
import datetime
import platform
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

import xamc
from xamc.artifact.staging import FULL_DISK, disk_full
from xamc.cli.commands.output import print_json
from xamc.errors import InternalError, ToolchainError, XamcError
from xamc.jobs.cache import default_cache_folder

_COMPILER_PACKAGES = frozenset(("tvm", "torch", "transformers", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "gguf"))


def report_failure(error: Exception, arguments: Sequence[str], as_json: bool, debug: bool) -> int:
    """Print an error, and with ``--json`` also describe it on stdout; returns the exit code."""
    problem = _problem(error, arguments)
    if debug and problem is not error:
        traceback.print_exception(error)
    try:
        from xamc.cli.render import print_problems
        from xamc.compiler.spec.problems import to_json
    except ModuleNotFoundError as missing:  # a broken installation must still say what is wrong
        sys.stderr.write(f"{problem}\n(and {missing.name} is not installed)\n")
        return problem.exit_code
    if as_json:
        print_json(to_json(problem))
    print_problems(problem)
    return problem.exit_code


def _problem(error: Exception, arguments: Sequence[str]) -> XamcError:
    if isinstance(error, XamcError):
        return error
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        return disk_full(Path(error.filename if isinstance(error.filename, str) else "a file"), str(error.strerror))
    missing = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
    if missing.partition(".")[0] in _COMPILER_PACKAGES:
        return ToolchainError(
            "E1701",
            f"{missing} is not installed; this installation can run artifacts, not compile them",
            fix="pip install 'xamc[compiler]', or make venv in a checkout",
        )
    log = _write_log(error, arguments)
    return InternalError(
        "E1700",
        f"unexpected {type(error).__name__}: {error}",
        fix=f"this is a defect of xamc; report it with {log} (xamc --debug shows the traceback)",
    )


def _write_log(error: Exception, arguments: Sequence[str]) -> Path:
    """Everything a report needs, in a file; returns its path."""
    text = "\n".join(
        (
            f"xamc {xamc.__version__}, Python {platform.python_version()}, {platform.platform()}",
            f"command: xamc {' '.join(arguments)}",
            "",
            *traceback.format_exception(error),
        )
    )
    name = f"error-{datetime.datetime.now():%Y%m%d-%H%M%S-%f}.log"
    for folder in (default_cache_folder() / "logs", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # an argument may be no text at all
            (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError:  # a read-only home, a full disk: the temporary folder is next
            with contextlib.suppress(OSError):
                (folder / name).unlink(missing_ok=True)
            continue
        return folder / name
    return Path("the traceback of --debug")
