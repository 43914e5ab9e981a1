"""`xamc convert-weights`."""

from __future__ import annotations

from pathlib import Path

from xamc.cli.commands.output import message_console, print_json, result_console
from xamc.cli.commands.sizes import parse_size
from xamc.compiler.convert import convert_weights
from xamc.errors import MisuseError
from xamc.jobs.memory import MemorySampler
from xamc.jobs.progress import Progress, size


def convert_weights_command(
    source: Path, destination: Path, layout: str | None, dtype: str, shard_size: str, *, as_json: bool
) -> None:
    """Write the folder, showing the stage table; with `as_json` the table goes to stderr and the result to stdout.

    Raises:
        MisuseError: E1704 a size that is none, E1719 one of zero, and what `convert_weights` raises.
    """
    shard_bytes = parse_size(shard_size, "--shard-size")
    if shard_bytes < 1:
        raise MisuseError("E1719", f"--shard-size {shard_size!r} leaves no room for a tensor", "write for example 5GB")
    console = message_console() if as_json else result_console()
    with MemorySampler() as sampler:
        progress = Progress(console)
        progress.sampler = sampler
        # a package: reference is no path
        written = convert_weights(str(source), destination, progress, layout, dtype, shard_bytes)
    if as_json:
        print_json(written)
        return
    console.print(f"→ {written['path']}   {size(written['nbytes'])}", style="bold")
    console.print("  set frontend.checkpoint to it, and frontend.type to huggingface")
