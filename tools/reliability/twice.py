"""Makes everything twice: in another folder, another process, with another hash seed, another number of threads.

    python -m tools.reliability.twice --route VACC

Each time the checkpoint is written anew and the stage cache is empty. Names and bytes of all files must be the same,
but for report.json, which holds times.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tools.reliability.kill import Place
from tools.reliability.results import Counter, Row, done_before, end_tidily, record, today
from tools.reliability.routes import ROUTES, prepare, state

_MAIN = (sys.executable, "-P", "-c", "from xamc.cli.main import main; main()")
_REPOSITORY = Path(__file__).parents[2]
_VARIABLES = ({"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"}, {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "2"})


def make(route: str, root: Path, variables: dict[str, str]) -> str:
    """Runs a route in `root` with an empty cache; returns the state of what it makes, or what went wrong."""
    models, place = root / "models", Place(root / "place")
    if not models.exists():
        prepare(models)
    shutil.rmtree(place.root, ignore_errors=True)
    place.temporary.mkdir(parents=True)
    own = {"XAMC_CACHE": str(place.cache), "TMPDIR": str(place.temporary), "PYTHONPATH": str(_REPOSITORY)}
    command = [*_MAIN, *ROUTES[route].arguments(models, place)]
    done = subprocess.run(command, env={**os.environ, **own, **variables}, capture_output=True, text=True, check=False)
    return state(place.root / ROUTES[route].output) if done.returncode == 0 else f"failed: {done.stdout}{done.stderr}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes every route's output twice and records whether they are the same; exit code 1 where they are not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--route", action="append", choices=ROUTES, help="repeatable; default: all but golden record")
    parser.add_argument("--go-on", action="store_true", help="without those that are recorded")
    parser.add_argument("--no-record", action="store_true", help="leave docs/reliability.csv alone")
    options = parser.parse_args(arguments)
    end_tidily()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="reliability-twice-") as name:
        roots = (Path(name) / "first", Path(name) / "a second place")
        for root in roots:
            root.mkdir()
        for route in options.route or [route for route in ROUTES if route != "golden record"]:
            check, counter = f"same bytes: {route}", Counter(f"same bytes: {route}", 2)
            if options.go_on and done_before(check, 0) >= 2:
                counter.say("recorded")
                continue
            found = [make(route, root, variables) for root, variables in zip(roots, _VARIABLES)]
            wrong = found[0] != found[1] or any(text.startswith("failed") for text in found)
            counter.say(" ≠ ".join(found) if wrong else f"the same twice, {found[0][:12]}")
            failed += wrong
            if not options.no_record:
                note = "times made, in two folders and processes, with two hash seeds, from nothing"
                record([Row(check, 2, int(wrong), 0, today(), note)])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
