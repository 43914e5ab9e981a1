"""Kernels cross-compiled for aarch64 and run by QEMU's user-mode emulator: results only, no speed."""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm

from xamc.targets.cpu import tir_pipeline
from xamc.targets.kernels.isa import LEVELS, Isa

COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
DRIVER = Path(__file__).with_name("emulated_driver.c")
PROCESSORS = {"aarch64": "cortex-a72", "aarch64+dotprod": "neoverse-n1", "aarch64+i8mm": "max"}
"""QEMU's model for a level: those of the first two lack the instructions of the next, and stop at them."""
ARM_LEVELS = [level for level in LEVELS.values() if level.is_arm]
needs_emulator = pytest.mark.skipif(
    not (shutil.which(COMPILER) and shutil.which(EMULATOR)),
    reason="needs Debian's qemu-user, gcc-aarch64-linux-gnu and libc6-dev-arm64-cross",
)
_CODES = {"i": 0, "u": 1, "f": 2, "V": 4}


def emulated_kernel(function: Any, isa: Isa) -> Callable[..., None]:
    """A function of NumPy arrays that runs the cross-compiled PrimFunc; written arrays change in place."""
    folder = Path(tempfile.mkdtemp(prefix="xamc-emulated-"))
    program = _build(function, isa, folder)

    def call(*arrays: np.ndarray) -> None:
        (folder / "arrays").write_bytes(struct.pack("<I", len(arrays)) + b"".join(map(_packed, arrays)))
        command = [EMULATOR, "-cpu", PROCESSORS[isa.name], str(program), str(folder / "arrays"), str(folder / "result")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"exit status {done.returncode}: {done.stderr}"
        result, at = (folder / "result").read_bytes(), 0
        for array in arrays:
            array[...] = np.frombuffer(result, array.dtype, array.size, at).reshape(array.shape)
            at += array.nbytes

    return call


def _build(function: Any, isa: Isa, folder: Path) -> Path:
    compiled = tvm.compile(function, target=tvm.target.Target(isa.target()), tir_pipeline=tir_pipeline.NAME)
    code, program = folder / "kernel.o", folder / "kernel"
    getattr(compiled, "mod", compiled).write_to_file(str(code), "o")
    symbol = f"-DKERNEL=__tvm_ffi_{function.attrs['global_symbol']}"
    command = [COMPILER, "-O1", "-static", "-pthread", symbol, str(DRIVER), str(code), "-o", str(program), "-lm"]
    subprocess.run(command, check=True, capture_output=True)
    return program


def _packed(array: np.ndarray) -> bytes:
    code = _CODES[array.dtype.kind]
    head = struct.pack("<BBHI", code, array.dtype.itemsize * 8, 1, array.ndim)
    return head + struct.pack(f"<{array.ndim}q", *array.shape) + np.ascontiguousarray(array).tobytes()
