"""Rewrites every expected text under tests/golden; `make golden` runs it. Read the diff before you commit it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def main() -> int:
    """Runs the tests called *golden* with leave to write, then shows what changed."""
    environment = {**os.environ, "XAMC_GOLDEN_UPDATE": "1", "OMP_NUM_THREADS": "1"}
    # the pages' own commands are no goldens, and one of them is `make golden`
    command = [sys.executable, "-m", "pytest", "-q", "-k", "golden", "--ignore=tests/test_docs.py", "tests"]
    code = subprocess.run(command, cwd=REPOSITORY, env=environment, check=False).returncode
    subprocess.run(["git", "--no-pager", "diff", "--stat", "--", "tests/golden"], cwd=REPOSITORY, check=False)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
