"""TVM's small runtime library, loaded without TVM's Python package and without torch.

`import tvm` costs 385 MiB and seconds; `tvm_ffi` with `libtvm_runtime.so` costs 45 MiB. tvm_ffi imports torch when it
is installed (a workaround for one Windows build), which would cost 180 MiB more; torch is hidden during that import.
So is ml_dtypes, which is loaded for names of NumPy types that no artifact's function takes.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from xamc.errors import ToolchainError
from xamc.jobs.hidden_imports import hidden

_CPU_DEVICE = (1, 0)  # kDLCPU, first device
_POOLED = 2  # AllocatorType::kPooled

# tvm_ffi turns a C++ exception into the Python error of the same kind; these are the kinds that TVM throws.
TVM_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, OSError)

# path → the file, by device and inode, that was first loaded from it; it stays open, so its number is not given again
_loaded: dict[Path, tuple[int, int]] = {}
_loading = threading.Lock()

_REINSTALL = "reinstall xamc with its constraints.txt; `xamc doctor` shows which package is missing"


@functools.cache
def tvm_ffi() -> Any:
    """The `tvm_ffi` module, with `libtvm_runtime.so` loaded into the process.

    Raises:
        ToolchainError: E1609, the library or the package is missing or does not load.
    """
    try:
        with hidden("torch", "ml_dtypes"):
            module = importlib.import_module("tvm_ffi")
        ctypes.CDLL(str(runtime_library()), mode=ctypes.RTLD_GLOBAL)
    except (ImportError, OSError) as error:
        raise ToolchainError("E1609", f"TVM's runtime library can't be loaded: {error}", _REINSTALL) from error
    return module


def load_functions(path: Path, names: Iterable[str]) -> dict[str, Any]:
    """Compiled functions of a library by name, in a virtual machine of their own on the CPU.

    Args:
        path: the library that `xamc compile` made.
        names: the functions wanted.

    Raises:
        ToolchainError: E1609, TVM's runtime refuses the library, or it lacks a function.
    """
    try:
        machine = _library(path)["vm_load_executable"]()
        machine["vm_initialization"](*_CPU_DEVICE, _POOLED)
        return {name: machine[name] for name in names}
    except TVM_ERRORS as error:
        raise ToolchainError(
            "E1609",
            f"{path} can't be loaded by TVM's runtime",
            "compile the model again with the packages installed here; `xamc doctor` compares them with the pins",
            details=tuple(str(error).strip().splitlines()[-3:]),
        ) from error


def _library(path: Path) -> Any:
    """The library that lies at `path` now.

    The dynamic linker knows a library by the path that it was loaded from: one that was compiled again to the same
    place since would be the old one. That one gets another name for as long as it takes to load it.
    """
    ffi, place = tvm_ffi(), path.absolute()
    status = place.stat()
    file = (status.st_dev, status.st_ino)
    with _loading:
        if _loaded.setdefault(place, file) == file:
            return ffi.load_module(str(place))
        with tempfile.TemporaryDirectory(prefix="xamc-library-") as folder:
            alias = Path(folder) / place.name
            alias.symlink_to(place)
            return ffi.load_module(str(alias))


def load_kernel(path: Path, name: str) -> Any:
    """A compiled kernel of a library, to be called without the virtual machine.

    Raises:
        ToolchainError: E1609, TVM's runtime refuses the library, or it lacks the kernel.
    """
    try:
        return _library(path).get_function(name, query_imports=True)
    except TVM_ERRORS as error:
        raise ToolchainError(
            "E1609",
            f"{path} has no kernel {name} that TVM's runtime can load",
            "compile the model again with the packages installed here; `xamc doctor` compares them with the pins",
            details=tuple(str(error).strip().splitlines()[-3:]),
        ) from error


def runtime_library() -> Path:
    """The path of `libtvm_runtime.so` in the installed TVM wheel; TVM itself is not imported.

    Raises:
        ToolchainError: E1609, TVM is not installed or has no such file.
    """
    spec = importlib.util.find_spec("tvm")
    for folder in spec.submodule_search_locations or [] if spec else []:
        path = Path(folder) / "lib" / "libtvm_runtime.so"
        if path.is_file():
            return path
    raise ToolchainError("E1609", "libtvm_runtime.so of the package apache-tvm was not found", _REINSTALL)
