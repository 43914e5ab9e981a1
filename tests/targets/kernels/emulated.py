"""Kernels for processors that this machine isn't, run by emulators: results only, no speed.

Those for aarch64 run in QEMU's user-mode emulator, those with AVX-512 on a machine that Bochs emulates.
"""

from __future__ import annotations

import atexit
import functools
import os
import re
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

from tests.cpu_level.emulated_level import real_levels, real_machine
from tools.levels.machine import PROCESSOR, Machine, missing
from xamc.targets.cpu import tir_pipeline
from xamc.targets.kernels.isa import Isa

COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
DRIVER = Path(__file__).with_name("emulated_driver.c")
PROCESSORS = {"aarch64": "cortex-a72", "aarch64+dotprod": "neoverse-n1", "aarch64+i8mm": "max"}
"""QEMU's model for a level: those of the first two lack the instructions of the next, and stop at them."""
ARM_LEVELS = [level for level in real_levels().values() if level.is_arm]
needs_emulator = pytest.mark.skipif(
    not (shutil.which(COMPILER) and shutil.which(EMULATOR)),
    reason="needs Debian's qemu-user, gcc-aarch64-linux-gnu and libc6-dev-arm64-cross",
)
WIDE_LEVELS = [level for level in real_levels().values() if level.lanes == 16]
_SHORT_DISPLACEMENT = re.compile(r"\tvdpbf16ps\t(?=-?\d*\()")
"""Bochs 3.0 doesn't scale the one-byte displacement of this instruction's operand in memory by the vector's 64 bytes;
it gets one of four bytes, operation and operands stay as compiled."""
_DEBUG = re.compile(r"\t\.(file|loc)\t")
needs_machine = pytest.mark.skipif(
    not os.environ.get("XAMC_WIDE_LEVELS") or missing() is not None,
    reason=missing() or "takes long: make test-wide-levels",
)
_CODES = {"i": 0, "u": 1, "f": 2, "V": 4}


def emulated_kernel(function: Any, isa: Isa) -> Callable[..., None]:
    """A function of NumPy arrays that runs the cross-compiled PrimFunc; written arrays change in place."""
    folder = Path(tempfile.mkdtemp(prefix="xamc-emulated-"))
    program = _build(function, isa, folder)
    run = _run_qemu if isa.is_arm else _run_bochs

    def call(*arrays: np.ndarray) -> None:
        packed = struct.pack("<I", len(arrays)) + b"".join(map(_packed, arrays))
        result, at = run(isa, program, packed), 0
        for array in arrays:
            array[...] = np.frombuffer(result, array.dtype, array.size, at).reshape(array.shape)
            at += array.nbytes

    return call


def runs_here(isa: Isa) -> bool:
    """Whether this machine's processor runs the level's code; variants of a level are made to."""
    return real_levels().get(isa.name) != isa or set(isa.cpu_flags) <= set(real_machine().cpu_flags)


@functools.cache
def machine() -> Machine:
    """The one that tests share, with all instructions; booting it takes a minute of computing."""
    booted = Machine(PROCESSOR)
    atexit.register(booted.close)
    return booted


def _run_qemu(isa: Isa, program: Path, arrays: bytes) -> bytes:
    (program.parent / "arrays").write_bytes(arrays)
    files = [str(program), str(program.parent / "arrays"), str(program.parent / "result")]
    done = subprocess.run([EMULATOR, "-cpu", PROCESSORS[isa.name], *files], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"exit status {done.returncode}: {done.stderr}"
    return (program.parent / "result").read_bytes()


def _run_bochs(isa: Isa, program: Path, arrays: bytes) -> bytes:
    names = ["/tmp/kernel", "/tmp/arrays", "/tmp/result"]
    done = machine().run(names, dict(zip(names, (program, arrays))), outputs=names[2:])
    assert done.status == 0, f"exit status {done.status}: {done.printed}"
    return done.files[names[2]]


def _build(function: Any, isa: Isa, folder: Path) -> Path:
    compiled = tvm.compile(function, target=tvm.target.Target(isa.target()), tir_pipeline=tir_pipeline.NAME)
    library = getattr(compiled, "mod", compiled)
    code, program = folder / "kernel.o", folder / "kernel"
    assembly, changed = _SHORT_DISPLACEMENT.subn(r"\t{disp32} vdpbf16ps\t", str(library.inspect_source("asm")))
    if changed:
        code = folder / "kernel.s"
        # LLVM is ahead of Debian's assembler in what the directives of debug information may say.
        code.write_text("".join(line for line in assembly.splitlines(True) if not _DEBUG.match(line)))
    else:
        library.write_to_file(str(code), "o")
    symbol = f"-DKERNEL=__tvm_ffi_{function.attrs['global_symbol']}"
    compiler = COMPILER if isa.is_arm else "gcc"
    command = [compiler, "-O1", "-static", "-pthread", symbol, str(DRIVER), str(code), "-o", str(program), "-lm"]
    subprocess.run(command, check=True, capture_output=True)
    return program


def _packed(array: np.ndarray) -> bytes:
    code = _CODES[array.dtype.kind]
    head = struct.pack("<BBHI", code, array.dtype.itemsize * 8, 1, array.ndim)
    return head + struct.pack(f"<{array.ndim}q", *array.shape) + np.ascontiguousarray(array).tobytes()
