"""Lowers a `Program` (ONNX) to Relax: one handler per operator, keyed by (domain, name); nothing is read.

Only values that the outputs need are lowered: a mask or a shape that an operator's handler understands from the
graph (a sliding window, the length of a padded cache) is never computed.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from tvm import relax, tirx

from xamc.errors import UnsupportedError
from xamc.ir.names import MODULE_KEY
from xamc.ir.program import Program
from xamc.ir.relax_program import RelaxProgram
from xamc.passes.lowering.operators import HANDLERS, Lowering, data_operands

_DTYPES = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.BFLOAT16: "bfloat16",
    ir.DataType.INT64: "int64",
    ir.DataType.INT32: "int32",
    ir.DataType.INT8: "int8",
    ir.DataType.UINT8: "uint8",
    # four-bit codes travel one per byte until they are packed
    ir.DataType.UINT4: "uint8",
    ir.DataType.INT4: "int8",
    ir.DataType.BOOL: "bool",
}


def check_supported(program: Program) -> None:
    """Raises E1401 listing every operator that has no handler, before any work starts."""
    offenders: dict[str, str] = {}
    for node in program.model.graph:
        if (node.domain, node.op_type) not in HANDLERS:
            offenders.setdefault(f"{node.domain or 'ai.onnx'}::{node.op_type}", _place(node))
    if offenders:
        raise UnsupportedError(
            "E1401",
            f"no lowering for {', '.join(offenders)}",
            fix="add a handler in xamc/passes/lowering/operators.py, or compile for backend.type: reference",
            details=tuple(f"{op} at {place}" for op, place in offenders.items()),
        )


def lower(program: Program) -> RelaxProgram:
    """Lowers `program`, which must be in the in-place cache form, to a `RelaxProgram`.

    Raises:
        UnsupportedError: E1401 for operators without a handler, E1402 for uses of one that are not covered.
    """
    check_supported(program)
    graph = program.model.graph
    needed = _needed_nodes(graph)
    symbols: dict[str, Any] = {}
    params = [_parameter(value, symbols) for value in graph.inputs]
    builder = relax.BlockBuilder()
    state = Lowering(builder, dict(zip(graph.inputs, params, strict=True)))
    with builder.function("main", params):
        with builder.dataflow():
            for node in graph:
                if node in needed:
                    HANDLERS[node.domain, node.op_type](state, node)
            outputs = [state.values[value] for value in graph.outputs]
            result = builder.emit_output(relax.Tuple(outputs))
        builder.emit_func_output(result)
    return RelaxProgram(builder.finalize(), dict(program.weights), program.config)


def _parameter(value: ir.Value, symbols: dict[str, Any]) -> Any:
    assert value.shape is not None and value.dtype is not None and value.name is not None
    shape = []
    for dim in value.shape:
        if isinstance(dim, int):
            shape.append(tirx.IntImm("int64", dim))
        else:
            name = str(dim.value)
            shape.append(symbols.setdefault(name, tirx.Var(name, "int64")))
    return relax.Var(value.name, relax.TensorType(shape, _DTYPES[value.dtype]))


def _needed_nodes(graph: ir.Graph) -> set[ir.Node]:
    needed: set[ir.Node] = set()
    stack = [value.producer() for value in graph.outputs]
    while stack:
        node = stack.pop()
        if node is None or node in needed:
            continue
        needed.add(node)
        stack.extend(value.producer() for value in data_operands(node))
    return needed


def _place(node: ir.Node) -> str:
    return node.metadata_props.get(MODULE_KEY) or f"node {node.name}"


__all__ = ["check_supported", "lower"]
