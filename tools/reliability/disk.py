"""Runs every command that writes files on file systems of many sizes, from one that holds nothing to one that suffices.

    python -m tools.reliability.disk --steps 8 --cold 2

Output, stage cache and TMPDIR share the disk, a tmpfs, so every stage meets its end somewhere. A command that does not
fit must end with E1506, E1720 or E1454 (exit code 1) and leave nothing beside the cache's whole entries; what fits must
give the very bytes of an undisturbed run. Mounting needs root, or `unshare -rm` before the command.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections import Counter as Counts
from collections.abc import Iterable, Sequence
from pathlib import Path

from tools.reliability.kill import MARK, Place, alive_with, finish, leftovers, start_command, survivors
from tools.reliability.results import Counter, Row, done_before, end_tidily, record, today
from tools.reliability.routes import ROUTES, prepare, state

_PAGE = 4096
_FULL = ("E1506", "E1720", "E1454")  # the last two are found before anything is written


def _mount(folder: Path, nbytes: int) -> None:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={nbytes}", "tmpfs", str(folder)], check=True)


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()


class DiskTest:
    """The trials of one route."""

    def __init__(self, root: Path, name: str, warm: Path) -> None:
        """Runs the command undisturbed, beginning with the cache `warm`; a failure raises."""
        self.root, self.route, self.models = root, ROUTES[name], root / "models"
        self.template = Place(root / f"template-{list(ROUTES).index(name)}")
        self.template.root.mkdir()
        shutil.copytree(warm, self.template.cache, copy_function=os.link)
        log, began = root / "log", time.time()
        if finish(start_command(self.route.arguments(self.models, self.template), self.template, log)):
            raise SystemExit(f"{name}: the undisturbed run failed:\n{log.read_text()}")
        self.expected = state(self.template.root / self.route.output)
        shutil.copytree(self.template.cache, warm, copy_function=_link_once, dirs_exist_ok=True)
        for entry in self.template.cache.glob("v1/*"):
            if (entry / "entry.json").stat().st_mtime < began - 1:  # neither made nor used: another route's
                shutil.rmtree(entry)

    def held(self, slow: bool) -> list[Path]:
        """What the cache holds before a trial."""
        entries = [] if slow else list(self.template.cache.glob("v1/*"))
        return [entry for entry in entries if entry.name.startswith(self.route.slow or "-")]

    def needed(self) -> int:
        """Bytes of all that the command adds to what the cache holds."""
        return _on_disk(self.template.root.rglob("*")) - _on_disk(_below(self.held(False)))

    def needed_within(self, stage: str, share: float) -> int:
        """Bytes until, beginning with an empty cache, so much of what a stage makes is written."""
        entries = set(self.template.cache.glob("v1/*"))
        around = {path for path in self.template.root.rglob("*") if self.template.artifact not in (path, *path.parents)}
        before = self.route.slow[: self.route.slow.index(stage)]
        done = [path for path in entries if path.name.startswith(before)] if before else []
        own = [path for path in entries if path.name.startswith(stage)]
        return _on_disk(around - _below(entries)) + _on_disk(_below(done)) + round(share * _on_disk(_below(own)))

    def trial(self, nbytes: int, slow: bool) -> tuple[str, list[str]]:
        """One run on a disk of `nbytes` beyond what its cache holds at first; `slow` with an empty one.

        Returns:
            The stage that met the end of the disk (``none``: it fitted), and what went wrong.
        """
        place, log = Place(self.root / "disk"), self.root / "disk.log"
        held = self.held(slow)
        used = _on_disk(_below(held))
        _mount(place.root, used + nbytes)
        try:
            for entry in held:
                shutil.copytree(entry, place.cache / "v1" / entry.name)
            status = _finish_or_end(start_command(self.route.arguments(self.models, place), place, log), place)
            text = log.read_text(errors="replace")
            problems = [f"it left {left}"] if (left := leftovers(place, place.root / self.route.output)) else []
            found = state(place.root / self.route.output)
            if status == 0:
                stage = "none"
                problems += [] if found == self.expected else [f"what it made is {found}"]
            else:
                rows = re.findall(r"^ (\w+) +failed ", text, re.MULTILINE)
                stage = rows[0] if rows else "outside of a stage"
                told = status == 1 and any(code in text for code in _FULL) and "fix:" in text
                problems += [] if told else [f"exit code {status}: {text}"]
                problems += [f"there is an output: {found}"] if found != "absent" else []
        finally:
            _unmount(place.root)
        return stage, problems


def _finish_or_end(pid: int, place: Place) -> int:
    """The exit status of a command; whoever ends this test ends it and its children, which hold the disk."""
    try:
        return finish(pid)
    except BaseException:
        for one in (pid, *alive_with(f"{MARK}={place.root}")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        survivors(place)
        raise


def _below(folders: Iterable[Path]) -> set[Path]:
    return {path for folder in folders for path in (folder, *folder.rglob("*"))}


def _on_disk(paths: Iterable[Path]) -> int:
    """Bytes that a tmpfs takes for them; an artifact and the cache share files."""
    files = {(status.st_dev, status.st_ino): status for status in (path.lstat() for path in paths)}
    return sum(-(-status.st_size // _PAGE) * _PAGE for status in files.values() if stat.S_ISREG(status.st_mode))


def _link_once(source: str, target: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.link(source, target)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the sizes of every route and records how many were tried; exit code 1 when one went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10, help="sizes of the disk for each route")
    parser.add_argument("--cold", type=int, default=2, help="of them, runs with an empty cache")
    parser.add_argument("--route", action="append", choices=ROUTES, help="repeatable; default: all")
    parser.add_argument("--warm", type=Path, help="a stage cache for the undisturbed runs to begin with")
    parser.add_argument("--go-on", action="store_true", help="without the routes whose sizes are recorded")
    parser.add_argument("--no-record", action="store_true", help="leave docs/reliability.csv alone")
    options = parser.parse_args(arguments)
    end_tidily()

    import xamc.compiler.pipeline  # noqa: F401  # before the forks, once

    failed = 0
    with tempfile.TemporaryDirectory(prefix="reliability-disk-") as name:
        root, warm = Path(name), Path(name) / "warm"
        prepare(root / "models")
        if options.warm:
            shutil.copytree(options.warm, warm)
        else:
            (warm / "v1").mkdir(parents=True)
        for route in options.route or ROUTES:
            failed += _sizes(root, route, warm, options)
    return 1 if failed else 0


def _sizes(root: Path, route: str, warm: Path, options: argparse.Namespace) -> int:
    """All sizes of one route; returns how many went wrong."""
    check = f"disk full: {route}"
    counter, failures, stages = Counter(check, options.steps), 0, Counts[str]()
    if options.go_on and (before := done_before(check, 0)) >= options.steps:
        counter.say(f"{before} sizes are recorded")
        return 0
    if route == "golden record" and not (root / "models" / "artifact").exists():
        artifact = Place(root / "template-0")
        if not artifact.root.exists():
            DiskTest(root, "CPU", warm)
        shutil.copytree(artifact.artifact, root / "models" / "artifact")
    test = DiskTest(root, route, warm)
    cold = min(options.cold, options.steps) if ROUTES[route].slow else 0
    for step in range(options.steps):
        first = options.steps - cold
        if slow := step >= first:
            stages_of, rounds = ROUTES[route].slow, -(-cold // len(ROUTES[route].slow))
            share = ((step - first) // len(stages_of) + 0.5) / rounds
            where = stages_of[(step - first) % len(stages_of)]
            size, what = test.needed_within(where, share), f"{share:.2f} of {where}"
        else:
            # the stages that write last write least
            share = 1 - 2.0 ** -(step + 2) if step % 2 else step / first
            size, what = round(test.needed() * share), f"{share:.3f} of what is needed"
        stage, problems = test.trial(size // _PAGE * _PAGE + _PAGE, slow)
        stages[stage] += 1
        failures += bool(problems)
        for problem in problems:
            counter.say(f"size {what}, {stage}: {problem}")
        counter.step(step + 1, failures)
    met = ", ".join(f"{stage} {count}" for stage, count in sorted(stages.items()) if stage != "none")
    note = f"sizes of the disk, {stages['none']} of them large enough; the others met the end in: {met}"
    if not options.no_record:
        record([Row(check, options.steps, failures, 0, today(), note)])
    counter.say(f"{options.steps} sizes, {failures} failed; {note}")
    return failures


if __name__ == "__main__":
    sys.exit(main())
