"""``make reliability``: every check of docs/reliability.md's table, then the table.

python -m tools.reliability                 only the table
python -m tools.reliability --run           everything, which takes hours
python -m tools.reliability --run --fresh   without what earlier runs recorded

A run goes on where the one before ended, or was ended: every check records its numbers as it goes.
"""

from __future__ import annotations

import argparse
import sys

from tools.bench import onnx_nodes
from tools.levels.__main__ import run as run_levels
from tools.levels.machine import missing
from tools.reliability import disk, fuzz, kill, suite, tokenizers, twice
from tools.reliability.results import publish


def main() -> int:
    """Runs what was asked for; the table is written even where a check failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true", help="measure again; otherwise only the table is written")
    parser.add_argument("--fresh", action="store_true", help="begin anew, not where the recorded numbers end")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    failed = 0
    if options.run:
        on, seed = [] if options.fresh else ["--go-on"], ["--seed", str(options.seed)]
        failed = kill.main([*on, *seed]) | disk.main(on) | twice.main(on) | fuzz.main([*on, *seed])
        failed |= suite.run(not options.fresh)
        failed |= tokenizers.main([]) | run_levels("narrow", not options.fresh) | onnx_nodes.main([])
        if (lacking := missing()) is None:
            failed |= run_levels("wide", not options.fresh)
        else:
            print(f"512-bit levels are left out: {lacking}", file=sys.stderr)
    publish()
    return failed


if __name__ == "__main__":
    sys.exit(main())
