"""`xamc diff`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from xamc.artifact import read_any
from xamc.artifact.compare import compare
from xamc.artifact.manifest_file import digest
from xamc.cli.commands.output import print_json, print_table, result_console


def diff_command(first: Path, second: Path, *, as_json: bool) -> bool:
    """Print what differs, stage by stage, and which of them is the cause; returns whether the artifacts are equal."""
    one, two = read_any(first), read_any(second)
    found = compare(one, two)
    equal = not any(stage.details for stage in found)
    cause = next((stage.stage for stage in found if stage.cause), None)
    if as_json:
        print_json(
            {
                "equal": equal,
                "first_cause": cause,
                "digests": [digest(one.manifest), digest(two.manifest)],
                "stages": [dataclasses.asdict(stage) for stage in found],
            }
        )
        return equal
    console = result_console()
    if equal:
        console.print(f"equal, digest {digest(one.manifest)[:16]}", style="bold")
        return True
    rows = []
    for stage in found:
        state = ("differs" if stage.cause else "follows") if stage.details else "same"
        details = stage.details or ("",)
        rows += [(stage.stage if not i else "", state if not i else "", line) for i, line in enumerate(details)]
    console.print(f"the first stage that made a difference: {cause}", style="bold")
    print_table(console, ("stage", "", "A → B"), rows)
    return False
