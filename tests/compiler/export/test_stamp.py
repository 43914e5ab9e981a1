"""A stamped graph is the one that an export of all layers gives, byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import onnx
import onnx_ir as ir
import pytest

from tests import twins
from xamc.compiler.export import exporter
from xamc.compiler.export.exporter import export_model
from xamc.compiler.export.stamp import Depth, stamp
from xamc.errors import InternalError
from xamc.ir.names import MODULE_KEY
from xamc.model.config import ModelConfig
from xamc.model.parameters import parameter_shapes
from xamc.model.windows import window_keys

N = None


def deep(config: ModelConfig, windows: tuple[int | None, ...]) -> ModelConfig:
    """The same model with other layers."""
    keys = window_keys(config.hf_config, windows)
    config = config.changed(num_layers=len(windows))
    return replace(config, sliding_windows=windows, hf_config={**config.hf_config, **keys})


class WholeDepth(Depth):
    """Exports every layer."""

    def __init__(self, windows: tuple[int | None, ...]) -> None:
        super().__init__(windows[:1])
        self.exported = self.template = tuple(range(len(windows)))


def serialized(model: ir.Model) -> bytes:
    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))


@pytest.mark.parametrize(
    ("windows", "exported", "template"),
    [
        ((N,) * 30, (0, 1), (0, *[1] * 29)),
        ((N,) * 4, (0, 1), (0, 1, 1, 1)),
        ((N,) * 3, (0, 1, 2), (0, 1, 2)),
        ((N,), (0,), (0,)),
        ((N, N, N, 8, 8, 8, 8), (0, 1, 3, 4), (0, 1, 1, 2, 3, 3, 3)),
        ((8,) * 9, (0, 1, 2), (0, 1, 2, *[1] * 6)),
        ((N, 8) * 4, (0, 1, 2, 3, 4), (0, 1, 2, 3, 4, 3, 2, 3)),
        ((N, 8, 16, 4, 2), (0, 1, 2, 3, 4), (0, 1, 2, 3, 4)),
    ],
    ids=str,
)
def test_which_layers_are_exported(
    windows: tuple[int | None, ...], exported: tuple[int, ...], template: tuple[int, ...]
) -> None:
    depth = Depth(windows)
    assert (depth.exported, depth.template) == (exported, template)
    assert depth.whole == (len(exported) == len(windows))
    assert [windows[exported[place]] for place in depth.template] == list(windows)


@pytest.mark.parametrize(
    ("kind", "windows"),
    [
        ("tied", (N,) * 6),
        ("windowed", (N, N, N, 3, 3, 3, 3)),
        ("windowed", (N, 3, N, 3, N, 3, N)),
        ("windowed", (3,) * 5),
        ("qwen3", (N,) * 5),
    ],
)
def test_the_graph_is_that_of_an_export_of_all_layers(
    kind: str, windows: tuple[int | None, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = deep(twins.config(kind) if kind in twins.KINDS else twins.family(kind).config, windows)
    stamped = export_model(config)
    shapes = {v.name: tuple(v.shape or ()) for v in stamped.graph.inputs if str(v.name).endswith((".weight", ".bias"))}
    assert shapes == parameter_shapes(config)
    assert not Depth(windows).whole
    monkeypatch.setattr(exporter, "Depth", WholeDepth)
    assert serialized(stamped) == serialized(export_model(config))


@pytest.fixture(scope="module")
def shallow() -> bytes:
    """Two layers."""
    return serialized(exporter._export(deep(twins.config("tied"), (N,) * 2)))


def of_module(graph: ir.Graph, name: str) -> ir.Node:
    return [node for node in graph if node.metadata_props.get(MODULE_KEY) == name][-1]


def rename_node(graph: ir.Graph) -> None:
    of_module(graph, "model.layers.1.mlp").name = "node_other"


def rename_value(graph: ir.Graph) -> None:
    of_module(graph, "model.layers.1.mlp.up_proj").outputs[0].name = "linear_99"


def move_node(graph: ir.Graph) -> None:
    of_module(graph, "model.layers.1.mlp").metadata_props[MODULE_KEY] = "model.layers.0.mlp"


def read_inside(graph: ir.Graph) -> None:
    """Behind all layers, of a value that every copy of layer 1 has."""
    of_module(graph, "model.norm").replace_input_with(0, of_module(graph, "model.layers.1.mlp").outputs[0])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (rename_node, "node_other in layer 1"),
        (rename_value, "linear_99 in layer 1"),
        (move_node, "comes after layer 1"),
        (read_inside, "is read outside of it"),
    ],
)
def test_an_export_that_copies_would_not_be_like_is_refused(
    shallow: bytes, change: Callable[[ir.Graph], None], told: str
) -> None:
    graph = ir.from_proto(onnx.ModelProto.FromString(shallow)).graph
    depth = Depth((N,) * 6)
    assert len(stamp(graph, depth)) == len(graph) + 4 * 56
    change(graph)
    with pytest.raises(InternalError, match=told) as caught:
        stamp(graph, depth)
    assert caught.value.code == "E1204"
