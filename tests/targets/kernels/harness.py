"""Compiling and calling a kernel, and the levels that kernels are tested on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import tvm
import tvm_ffi

from tests.cpu_level.emulated_level import emulated, real_levels, real_machine
from tests.targets.kernels.emulated import emulated_kernel, runs_here
from xamc.ir.tolerances import tolerance
from xamc.targets.cpu import tir_pipeline
from xamc.targets.kernels.isa import LEVELS, Isa

HOST = Isa.host()
PLAIN = LEVELS["x86-64"]
"""Tested in `test_weaker_levels.py`, with the levels that are emulated."""
LEVELS_HERE = [level for level in LEVELS.values() if set(level.cpu_flags) <= set(HOST.cpu_flags) and level != PLAIN]
"""Levels whose code this machine can run: always x86-64-v2."""
WIDE = [level for level in real_levels().values() if level.lanes == 16]
"""In their own instructions."""
SPLIT = replace(emulated(real_levels()["x86-64-v4+vnni"], real_machine()), emulate_vnni=True)
"""The kernels of 512-bit levels with VNNI, with 16 lanes and 32 registers, in code for this machine: LLVM splits the
vectors, and VNNI's instruction is emulated where the machine has it too."""


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(generator: np.random.Generator, *shape: int) -> np.ndarray:
    return generator.standard_normal(shape).astype(np.float32)


def module(function: Any, isa: Isa) -> Any:
    """The PrimFunc (or a dictionary of them by name) as a compiled module, lowered as a build lowers it."""
    source = tvm.IRModule(function) if isinstance(function, dict) else function
    return tvm.compile(source, target=tvm.target.Target(isa.target()), tir_pipeline=tir_pipeline.NAME)


_compiled: dict[tuple[int, Isa], tuple[Any, Any]] = {}


def _compiled_once(function: Any, isa: Isa) -> Any:
    """`module`, kept for tests that give one kernel other numbers."""
    key = (tvm_ffi.structural_hash(function), isa)
    known, result = _compiled.get(key, (None, None))
    if known is None or not tvm_ffi.structural_equal(known, function):
        result = module(function, isa)
        _compiled[key] = function, result
    return result


def assembly(function: Any, isa: Isa) -> str:
    compiled = module(function, isa)
    return str(getattr(compiled, "mod", compiled).inspect_source("asm"))


def kernel(function: Any, isa: Isa) -> Callable[..., None]:
    """A function of NumPy arrays that runs the compiled PrimFunc; written arrays change in place."""
    if not runs_here(isa):
        return emulated_kernel(function, isa)
    entry = _compiled_once(function, isa)[function.attrs["global_symbol"]]

    @functools.wraps(kernel)
    def call(*arrays: np.ndarray) -> None:
        tensors = []
        for array in arrays:
            tensor = tvm.runtime.empty(array.shape, array.dtype.name)
            tensor.copyfrom(array)
            tensors.append(tensor)
        entry(*tensors)
        for array, tensor in zip(arrays, tensors):
            array[...] = tensor.numpy()

    return call


def assert_close(actual: np.ndarray, expected: np.ndarray, name: str, scale: np.ndarray | None = None) -> None:
    """|actual - expected| <= tolerance(name) * scale, where scale is the largest expected element unless given."""
    assert actual.shape == expected.shape
    bound = tolerance(name) * (np.abs(expected).max() if scale is None else scale)
    error = np.abs(actual.astype(np.float64) - expected)
    assert np.isfinite(actual).all()
    assert (error <= bound).all(), f"error {error.max()}, {(error / bound).max()} times the bound"
