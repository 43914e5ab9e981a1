"""`xamc export-vamc`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast, get_args

from xamc.cli.commands.output import message_console, print_json, result_console
from xamc.compiler.handoff.export import ROUTES, HandoffOptions, export_vamc
from xamc.compiler.handoff.graphs import OnnxDtype
from xamc.compiler.handoff.llama_checkpoint import StoredDtype
from xamc.errors import MisuseError
from xamc.jobs.progress import Progress, size


def handoff_options(
    routes: Sequence[str] | None,
    dtype: str,
    onnx_dtype: str,
    output: Path | None,
    checkpoint: str | None,
    dump_ir: Path | None,
    use_cache: bool,
    allow_pickle: bool = False,
) -> HandoffOptions:
    """The command line's words, checked.

    Raises:
        MisuseError: E1459 a route or a dtype that doesn't exist.
    """
    for option, word, known in (
        *(("--route", route, ROUTES) for route in routes or ()),
        ("--dtype", dtype, get_args(StoredDtype)),
        ("--onnx-dtype", onnx_dtype, get_args(OnnxDtype)),
    ):
        if word not in known:
            raise MisuseError("E1459", f"{option} {word!r} doesn't exist", fix=f"use one of {', '.join(known)}")
    return HandoffOptions(
        output=output,
        routes=tuple(route for route in ROUTES if routes is None or route in routes),
        dtype=cast(StoredDtype, dtype),
        onnx_dtype=cast(OnnxDtype, onnx_dtype),
        checkpoint=checkpoint,
        dump_ir=dump_ir,
        use_cache=use_cache,
        allow_pickle=allow_pickle,
    )


def export_vamc_command(
    source: Path, overrides: Sequence[str], options: HandoffOptions, as_json: bool, former_option: bool = False
) -> None:
    """Write the folder, showing the stage table; with `as_json` the table goes to stderr and the result to stdout.

    `former_option`: the routes were given as ``--road``, which is said.
    """
    progress = Progress(message_console() if as_json else result_console())
    if former_option:
        progress.warn("--road is called --route now")
    handoff = export_vamc(source, overrides, options, progress)
    nbytes = sum(file["nbytes"] for file in handoff.files.values())
    if as_json:
        print_json({"path": str(handoff.path), "nbytes": nbytes, "files": handoff.files, "report": handoff.report})
        return
    console = progress.console
    console.print(f"→ {handoff.path}   {size(nbytes)}", style="bold")
    console.print("  README.md and README.zh.md say how to compile it with vamc")
