"""What a result depends on besides our code: the CPU, the packages, the system."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

from xamc.jobs.processor import cpu_features

PACKAGES = ("xamc", "apache-tvm", "apache-tvm-ffi", "torch", "transformers", "numpy", "onnx")
# x86-64 levels by the features that each adds, in Linux's names; enough to tell the levels apart.
_LEVELS = (
    ("x86-64-v4", {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
    ("x86-64-v3", {"avx2", "fma", "f16c", "bmi2"}),
    ("x86-64-v2", {"sse4_2", "ssse3", "popcnt"}),
)
_EXTRAS = ("avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile")


def describe() -> dict[str, str]:
    """CPU, feature level, CPUs of this process, memory, system and package versions, as text by name."""
    features = cpu_features()
    level = next((name for name, needed in _LEVELS if needed <= features), platform.machine())
    extras = [name for name in _EXTRAS if name in features]
    return {
        "cpu": _line("/proc/cpuinfo", "model name") or platform.processor(),
        "level": " + ".join([level, *extras]),
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
