"""Checks a hand-off's ONNX files with the releases that VACC's vendor pins, in an environment of their own.

    python tools/vendor_env.py HANDOFF [--prompt TEXT] [--environment .vendor-env] [--python python3.8]

The environment is made once, with a Python for which all pinned releases have wheels (3.8 to 3.10). In it the
hand-off's own check_onnx.py loads, checks, simplifies and runs every graph, and run_onnx.py continues a text.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

# What the vendor's documents pin; numpy and tokenizers are the newest that fit beside them.
PINS = (
    "onnx==1.14.0",
    "onnxsim==0.4.35",
    "onnxruntime==1.13.1",
    "protobuf==3.20.3",
    "numpy<1.24",
    "tokenizers>=0.14,<0.15",
)
# onnxruntime 1.13.1 has no wheel for 3.11; 3.8 is what the vendor's tool runs on.
VERSIONS = ("3.8", "3.9", "3.10")
_ROOT = Path(__file__).resolve().parents[1]
_VERSION_CODE = "import sys; print('%d.%d' % sys.version_info[:2])"


def interpreters() -> Iterator[str]:
    """Commands that may be a suitable Python, the vendor's version first."""
    for version in VERSIONS:
        yield f"python{version}"
        for root in filter(None, (os.environ.get("PYENV_ROOT"), str(Path.home() / ".pyenv"))):
            yield from (str(path) for path in sorted(Path(root, "versions").glob(f"{version}.*/bin/python")))


def version_of(command: str) -> str | None:
    """`3.8` for a command that runs; None for one that doesn't."""
    if shutil.which(command) is None:
        return None
    result = subprocess.run([command, "-c", _VERSION_CODE], capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else None


def find_python(wanted: str | None) -> str:
    """A Python that has wheels for all pins.

    Raises:
        SystemExit: there is none; says which versions would do.
    """
    candidates = [wanted] if wanted else list(interpreters())
    for command in candidates:
        if version_of(command) in VERSIONS:
            return command
    raise SystemExit(
        f"no Python {', '.join(VERSIONS[:-1])} or {VERSIONS[-1]} found (tried {', '.join(candidates)}); onnxruntime "
        "1.13.1 has wheels for no newer one. Install one and give it with --python"
    )


def make_environment(folder: Path, python: str | None) -> Path:
    """The environment's Python; the environment is made unless it is there with these pins."""
    stamp, interpreter = folder / "pins.json", folder / "bin" / "python"
    if stamp.is_file() and json.loads(stamp.read_text()) == list(PINS) and interpreter.exists():
        return interpreter
    command = find_python(python)
    print(f"{folder}: Python {version_of(command)}, {', '.join(PINS)}", file=sys.stderr)
    subprocess.run([command, "-m", "venv", "--clear", str(folder)], check=True)
    subprocess.run([str(interpreter), "-m", "pip", "install", "-q", "--no-deps", PINS[-1]], check=True)
    subprocess.run([str(interpreter), "-m", "pip", "install", "-q", "--only-binary", ":all:", *PINS[:-1]], check=True)
    stamp.write_text(json.dumps(PINS))
    return interpreter


def main(arguments: Sequence[str]) -> int:
    """Entry point; returns the exit status of the first check that failed, or 0."""
    parser = argparse.ArgumentParser(description="Check a hand-off's ONNX files with the vendor's pinned releases.")
    parser.add_argument("handoff", type=Path, help="the folder that xamc export-vamc wrote")
    parser.add_argument("--prompt", help="also let run_onnx.py continue this text")
    parser.add_argument("--max-new-tokens", type=int, default=40)
    parser.add_argument("--environment", type=Path, default=_ROOT / ".vendor-env")
    parser.add_argument("--python", help="a Python 3.8 to 3.10; default: the first that is found")
    options = parser.parse_args(arguments)
    graphs = options.handoff / "onnx"
    if not (graphs / "check_onnx.py").is_file():
        raise SystemExit(f"{options.handoff} holds no onnx/check_onnx.py: it is no hand-off with ONNX files")
    interpreter = str(make_environment(options.environment, options.python))
    commands = [[str(graphs / "check_onnx.py")]]
    if options.prompt is not None:
        limit = str(options.max_new_tokens)
        commands.append([str(graphs / "run_onnx.py"), "--prompt", options.prompt, "--max-new-tokens", limit])
    for command in commands:
        status = subprocess.run([interpreter, "-I", *command], check=False).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
