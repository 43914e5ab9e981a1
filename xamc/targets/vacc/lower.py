"""Lowers a rank's static graph to Relax: one kernel per operator, float16 between operators.

Each operator reads float16, computes in float32 and rounds its result once, whatever it is made of; operators that
only move elements become views (`views.py`) and round nothing. Kernels are shared by all places of equal shapes, so a
deep model has no more of them than a shallow one.

The generic lowering (`xamc.passes.lowering`) is for the in-place form with symbolic shapes, and computes in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import onnx.reference
import onnx_ir as ir
import tvm
from numpy.typing import NDArray
from tvm import relax
from tvm.relax import op

from xamc.errors import UnsupportedError
from xamc.ir.names import WEIGHT_ROLE
from xamc.ir.onnx_graph import constant_array, static_dims
from xamc.ir.program import Program
from xamc.targets.kernels.isa import Isa
from xamc.targets.vacc.lowering import DTYPES, FOLDED_ELEMENTS, Lowering, Weight, place, refused
from xamc.targets.vacc.operators import HANDLERS
from xamc.targets.vacc.views import View
from xamc.targets.vacc.weights import PlannedWeight, WeightPlan, plan_weights


def lower_static(program: Program, isa: Isa) -> tuple[tvm.IRModule, WeightPlan]:
    """A module with the function `main` and the kernels that it calls.

    `main` takes the data inputs, the past as one tuple and the weights as one tuple, each buffer as the plan says,
    and returns (logits, (present...)). Collectives are calls of `xamc.vacc.all_reduce` and `xamc.vacc.all_gather`.

    Raises:
        UnsupportedError: E1421 listing the operators that have no lowering, or a use of one that is not covered.
    """
    graph = program.model.graph
    missing: dict[str, str] = {}
    for node in graph:
        if constant_array(node.outputs[0]) is None and (node.domain, node.op_type) not in HANDLERS:
            missing.setdefault(f"{node.domain or 'ai.onnx'}::{node.op_type}", place(node))
    if missing:
        raise UnsupportedError(
            "E1421",
            f"the VACC simulator has no lowering for {', '.join(missing)}",
            fix="compile for another target (backend.type: tvm_cpu), or report the model",
            details=tuple(f"{name} at {place}" for name, place in missing.items()),
        )
    plan = plan_weights(program)
    builder = relax.BlockBuilder()
    state = Lowering(builder, plan, isa)
    data = [value for value in graph.inputs if WEIGHT_ROLE not in value.metadata_props]
    pasts = [value for value in data if str(value.name).startswith("past_")]
    inputs = [value for value in data if value not in pasts]
    params = [relax.Var(str(value.name), _type(value)) for value in inputs]
    past = relax.Var("past", relax.TupleType([_type(value) for value in pasts]))
    weights = relax.Var("weights", relax.TupleType([relax.TensorType(list(b.shape), b.dtype) for b in plan.buffers]))
    with builder.function("main", [*params, past, weights]):
        with builder.dataflow():
            for value, param in zip(inputs, params, strict=True):
                state.values[value] = state.from_matrix(param, DTYPES[value.dtype], static_dims(value) or ())
            for index, value in enumerate(pasts):
                item = builder.emit(relax.TupleGetItem(past, index), str(value.name))
                state.values[value] = state.from_matrix(item, DTYPES[value.dtype], static_dims(value) or ())
            for index, buffer in enumerate(plan.buffers):
                state.packed.append(builder.emit(relax.TupleGetItem(weights, index), buffer.name))
            for value in graph.inputs:
                if WEIGHT_ROLE in value.metadata_props:
                    state.values[value] = Weight(str(value.name))
            for node in graph:
                _lower_node(state, node, HANDLERS)
            results = [_result(state, value) for value in graph.outputs]
            output = builder.emit_output(relax.Tuple([results[0], relax.Tuple(results[1:])]))
        builder.emit_func_output(output)
    return builder.finalize(), plan


def _lower_node(state: Lowering, node: ir.Node, handlers: Any) -> None:
    array = constant_array(node.outputs[0])
    if array is not None:
        state.values[node.outputs[0]] = array
        return
    operands = [state.values[value] for value in node.inputs if value is not None]
    shape = static_dims(node.outputs[0])
    if shape is None:
        raise refused(node, "its shape is not static")
    arrays = [operand for operand in operands if not isinstance(operand, (View, Weight))]
    if node.domain == "" and len(arrays) == len(operands) and prod(shape) <= FOLDED_ELEMENTS:
        state.values[node.outputs[0]] = _folded(node, arrays)
        return
    handlers[node.domain, node.op_type](state, node)


def _folded(node: ir.Node, operands: Sequence[NDArray[np.generic]]) -> NDArray[np.generic]:
    """The value of an operator on constants, by onnx's own definition."""
    names = [str(value.name) for value in node.inputs if value is not None]
    evaluator = onnx.reference.ReferenceEvaluator(ir.to_proto(node))
    (result,) = evaluator.run(None, dict(zip(names, operands, strict=True)))
    return np.asarray(result)


def _result(state: Lowering, value: ir.Value) -> Any:
    operand = state.values[value]
    assert isinstance(operand, View) and value.dtype is not None
    whole = state.contiguous(operand)
    return state.builder.emit(op.reshape(whole.var, list(static_dims(value) or ())), str(value.name))


def _type(value: ir.Value) -> Any:
    shape = static_dims(value)
    assert shape is not None and value.dtype is not None
    return relax.TensorType(list(shape), DTYPES[value.dtype])


__all__ = ["Lowering", "PlannedWeight", "View", "Weight", "lower_static", "refused"]
