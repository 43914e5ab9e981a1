"""Whether every float16 value of a twin's graph stays finite.

ONNX Runtime keeps float32 between neighbouring float16 operators, so that an overflow in the middle need not reach the
outputs that a proof compares. As an output of its own each value is what the device would have: rounded to float16.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from xamc.errors import UnsupportedError
from xamc.ir.names import MODULE_KEY
from xamc.ir.program import Program
from xamc.verify.oracle import oracle_of
from xamc.verify.scenario import Case


def require_finite(program: Program, cases: Sequence[Case]) -> None:
    """Runs a float16 twin, and looks at every value; a graph without float16 values passes unrun.

    Args:
        program: the twin after its passes.
        cases: calls in the form of its graph.

    Raises:
        UnsupportedError: E1315 naming the first operator whose result is infinite, with its module.
    """
    values = {
        str(value.name): node
        for node in program.model.graph
        for value in node.outputs
        if value.dtype == ir.DataType.FLOAT16 and node.op_type != "Constant"
    }
    if not values:
        return
    oracle = oracle_of(program, list(values))
    for case in cases:
        results = oracle.run(case.feeds)
        for name, node in values.items():
            if np.isinf(results[name]).any():
                raise UnsupportedError(
                    "E1315",
                    f"{node.op_type} {name!r} in {node.metadata_props.get(MODULE_KEY) or 'the model'} goes beyond "
                    f"float16's largest value, 65504, on the twin ({case.name})",
                    fix="compile it for tvm_cpu, which computes in float32; report a model whose own values are small",
                )
