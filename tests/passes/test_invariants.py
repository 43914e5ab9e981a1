"""Each rule of the IR, broken once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from tests import twins
from xamc.errors import InternalError
from xamc.ir.names import ALIAS_KEY, WEIGHT_ROLE
from xamc.ir.onnx_graph import new_node
from xamc.ir.program import Program
from xamc.ir.weights.lazy import ArrayTensor
from xamc.passes.graph.cleanup import Cleanup
from xamc.passes.graph.kv_cache import KvCache
from xamc.passes.graph.swiglu import SwiGlu
from xamc.passes.invariants import check_invariants


def _value(program: Program, name: str) -> ir.Value:
    graph = program.model.graph
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    return next(value for value in values if value.name == name)


def _unknown_operator(program: Program) -> None:
    twins.nodes(program, "SwiGLU")[0].op_type = "GeGLU"


def _missing_function(program: Program) -> None:
    program.model.functions.clear()


def _order(program: Program) -> None:
    graph = program.model.graph
    first = next(iter(graph))
    graph.remove(first)
    graph.append(first)


def _lost_type(program: Program) -> None:
    _value(program, "embedding").type = None


def _same_name(program: Program) -> None:
    _value(program, "embedding").name = "input_ids"


def _wrong_static_shape(program: Program) -> None:
    _value(program, "embedding").shape = ir.Shape(["batch", "seq", 95])


def _opset(program: Program) -> None:
    program.model.graph.opset_imports[""] = 23


def _initializer(program: Program) -> None:
    weight = _value(program, "model.norm.weight")
    weight.const_value = ir.tensor(np.ones(96, np.float32), name="model.norm.weight")
    program.model.graph.register_initializer(weight)


def _weight_gone(program: Program) -> None:
    del program.weights["model.norm.weight"]


def _weight_too_many(program: Program) -> None:
    program.weights["model.extra.weight"] = ArrayTensor(np.zeros(2, np.float32))


def _weight_shape(program: Program) -> None:
    program.weights["model.norm.weight"] = ArrayTensor(np.ones(95, np.float32))


def _weight_dtype(program: Program) -> None:
    program.weights["model.norm.weight"] = ArrayTensor(np.ones(96, np.float16))


def _weight_mark(program: Program) -> None:
    _value(program, "model.norm.weight").metadata_props[WEIGHT_ROLE] = "float16"


def _alias(program: Program) -> None:
    _value(program, "updated_key.1").metadata_props[ALIAS_KEY] = "cache_value.1"


def _cache_read_elsewhere(program: Program) -> None:
    attention = twins.nodes(program, "Attention")[0]
    attention.replace_input_with(1, _value(program, "cache_key.0"))


def _output_gone(program: Program) -> None:
    del program.model.graph.outputs[-1]


def _stray_input(program: Program) -> None:
    program.model.graph.inputs.append(ir.val("temperature", dtype=ir.DataType.FLOAT, shape=[]))


def _type_clash(program: Program) -> None:
    node = new_node("Add", [_value(program, "input_ids"), _value(program, "embedding")], ["clash"])
    node.outputs[0].type, node.outputs[0].shape = _value(program, "embedding").type, ir.Shape(["batch", "seq", 96])
    program.model.graph.append(node)


BREAKS: list[tuple[Callable[[Program], None], str]] = [
    (_unknown_operator, "unknown operator xamc::GeGLU at 'mul_102'"),
    (_missing_function, "calls a function that the model does not define"),
    (_order, "which is not defined before it"),
    (_lost_type, "Gather 'embedding' has no type or no shape"),
    (_same_name, "2 values are called 'input_ids'"),
    (_wrong_static_shape, "95"),
    (_opset, "opset 23, not 11 and 24"),
    (_initializer, "weights are graph inputs"),
    (_weight_gone, "the weight 'model.norm.weight' is only in the graph"),
    (_weight_too_many, "the weight 'model.extra.weight' is not in the graph"),
    (_weight_shape, "the weight 'model.norm.weight' is (95,) and declared (96,)"),
    (_weight_dtype, "the weight 'model.norm.weight' is float16 and declared float32"),
    (_weight_mark, "the weight 'model.norm.weight' is marked float16 and typed FLOAT"),
    (_alias, "'updated_key.1' does not name 'cache_key.1' as the memory it shares"),
    (_cache_read_elsewhere, "reads 'cache_key.0' although it is overwritten"),
    (_output_gone, "the outputs differ from the KV contract: ['updated_value.1']"),
    (_stray_input, "the input 'temperature' is neither a weight nor part of the signature"),
    (_type_clash, "type"),
]


@pytest.mark.parametrize(("damage", "message"), BREAKS, ids=[damage.__name__ for damage, _ in BREAKS])
def test_a_broken_rule_is_named(damage: Callable[[Program], None], message: str) -> None:
    program = twins.after("tied", Cleanup(), SwiGlu(), KvCache())
    check_invariants(program)
    damage(program)
    with pytest.raises(InternalError) as error:
        check_invariants(program, after="some_pass")
    assert error.value.code == "E1305" and "some_pass" in error.value.message
    assert any(message in detail for detail in error.value.details), error.value.details


def test_a_graph_without_weights_is_checked_too() -> None:
    program = twins.after("tied", Cleanup())
    program.weights.clear()
    check_invariants(program)
