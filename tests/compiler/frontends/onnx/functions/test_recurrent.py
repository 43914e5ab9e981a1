"""LSTM, GRU and RNN written out, against ONNX Runtime; what they can't be written out for is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.onnx_models import reference
from tests.targets.onnx.operators import build, run
from xamc.compiler.frontends.onnx.model import open_onnx
from xamc.errors import UnsupportedError
from xamc.ir.tolerances import tolerance
from xamc.verify.metrics import relative_error

STEPS, BATCH, INPUT, HIDDEN = 3, 3, 4, 6
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def model_of(op: str, direction: str, given: str = "", opset: int = 17, **attributes: Any) -> onnx.ModelProto:
    """`given` are the optional inputs: b (biases), h and c (first states), p (peepholes), s (lengths)."""
    rng, count, gates = np.random.default_rng(0), 1 + (direction == "bidirectional"), GATES[op]
    shapes = {
        "w": (count, gates * HIDDEN, INPUT),
        "r": (count, gates * HIDDEN, HIDDEN),
        "b": (count, 2 * gates * HIDDEN),
        "s": (BATCH,),
        "h": (count, BATCH, HIDDEN),
        "c": (count, BATCH, HIDDEN),
        "p": (count, 3 * HIDDEN),
    }
    inputs = ["w", "r", *(name if name in given else "" for name in ("b", "s", "h", "c", "p"))]
    while not inputs[-1]:
        inputs.pop()
    tensors = {name: rng.standard_normal(shapes[name]).astype(np.float32) for name in inputs if name}
    if "s" in tensors:
        tensors["s"] = np.array([3, 2, 1], np.int32)
    outputs = ["y", "y_h", "y_c"][: 3 if op == "LSTM" else 2]
    node = helper.make_node(op, ["x", *inputs], outputs, name=op, direction=direction, hidden_size=HIDDEN, **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [STEPS, BATCH, INPUT])],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


CASES: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "LSTM, all inputs, both ways": ("LSTM", "bidirectional", "bhcp", {}),
    "LSTM of 11": ("LSTM", "reverse", "bhc", {"opset": 11}),
    "GRU": ("GRU", "forward", "bh", {}),
    "GRU, reset after, both ways": ("GRU", "bidirectional", "b", {"linear_before_reset": 1}),
    "RNN, both ways": ("RNN", "bidirectional", "bh", {}),
}


@pytest.mark.parametrize("name", CASES)
def test_against_onnxruntime(name: str, tmp_path: Path) -> None:
    op, direction, given, more = CASES[name]
    model = model_of(op, direction, given, **more)
    onnx.save(model, tmp_path / "m.onnx")
    opened = open_onnx(tmp_path / "m.onnx", {})
    assert op not in opened.operators
    feeds = {"x": np.random.default_rng(1).standard_normal((STEPS, BATCH, INPUT)).astype(np.float32)}
    if name == "RNN, both ways":
        actual = run(build(ir.to_proto(opened.model), 1, tmp_path), feeds)
    else:  # of the same operators, whose code takes seconds to make
        actual = list(reference(ir.to_proto(opened.model), feeds).values())
    for ours, theirs in zip(actual, reference(model, feeds).values(), strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        assert relative_error(ours, theirs) <= tolerance("graph_fp32")


def test_too_many_steps_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xamc.compiler.frontends.onnx.functions.recurrent._MOST_STEPS", STEPS - 1)
    onnx.save(model_of("RNN", "forward"), tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError) as caught:
        open_onnx(tmp_path / "m.onnx", {})
    assert caught.value.code == "E1154" and "fix its steps" in caught.value.details[0]


@pytest.mark.parametrize(("given", "attributes"), [("s", {}), ("", {"clip": 1.0}), ("", {"activations": ["Relu"]})])
def test_what_is_not_written_out_is_refused(given: str, attributes: dict[str, Any], tmp_path: Path) -> None:
    onnx.save(model_of("RNN", "forward", given, **attributes), tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError) as caught:
        open_onnx(tmp_path / "m.onnx", {})
    assert caught.value.code == "E1154" and "RNN" in caught.value.details[0]
