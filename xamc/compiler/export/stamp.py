"""A deep model's graph from the export of a shallow one.

torch takes more than half a second per layer, and layers that attend alike export alike. So a few layers are exported
and stamped out: one or two of each kind, where a kind is what makes a difference in the export: the layer's window,
whether it is the first with it (which computes the mask), and the windows before it. The numbers in the exporter's
names grow by the same amount per layer, so that the graph is the one that an export of all layers gives, byte for byte.
A family whose layers differ in more (some without RoPE, some with experts) has to add that to `_kinds`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby, zip_longest
from typing import NoReturn

import onnx_ir as ir

from xamc.errors import InternalError
from xamc.ir.names import MODULE_KEY
from xamc.model.config import ModelConfig
from xamc.model.windows import window_keys

_OF_LAYER = re.compile(r"^(model\.layers\.|past_key\.|past_value\.|present_key\.|present_value\.)(\d+)(?=\.|$)")
_NUMBERED = re.compile(r"^(.*?)(?:_(\d+))?((?:__\d+)?)$", re.DOTALL)
_Stem = tuple[str, str]
_Kind = tuple[int | None, bool, frozenset[int | None]]


class Depth:
    """Which layers of a model are exported, and whose copies the others are.

    Attributes:
        exported: the layers, in order; all of them where that is hardly more.
        template: of each layer of the model, the position in `exported` of the one that it is like.
    """

    def __init__(self, windows: Sequence[int | None]) -> None:
        kinds = _kinds(windows)
        members = {kind: [layer for layer, other in enumerate(kinds) if other == kind] for kind in kinds}
        # layer 0 reads the embedding, so that none is a copy of it; two of a kind tell how numbers grow
        paired = kinds[0] if len(members[kinds[0]]) > 1 else max(members, key=lambda kind: len(members[kind]))
        alike = members[paired][:2]
        chosen = sorted({*alike, *(of_kind[0] for of_kind in members.values())})
        if len(alike) < 2 or len(chosen) + 1 >= len(windows):
            chosen = [*range(len(windows))]
        self.exported = tuple(chosen)
        self.template = tuple(
            chosen.index(layer if layer in chosen else next(m for m in members[kind] if m in chosen and m > 0))
            for layer, kind in enumerate(kinds)
        )
        self.alike = [chosen.index(layer) for layer in alike]

    @property
    def whole(self) -> bool:
        """Whether all layers are exported."""
        return len(self.exported) == len(self.template)

    def shallow(self, config: ModelConfig) -> ModelConfig:
        """The model of the exported layers alone."""
        if self.whole:
            return config
        windows = tuple(config.sliding_windows[layer] for layer in self.exported)
        small = config.changed(num_layers=len(windows))
        keys = {**small.hf_config, **window_keys(config.hf_config, windows)}
        return replace(small, sliding_windows=windows, hf_config=keys)


def _kinds(windows: Sequence[int | None]) -> list[_Kind]:
    seen: frozenset[int | None] = frozenset()
    kinds = []
    for window in windows:
        kinds.append((window, window is not None and window not in seen, seen))
        if window is not None:
            seen |= {window}
    return kinds


def stamp(graph: ir.Graph, depth: Depth) -> ir.Graph:
    """The graph of all layers, from that of the exported ones.

    Args:
        graph: with weights as inputs and the modules of nodes under `MODULE_KEY`; its nodes come layer by layer.
        depth: what was exported.

    Raises:
        InternalError: E1204, the exporter orders or names things otherwise than it did.
    """
    return graph if depth.whole else _Stamp(graph, depth).graph()


class _Stamp:
    def __init__(self, source: ir.Graph, depth: Depth) -> None:
        self.source, self.depth = source, depth
        self.before: list[ir.Node] = []
        self.after: list[ir.Node] = []
        self.layers: list[list[ir.Node]] = [[] for _ in depth.exported]
        # the exported layer that a value belongs to; None outside of layers
        self.place: dict[ir.Value, int | None] = {value: _layer_in(value.name) for value in source.inputs}
        self._sort()
        self.steps = self._steps()
        # by exported value and layer of the model
        self.values: dict[tuple[ir.Value, int | None], ir.Value] = {}

    def graph(self) -> ir.Graph:
        """The stamped graph."""
        depth, source = self.depth, self.source
        inputs = [self._input(value, layer) for value, layer in self._of_all_layers(source.inputs)]
        nodes = [self._copy(node, None, -1, 0) for node in self.before]
        for layer, template in enumerate(depth.template):
            nodes += [self._copy(node, layer, template, layer - template) for node in self.layers[template]]
        end, added = len(self.layers), len(depth.template) - len(self.layers)
        nodes += [self._copy(node, None, end, added) for node in self.after]
        outputs = [self.values[value, layer] for value, layer in self._of_all_layers(source.outputs)]
        return ir.Graph(inputs, outputs, nodes=nodes, opset_imports=dict(source.opset_imports), name=source.name)

    def _sort(self) -> None:
        """Which nodes come before all layers, in each, and after them."""
        last = -1
        for node in self.source:
            module = node.metadata_props.get(MODULE_KEY)
            layer = _layer_in(module)
            if layer is None:
                (self.before if last < 0 else self.after).append(node)
            elif self.after or layer not in (last, last + 1):
                self._refuse(f"{node.name} of {module} comes after layer {last}")
            else:
                last = layer
                self.layers[layer].append(node)
            self.place.update((value, layer) for value in node.outputs)

    def _steps(self) -> dict[_Stem, int]:
        """By how much the number behind a stem grows from one layer to the next."""
        low, high = self.depth.alike
        steps: dict[_Stem, int] = {}
        pairs = [
            pair
            for a, b in zip_longest(self.layers[low], self.layers[high])
            for pair in zip_longest(*([] if n is None else [n.name, *(v.name for v in n.outputs)] for n in (a, b)))
        ]
        for one, other in pairs:
            if _layer_in(one) == low and _layer_in(other) == high:
                continue
            (stem, number), (other_stem, other_number) = _split(one), _split(other)
            step, rest = divmod(other_number - number, high - low)
            if stem != other_stem or rest or steps.setdefault(stem, step) != step:
                self._refuse(f"{one} of layer {low} is {other} in layer {high}")
        return steps

    def _of_all_layers(self, values: Sequence[ir.Value]) -> list[tuple[ir.Value, int | None]]:
        """Inputs or outputs in the order of the whole model: runs that belong to layers are there for every layer."""
        result: list[tuple[ir.Value, int | None]] = []
        # weights follow right behind the cache
        for kind, run in groupby(values, lambda value: (_layer_in(value.name) is not None, _is_weight(value.name))):
            members = list(run)
            if not kind[0]:
                result += [(value, None) for value in members]
                continue
            for layer, template in enumerate(self.depth.template):
                result += [(value, layer) for value in members if _layer_in(value.name) == template]
        return result

    def _input(self, value: ir.Value, layer: int | None) -> ir.Value:
        name = _in_layer(value.name, layer)
        self.values[value, layer] = copy = ir.Value(name=name, type=value.type, shape=value.shape)
        copy.metadata_props.update(value.metadata_props)
        return copy

    def _copy(self, node: ir.Node, layer: int | None, place: int, added: int) -> ir.Node:
        """A node for a layer of the model (None: outside of layers) from one of exported layer `place`.

        `added` layers more come before it than did in the export.
        """
        outputs = []
        for value in node.outputs:
            of_layer = _layer_in(value.name) is not None
            name = _in_layer(value.name, layer) if of_layer else self._shifted(value.name, added)
            self.values[value, layer] = copy = ir.Value(name=name, type=value.type, shape=value.shape)
            outputs.append(copy)
        copied = ir.Node(
            node.domain,
            node.op_type,
            [None if value is None else self._source_of(value, layer, place) for value in node.inputs],
            node.attributes.values(),
            overload=node.overload,
            outputs=outputs,
            version=node.version,
            name=self._shifted(node.name, added),
        )
        copied.metadata_props.update({key: _in_layer(text, layer) for key, text in node.metadata_props.items()})
        return copied

    def _source_of(self, value: ir.Value, layer: int | None, place: int) -> ir.Value:
        """What a copy reads where the exported node does, of layer `place`: -1 before, their number behind all."""
        depth, origin = self.depth, self.place[value]
        if origin is None:
            return self.values[value, None]
        if origin == place:
            return self.values[value, layer]
        if origin == place - 1 and value is self._hidden(origin):
            previous = len(depth.template) - 1 if layer is None else layer - 1
            return self.values[self._hidden(depth.template[previous]), previous]
        if value.producer() is not None and depth.template.count(origin) > 1:
            self._refuse(f"{value.name} of layer {origin} is read outside of it")
        return self.values[value, depth.exported[origin]]

    def _hidden(self, place: int) -> ir.Value:
        """What an exported layer hands to the next one."""
        return self.layers[place][-1].outputs[0]

    def _shifted(self, name: str | None, layers: int) -> str | None:
        if name is None:
            return None
        (head, tail), number = _split(name)
        step = self.steps.get((head, tail))
        if not step or not layers:
            return name
        return f"{head}_{number + step * layers}{tail}"

    def _refuse(self, what: str) -> NoReturn:
        raise InternalError(
            "E1204",
            f"the exporter orders or numbers a layer's nodes in a new way: {what}",
            fix="install the versions of torch and transformers of constraints.txt (xamc doctor), or report this model",
        )


def _layer_in(name: str | None) -> int | None:
    """The layer whose weight, cache or module has this name."""
    found = _OF_LAYER.match(name or "")
    return None if found is None else int(found[2])


def _is_weight(name: str | None) -> bool:
    return (name or "").startswith("model.layers.")


def _in_layer(name: str | None, layer: int | None) -> str:
    """The same weight, cache or module of another layer."""
    return _OF_LAYER.sub(lambda found: f"{found[1]}{layer}", name or "")


def _split(name: str | None) -> tuple[_Stem, int]:
    """What stands round the number in a name, and the number; 0 if there is none."""
    found = _NUMBERED.match(name or "")
    assert found is not None, "it matches any text"
    return (found[1], found[3]), int(found[2] or 0)
