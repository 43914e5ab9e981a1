"""Runs a Relax program in this process, with the NumPy definitions standing in for dialect operators.

For proofs on small models only: it reads every weight whole.
"""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from xamc.compiler.lowering.interpreter import register_interpreter
from xamc.compiler.lowering.relax_program import RelaxProgram

# proofs must not depend on the host's widest vectors
PROOF_TARGET = {"kind": "llvm", "mcpu": "x86-64-v2", "num-cores": 1}


def evaluate(program: RelaxProgram, feeds: Mapping[str, NDArray[np.generic]]) -> list[NDArray[np.generic]]:
    """The outputs of `main` for `feeds` (data inputs and caches by name); caches given are not mutated."""
    register_interpreter()
    executable = tvm.compile(program.module, target=tvm.target.Target(PROOF_TARGET))
    machine = relax.VirtualMachine(executable, tvm.cpu())
    arguments = []
    for param in program.module["main"].params:
        name, dtype = param.name, str(param.ty.dtype)
        if name in program.weights:
            tensor = program.weights[name]
            array = tensor.read_rows(0, tensor.shape[0])
        else:
            array = np.asarray(feeds[name])
        if array.dtype in (ml_dtypes.uint4, ml_dtypes.int4):
            array = array.astype(dtype)
        arguments.append(tvm.runtime.tensor(np.array(array, dtype=_numpy(dtype))))
    results = machine["main"](*arguments)
    return [result.numpy() for result in results]


def _numpy(dtype: str) -> np.dtype[np.generic]:
    return np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
