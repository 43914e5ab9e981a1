"""What `make compile` does: compile a spec, let the model answer a prompt, and say how fast and where it lies.

Usage: python tools/compile_and_answer.py SPEC [--target TARGET] --prompt TEXT
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> int:
    """Entry point; returns the exit status of the first command that failed, or 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spec")
    parser.add_argument("--target")
    parser.add_argument("--prompt", required=True)
    options = parser.parse_args()
    xamc = [sys.executable, "-m", "xamc"]
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        compiling = [*xamc, "compile", options.spec, "--result", str(result)]
        compiling += ["--target", options.target] if options.target else []
        status = subprocess.run(compiling, check=False).returncode
        if status:
            return status
        path = json.loads(result.read_text(encoding="utf-8"))["path"]
    print(f"\n> {options.prompt}", flush=True)
    status = subprocess.run([*xamc, "run", path, "--prompt", options.prompt, "--chat"], check=False).returncode
    print(f"artifact: {path}")
    return status


if __name__ == "__main__":
    sys.exit(main())
