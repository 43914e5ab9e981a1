"""What `xamc doctor` looks at: everything on a machine that has made a compile or a run fail before."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xamc.artifact.staging import free_bytes
from xamc.errors import UnsupportedError
from xamc.jobs.cache import default_cache_folder
from xamc.jobs.memory import available_bytes
from xamc.jobs.processor import cpu_features
from xamc.jobs.progress import size
from xamc.targets.kernels.isa import Isa

State = Literal["ok", "warn", "fail"]

#: Distribution → (version, what happens with another one).
PINS = {
    "apache-tvm": ("0.27.0.post1", "its ABI and Python API change with every release"),
    "apache-tvm-ffi": ("0.1.14.post1", "0.1.15.post2 crashes the code generator (every Schedule.tensorize segfaults)"),
}
#: Distribution → (first version, first version that is too new or None, why).
RANGES = {
    "torch": ((2, 13), (2, 14), "the exporter was tested with 2.13"),
    "transformers": ((5, 15), (5, 18), "the export patches were tested with 5.15 to 5.17"),
    "onnx": ((1, 21), None, "below 1.21 external data can escape its folder"),
    "onnxruntime": ((1, 31), (1, 32), "golden numbers are compared with 1.31"),
    "jinja2": ((3, 1, 6), None, "below 3.1.6 a chat template can leave the sandbox"),
}
_FEATURES = ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "asimddp", "i8mm")
_LOW_MEMORY = 4 * 2**30
_LOW_DISK = 10 * 10**9


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `remedy` says what to do when it is not ok."""

    state: State
    subject: str
    found: str
    remedy: str = ""


def examine() -> tuple[Finding, ...]:
    """Look at everything; nothing is changed."""
    return (
        _python(),
        *_packages(),
        _torch_build(),
        _c_compiler(),
        _cpu(),
        _affinity(),
        _memory(),
        _cache(),
    )


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version before any suffix: ``2.13.0+cpu`` is (2, 13, 0)."""
    numbers = []
    for part in version.partition("+")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def _installed(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _python() -> Finding:
    version = platform.python_version()
    state: State = "ok" if sys.version_info >= (3, 11) else "fail"
    return Finding(state, "Python", version, "" if state == "ok" else "use Python 3.11 or later")


def _packages() -> Iterator[Finding]:
    for name, (wanted, why) in PINS.items():
        found = _installed(name)
        if found == wanted:
            yield Finding("ok", name, found)
        else:
            yield Finding(
                "fail", name, f"{found or 'missing'}, wanted {wanted}: {why}", f"pip install {name}=={wanted}"
            )
    for name, (first, end, why) in RANGES.items():
        found = _installed(name)
        if found is None:
            yield Finding("warn", name, "missing", "pip install 'xamc[compiler]' to compile models")
        elif release(found) < first or (end is not None and release(found) >= end):
            yield Finding("warn", name, f"{found}: {why}", "make venv installs the tested versions")
        else:
            yield Finding("ok", name, found)


def _torch_build() -> Finding:
    cuda = sorted(
        {d.metadata["Name"] for d in importlib.metadata.distributions() if d.metadata["Name"].startswith("nvidia-")}
    )
    if cuda:
        remedy = "xamc never uses it: make venv installs the CPU build"
        return Finding("warn", "torch build", f"CUDA ({len(cuda)} nvidia packages, several GB)", remedy)
    return Finding("ok", "torch build", "no CUDA packages")


def _c_compiler() -> Finding:
    for name in ("gcc", "cc", "clang"):
        path = shutil.which(name)
        if path is None:
            continue
        done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout:
            return Finding("ok", "C compiler", done.stdout.splitlines()[0])
    remedy = "TVM links its shared library with it; on Debian: apt install gcc"
    return Finding("fail", "C compiler", "none found", remedy)


def _cpu() -> Finding:
    features = cpu_features()
    lines = (line.partition(":") for line in _lines("/proc/cpuinfo"))
    model = next((value.strip() for key, _, value in lines if key.strip() == "model name"), platform.machine())
    have = " ".join(feature for feature in _FEATURES if feature in features) or "no vector extensions"
    try:
        level = Isa.best(features)
    except UnsupportedError as error:
        return Finding("fail", "CPU", f"{model}: {have}", error.fix)
    text = f"{model}: {level.name} ({have})"
    if not level.is_arm and "avx2" not in features:
        return Finding("warn", "CPU", text, "without AVX2 models run, but slowly")
    return Finding("ok", "CPU", text)


def _affinity() -> Finding:
    usable, total = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    if usable < total:
        return Finding("ok", "CPUs", f"{usable} of {total} (this process's affinity)")
    return Finding("ok", "CPUs", str(total))


def _memory() -> Finding:
    free = available_bytes()
    if free < _LOW_MEMORY:
        remedy = "a compile takes up to 3 GiB besides the machine's other work; `xamc plan` tells for a spec"
        return Finding("warn", "memory", f"{size(free)} available", remedy)
    return Finding("ok", "memory", f"{size(free)} available")


def _cache() -> Finding:
    folder = default_cache_folder()
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = free_bytes(folder)
    text = f"{folder}, {size(free)} free"
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Finding("warn", "stage cache", f"{text}, not writable", "set XAMC_CACHE to a folder you may write to")
    if free < _LOW_DISK:
        return Finding("warn", "stage cache", text, "xamc cache prune --max-size 0, or set XAMC_CACHE to a larger disk")
    return Finding("ok", "stage cache", text)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
