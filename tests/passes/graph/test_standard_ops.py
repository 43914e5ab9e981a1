from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from tests import twins
from tests.golden_files import check_golden
from tests.passes.graph.cases import PASSES, golden_of
from xamc.errors import InternalError
from xamc.ir.onnx_graph import constant_node, new_node
from xamc.ir.tolerances import tolerance
from xamc.passes.graph import standard_ops
from xamc.passes.graph.standard_ops import StandardOps, rewrite_forms
from xamc.verify.metrics import relative_error
from xamc.verify.oracle import Oracle
from xamc.verify.proof import prove


def test_golden() -> None:
    check_golden("passes/standard_ops.txt", golden_of("standard_ops", standard_ops))


@pytest.mark.parametrize("kind", twins.KINDS)
@pytest.mark.parametrize("setup", PASSES["standard_ops"].setups)
def test_proven_and_free_of_newer_operators(kind: str, setup: object) -> None:
    program, cases = twins.twin(kind)
    prove((*setup.before, StandardOps()), program, cases).require()  # type: ignore[attr-defined]
    proto = ir.serde.serialize_model(program.model)
    assert proto.ir_version == 8 and [(e.domain, e.version) for e in proto.opset_import] == [("", 14)]
    assert not proto.functions and {node.domain for node in proto.graph.node} == {""}
    onnx.checker.check_model(proto, full_check=True)
    assert all(a.name == "value" for n in proto.graph.node if n.op_type == "Constant" for a in n.attribute)


def test_the_norm_is_llamas_in_float64() -> None:
    """Against the formula, not against ONNX Runtime's own norm."""
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=[2, 3, 64])
    weight = ir.val("weight", dtype=ir.DataType.FLOAT, shape=[64])
    norm = new_node("RMSNormalization", [x, weight], ["y"], axis=-1, epsilon=0.05)
    norm.outputs[0].type, norm.outputs[0].shape = x.type, x.shape
    model = _small(norm, output=norm.outputs[0], inputs=[x, weight])
    standard_ops._spell_out_norm(model.graph, norm)
    assert rewrite_forms(model, 14) == {}
    feeds = {"x": twins.seeded((2, 3, 64)), "weight": twins.seeded((64,), 1)}
    hidden, scale = (feeds[name].astype(np.float64) for name in ("x", "weight"))
    expected = hidden / np.sqrt((hidden**2).mean(-1, keepdims=True) + 0.05) * scale
    assert relative_error(Oracle(model, {}).run(feeds)["y"], expected) <= tolerance("reassociated")


def _small(*nodes: ir.Node, output: ir.Value, inputs: list[ir.Value]) -> ir.Model:
    graph = ir.Graph(inputs, [output], nodes=nodes, opset_imports={"": 24}, name="small")
    return ir.Model(graph, ir_version=11)


def test_newer_forms_are_undone() -> None:
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=[2, 6])
    axes = constant_node(np.array([-1], np.int64), "axes")
    largest = new_node("ReduceMax", [x, axes.outputs[0]], ["largest"], keepdims=1, noop_with_empty_axes=0)
    halves = new_node("Split", [x], ["low", "high"], axis=1, num_outputs=2)
    cast = new_node("Cast", [halves.outputs[1]], ["cast"], to=int(ir.DataType.FLOAT), saturate=1)
    total = new_node("Add", [cast.outputs[0], largest.outputs[0]], ["total"])
    model = _small(axes, largest, halves, cast, total, output=total.outputs[0], inputs=[x])
    total.outputs[0].type, total.outputs[0].shape = x.type, ir.Shape([2, 3])
    feeds = {"x": twins.seeded((2, 6))}
    before = Oracle(model, {}).run(feeds)["total"]
    assert rewrite_forms(model, 14) == {"reduction": 1, "split": 1}
    onnx.checker.check_model(ir.serde.serialize_model(model), full_check=True)
    np.testing.assert_array_equal(Oracle(model, {}).run(feeds)["total"], before)


def test_what_has_no_older_form_is_listed() -> None:
    program, _ = twins.twin("tied")
    with pytest.raises(InternalError, match="E1457") as caught:
        StandardOps().run(program)
    text = "\n".join(caught.value.details)
    assert "ai.onnx::Attention 'getitem' is not an operator of opset 14" in text and "RotaryEmbedding" in text
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=[2, 6])
    axes = ir.val("axes", dtype=ir.DataType.INT64, shape=[1])
    mean = new_node("ReduceMean", [x, axes], ["mean"])
    with pytest.raises(InternalError, match="computed at run time"):
        rewrite_forms(_small(mean, output=mean.outputs[0], inputs=[x, axes]), 14)
