"""What a result depends on besides our code: the CPU, the packages, the system."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

from xamc.jobs.processor import cpu_features
from xamc.targets.kernels.isa import Isa

PACKAGES = ("xamc", "apache-tvm", "apache-tvm-ffi", "torch", "transformers", "numpy", "onnx")
# instructions that no level has yet
_BEYOND = ("avx_vnni", "amx_tile")


def describe() -> dict[str, str]:
    """CPU, feature level, CPUs of this process, memory, system and package versions, as text by name."""
    beyond = [name for name in _BEYOND if name in cpu_features()]
    return {
        "cpu": _line("/proc/cpuinfo", "model name") or platform.processor(),
        "level": Isa.host().name,
        **({"beyond the level": " ".join(beyond)} if beyond else {}),
        "cpus": str(len(os.sched_getaffinity(0))),
        "memory": _line("/proc/meminfo", "MemTotal"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: version for name in PACKAGES if (version := _version(name))},
    }


def _line(file: str, key: str) -> str:
    for line in Path(file).read_text(encoding="utf-8").splitlines():
        if line.startswith(key):
            return line.partition(":")[2].strip()
    return ""


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
