import numpy as np
import onnx_ir as ir
import pytest

from tests import twins
from tests.golden_files import check_golden
from tests.passes.graph.cases import PASSES, golden_text
from xamc.ir.onnx_graph import new_node
from xamc.ir.program import Program
from xamc.ir.tolerances import tolerance
from xamc.passes.graph import swiglu
from xamc.passes.graph.swiglu import SwiGlu
from xamc.verify.metrics import relative_error
from xamc.verify.oracle import Oracle


def test_golden() -> None:
    check_golden("passes/swiglu.txt", golden_text("swiglu", PASSES["swiglu"].make(swiglu)))


def test_one_per_layer() -> None:
    program, _ = twins.twin("windowed")
    report = SwiGlu().run(program)
    assert report.matched == {"swiglu": 2} and report.skipped == []
    assert not twins.nodes(program, "Sigmoid")
    assert [n.metadata_props["xamc.module"] for n in twins.nodes(program, "SwiGLU")] == [
        "model.layers.0.mlp",
        "model.layers.1.mlp",
    ]


def _gated(swap_silu: bool = False, swap_gated: bool = False, up_width: int = 8, other: bool = False) -> Program:
    gate, up = (ir.val(n, dtype=ir.DataType.FLOAT, shape=[2, w]) for n, w in (("gate", 8), ("up", up_width)))
    sigmoid = new_node("Sigmoid", [up if other else gate], ["sigmoid"])
    factors = [gate, sigmoid.outputs[0]]
    silu = new_node("Mul", factors[::-1] if swap_silu else factors, ["silu"])
    factors = [silu.outputs[0], up]
    product = new_node("Mul", factors[::-1] if swap_gated else factors, ["y"])
    for node in (sigmoid, silu, product):
        node.outputs[0].type, node.outputs[0].shape = gate.type, gate.shape
    graph = ir.Graph([gate, up], product.outputs, nodes=[sigmoid, silu, product], opset_imports={"": 24}, name="mlp")
    return Program(ir.Model(graph, ir_version=11), {}, twins.config("tied"))


@pytest.mark.parametrize("swap_silu", [False, True])
@pytest.mark.parametrize("swap_gated", [False, True])
def test_factors_in_any_order(swap_silu: bool, swap_gated: bool) -> None:
    program = _gated(swap_silu, swap_gated)
    assert SwiGlu().run(program).total == 1
    gate, up = twins.seeded((2, 8), 1) * 4, twins.seeded((2, 8), 2)
    found = Oracle(program.model, {}).run({"gate": gate, "up": up})["y"]
    expected = gate.astype(np.float64) / (1 + np.exp(-gate.astype(np.float64))) * up
    assert relative_error(found, expected) <= tolerance("reassociated")


def test_reasons() -> None:
    reasons = [SwiGlu().run(program).skipped[0].reason for program in (_gated(other=True), _gated(up_width=1))]
    assert reasons == [
        "the sigmoid is not multiplied with its own argument",
        "gate (2, 8) and up (2, 1) are broadcast against each other",
    ]
