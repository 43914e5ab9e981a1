"""What `make compile` does: compile a spec, let the model answer a prompt, and say how fast and where it lies.

Usage: python tools/compile_and_answer.py SPEC [--target TARGET] --prompt TEXT
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys


def main() -> int:
    """Entry point; returns the exit status of the first command that failed, or 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spec")
    parser.add_argument("--target")
    parser.add_argument("--prompt", required=True)
    options = parser.parse_args()
    xamc = [sys.executable, "-m", "xamc"]
    target = ["--target", options.target] if options.target else []
    # The stage table goes to stderr, and so to the terminal; the result is on stdout.
    compiled = subprocess.run(
        [*xamc, "compile", options.spec, *target, "--json"], stdout=subprocess.PIPE, text=True, check=False
    )
    if compiled.returncode:
        return compiled.returncode
    path = os.path.relpath(json.loads(compiled.stdout)["path"])
    print(f"\n> {options.prompt}", flush=True)
    asking = [*xamc, "run", path, "--prompt", options.prompt, "--chat", "--max-new-tokens", "200"]
    status = subprocess.run(asking, check=False).returncode
    command = os.path.join(os.path.dirname(os.path.relpath(sys.executable)), "xamc")
    print(f"\nartifact: {path}\ntry:      {command} chat {path}")
    return status


if __name__ == "__main__":
    sys.exit(main())
