"""Compiles a small model on file systems of many sizes, from one that holds nothing to one that holds everything.

    python -m tools.reliability.disk --steps 40

Artifact, stage cache and TMPDIR share the disk, a tmpfs, so every stage meets its end somewhere. A compile that does
not fit must end with E1506 (exit code 1) and leave nothing beside the cache's whole entries; what fits must give the
artifact of an undisturbed compile. Mounting needs root, or `unshare -rm` before the command.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter as Counts
from collections.abc import Sequence
from pathlib import Path

from tools.reliability.kill import KillTest, Place, artifact_state, clone, finish, leftovers, start
from tools.reliability.results import Counter, Row, record, today


def _mount(folder: Path, nbytes: int) -> None:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={nbytes}", "tmpfs", str(folder)], check=True)


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()


def trial(test: KillTest, root: Path, nbytes: int, without: Sequence[str], expected: str) -> tuple[str, list[str]]:
    """One compile on a disk of `nbytes` beyond what its cache holds at first.

    Returns:
        The stage that met the end of the disk (``none``: it fitted), and what went wrong.
    """
    place, log = Place(root / "disk"), root / "disk.log"
    held = Place(root / "held")
    held.root.mkdir()
    clone(test.template, held, without)
    used = sum(path.stat().st_blocks * 512 + 4096 for path in held.cache.rglob("*"))
    _mount(place.root, used + nbytes)
    try:
        shutil.copytree(held.cache, place.cache)
        status = finish(start(test.spec, place, log))
        text = log.read_text(errors="replace")
        problems = [f"it left {left}"] if (left := leftovers(place)) else []
        state = artifact_state(place.artifact)
        if status == 0:
            stage = "none"
            problems += [f"the artifact is {state}"] if state != expected else []
        else:
            rows = [line.split()[0] for line in text.splitlines() if " failed " in line]
            stage = rows[0] if rows else "before the first stage"
            problems += [f"exit code {status}: {text}"] if status != 1 or "E1506" not in text else []
            problems += [f"the artifact is {state}"] if state != "absent" else []
    finally:
        _unmount(place.root)
        shutil.rmtree(held.root)
    return stage, problems


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the sizes and records how many were tried; exit code 1 when one went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40, help="sizes of the disk")
    parser.add_argument(
        "--cold", type=int, default=4, help="of them, compiles that export and generate code themselves"
    )
    parser.add_argument("--warm", type=Path, help="a stage cache for the undisturbed compile to begin with")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long, and record what ran")
    parser.add_argument("--no-record", action="store_true", help="leave docs/reliability.csv alone")
    options = parser.parse_args(arguments)

    import xamc.compiler.pipeline  # noqa: F401  # before the forks, once

    counter, failures, stages = Counter("disk", options.steps), 0, Counts[str]()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="reliability-disk-") as name:
        root = Path(name)
        test = KillTest(root, 0)
        if options.warm:
            shutil.copytree(options.warm, test.template.cache)
        expected = test.undisturbed()
        needed = sum(path.stat().st_blocks * 512 + 4096 for path in test.template.root.rglob("*"))
        for step in range(options.steps):
            if time.monotonic() - began > 60 * options.minutes:
                counter.say(f"stopped after {step} sizes for lack of time")
                break
            cold = step >= options.steps - options.cold
            without = ("export", "codegen", "weights") if cold else ("weights",)
            share = (step - options.steps + options.cold + 0.5) / options.cold if cold else step / options.steps
            stage, problems = trial(test, root, round(needed * share) // 4096 * 4096 + 4096, without, expected)
            stages[stage] += 1
            failures += bool(problems)
            for problem in problems:
                counter.say(f"size {share:.2f} of what is needed, {stage}: {problem}")
            counter.step(step + 1, failures)
    met = ", ".join(f"{stage} {count}" for stage, count in sorted(stages.items()))
    if not options.no_record:
        note = f"disk sizes; compiles ended with E1506 in: {met}"
        record([Row("disk full", sum(stages.values()), failures, 0, today(), note)])
    counter.say(f"{sum(stages.values())} sizes, {failures} failed; ended in {met}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
