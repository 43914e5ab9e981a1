"""Runs a Relax program in this process, with the NumPy definitions standing in for dialect operators.

For proofs on small models only: it reads every weight whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from xamc.compiler.lowering.interpreter import register_interpreter
from xamc.compiler.lowering.relax_program import RelaxProgram
from xamc.compiler.weights.lazy import numpy_dtype

# proofs must not depend on the host's widest vectors
PROOF_TARGET = {"kind": "llvm", "mcpu": "x86-64-v2", "num-cores": 1}


def evaluate(
    program: RelaxProgram, calls: Sequence[Mapping[str, NDArray[np.generic]]]
) -> list[list[NDArray[np.generic]]]:
    """The outputs of `main` for each call's feeds (data inputs and caches by name); caches given are not mutated."""
    register_interpreter()
    executable = tvm.compile(program.module, target=tvm.target.Target(PROOF_TARGET))
    machine = relax.VirtualMachine(executable, tvm.cpu())
    params = list(program.module["main"].params)
    whole = {name: tensor.read_rows(0, tensor.shape[0]) for name, tensor in program.weights.items()}
    weights = {p.name: _tensor(whole[p.name], p) for p in params if p.name in whole}
    results = []
    for feeds in calls:
        arguments = [weights[p.name] if p.name in weights else _tensor(np.asarray(feeds[p.name]), p) for p in params]
        results.append([output.numpy() for output in machine["main"](*arguments)])
    return results


def _tensor(array: NDArray[np.generic], param: Any) -> Any:
    return tvm.runtime.tensor(np.array(array).astype(numpy_dtype(str(param.ty.dtype))))
