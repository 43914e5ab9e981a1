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

from xamc.ir.relax_program import RelaxProgram
from xamc.ir.weights.lazy import numpy_dtype
from xamc.passes.lowering.interpreter import Definition, register_interpreter, replaced

# proofs must not depend on the host's widest vectors
PROOF_TARGET = {"kind": "llvm", "mcpu": "x86-64-v2", "num-cores": 1}

Outputs = list[list[NDArray[np.generic]]]


class Evaluation:
    """A program that is run several times, perhaps with other definitions of its operators."""

    def __init__(self, program: RelaxProgram) -> None:
        """Compiles `program` as it is now; later passes on it don't matter."""
        register_interpreter()
        self._machine = relax.VirtualMachine(
            tvm.compile(program.module, target=tvm.target.Target(PROOF_TARGET)), tvm.cpu()
        )
        self._params = list(program.module["main"].params)
        whole = {name: tensor.read_rows(0, tensor.shape[0]) for name, tensor in program.weights.items()}
        self._weights = {p.name: _tensor(whole[p.name], p) for p in self._params if p.name in whole}

    def run(
        self,
        calls: Sequence[Mapping[str, NDArray[np.generic]]],
        definitions: Mapping[str, Definition] | None = None,
    ) -> Outputs:
        """The outputs of `main` for each call's feeds (data inputs and caches by name); caches given are not mutated.

        Args:
            calls: the feeds.
            definitions: of operators by name, in place of the interpreter's.
        """
        results = []
        with replaced(definitions or {}):
            for feeds in calls:
                arguments = [
                    self._weights[p.name] if p.name in self._weights else _tensor(np.asarray(feeds[p.name]), p)
                    for p in self._params
                ]
                results.append([output.numpy() for output in self._machine["main"](*arguments)])
        return results


def evaluate(program: RelaxProgram, calls: Sequence[Mapping[str, NDArray[np.generic]]]) -> Outputs:
    """The outputs of `main` for each call's feeds, by the interpreter's definitions; see `Evaluation.run`."""
    return Evaluation(program).run(calls)


def _tensor(array: NDArray[np.generic], param: Any) -> Any:
    return tvm.runtime.tensor(np.array(array).astype(numpy_dtype(str(param.ty.dtype))))
