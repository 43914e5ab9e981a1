"""``python -m tools.levels SUITE``: executes every kernel family of some CPU levels and records what came of it.

- ``narrow``: x86-64, x86-64-v2 and x86-64-v3 on this machine, aarch64's under QEMU; some minutes (`make test-levels`).
- ``wide``: those of 512 bits on a machine that Bochs emulates, and whole artifacts; more (`make test-wide-levels`).

With ``--go-on`` it goes on where an earlier run was ended. Other options are pytest's (``-k FAMILY``); nothing is
recorded then.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from tools.levels.machine import missing
from tools.reliability.results import ROOT


@dataclass(frozen=True)
class Suite:
    """Files of tests, and the environment variable that makes them run; kernels' names end in family and level."""

    files: tuple[str, ...]
    variable: str


SUITES = {
    "narrow": Suite(("tests/targets/kernels/test_weaker_levels.py",), "XAMC_ALL_LEVELS"),
    "wide": Suite(
        ("tests/targets/kernels/test_wide_levels.py", "tests/end_to_end/test_wide_artifact.py"), "XAMC_WIDE_LEVELS"
    ),
}
_ALL_DONE = 5  # pytest's status where no test is left


def run(suite: str, go_on: bool = False, more: Sequence[str] = ()) -> int:
    """Runs and records a suite's tests; the exit status is pytest's, 1 where something is missing."""
    lacking = missing() if suite == "wide" else None
    if lacking:
        print(lacking, file=sys.stderr)
        return 1
    recording = [] if more else ["-p", "tools.levels.recorder", *["--go-on"] * go_on]
    command = [sys.executable, "-m", "pytest", "-v", *SUITES[suite].files, *recording, *more]
    limit = dict[str, str]()
    if suite == "wide":  # machine.py limits what the emulator computes, which is more than that of other tests
        command += ["-o", "faulthandler_timeout=0"]
        limit = {"XAMC_TEST_SECONDS": "7200"}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", SUITES[suite].variable: "1", **limit}
    status = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    return 0 if go_on and status == _ALL_DONE else status


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--go-on", action="store_true", help="from where the recorded families of each level end")
    options, more = parser.parse_known_args()
    return run(options.suite, options.go_on, more)


if __name__ == "__main__":
    sys.exit(main())
