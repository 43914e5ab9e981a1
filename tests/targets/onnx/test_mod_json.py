"""`mod.json` of a generic graph: everything of the graph is in it, and nothing that JSON can't hold."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx import TensorProto

from tests.artifact.test_onnx_manifest import MANIFEST
from tests.onnx_models import Graph, vit
from xamc.targets.onnx.mod_json import graph_json


def read(model: ir.Model, *parameters: str) -> dict[str, Any]:
    text = graph_json(model, replace(MANIFEST, parameters=parameters))
    assert text == graph_json(model, replace(MANIFEST, parameters=parameters))
    value: dict[str, Any] = json.loads(text, parse_constant=lambda name: 1 / 0)
    return value


def test_nodes_and_constants() -> None:
    proto = vit()
    value = read(ir.from_proto(proto))
    assert value["format"] == "xamc.graph" and value["executes_on"] == "host-simulator"
    assert [node["op"] for node in value["nodes"]] == [node.op_type for node in proto.graph.node]
    assert {c["name"] for c in value["constants"]} == {tensor.name for tensor in proto.graph.initializer}
    convolution = value["nodes"][0]
    assert convolution["attributes"]["strides"] == [4, 4] and convolution["inputs"][0] == "pixel_values"
    for constant in value["constants"]:
        assert ("data" in constant) == (np.prod(constant["shape"]) <= 16)


def test_infinities_and_absent_inputs() -> None:
    g = Graph()
    y = g.add("Clip", "x", "", g.const(np.float32(np.inf)))
    value = read(ir.from_proto(g.model({"x": (TensorProto.FLOAT, [2])}, {"y": (y, [2])})))
    assert value["nodes"][0]["inputs"][1] is None and value["constants"][0]["data"] == ["inf"]


def test_parameters_are_inputs_that_the_manifest_names() -> None:
    g = Graph()
    y = g.add("Add", "x", "w")
    shape = (TensorProto.FLOAT, [2])
    value = read(ir.from_proto(g.model({"x": shape, "w": shape}, {"y": (y, [2])})), "w")
    assert value["params"] == [{"name": "w", "shape": [2], "dtype": "float32"}]
