"""TVM's ONNX importer, with operators that it lacks or gets wrong, and with shapes that it follows through a graph."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tvm import relax
from tvm.relax.frontend.onnx import from_onnx, onnx_frontend

from xamc.passes.lowering.onnx_operators import RANGES
from xamc.targets.onnx.importer.converters import CONVERTERS
from xamc.targets.onnx.importer.resize import RESIZED
from xamc.targets.onnx.importer.same_padding import PADDED
from xamc.targets.onnx.importer.shape_operators import SHAPED, takes_shape_value
from xamc.targets.onnx.importer.shape_values import Evaluator, ShapeValue, as_tensor

OURS = CONVERTERS | SHAPED | PADDED | RESIZED
"""Operator → what writes it in Relax, before the importer's own."""


class ConversionError(Exception):
    """An operator's use that has no form in Relax.

    Attributes:
        operator, node: its type and its name.
        reason: in a line.
    """

    def __init__(self, operator: str, node: str, reason: str) -> None:
        super().__init__(f"{operator} {node}: {reason}")
        self.operator, self.node, self.reason = operator, node, reason


def import_onnx(proto: Any, shapes: Mapping[str, list[int]] | None = None) -> Any:
    """A model as a Relax module; its inputs are those of the graph, in order.

    Args:
        proto: the model; `RANGES` of its metadata says between what its symbols vary.
        shapes: of the inputs whose shape the importer would not see.

    Raises:
        ConversionError: an operator's use that can't be written in Relax.
    """
    written = {entry.key: entry.value for entry in proto.metadata_props}.get(RANGES, "{}")
    importer = type("_RangedImporter", (_Importer,), {"ranges": {k: tuple(v) for k, v in json.loads(written).items()}})
    with _replaced(_get_convert_map=_map(onnx_frontend._get_convert_map), ONNXGraphImporter=importer):
        return from_onnx(proto, dict(shapes or {}), keep_params_in_input=False, sanitize_input_names=False)


def _map(theirs: Any) -> Any:
    return lambda: theirs() | OURS


@contextmanager
def _replaced(**names: Any) -> Iterator[None]:
    """Gives names of TVM's importer other values for a while."""
    before = {name: getattr(onnx_frontend, name) for name in names}
    for name, value in names.items():
        setattr(onnx_frontend, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(onnx_frontend, name, value)


class _Importer(onnx_frontend.ONNXGraphImporter):
    """Evaluates what a graph computes from its dimensions, and knows which node it is at.

    Attributes:
        ranges: symbol → its smallest and largest dimension.
    """

    ranges: Mapping[str, tuple[int, int]] = {}

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._evaluator = Evaluator(self.ranges)

    def _construct_nodes(self, graph: Any) -> None:
        for node in graph.node:
            try:
                self._construct_node(node)
            except Exception as error:  # whatever a converter met
                reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
                raise ConversionError(node.op_type, node.name or node.output[0], reason) from error
        for output in graph.output:
            self._nodes[output.name] = as_tensor(self.bb, self._nodes[output.name])

    def _construct_node(self, node: Any) -> None:
        inputs = onnx_frontend.onnx_input(self._nodes[name] if name else None for name in node.input)
        attributes = self._parse_attr(node.attribute)
        attributes["tvm_custom"] = {"name": node.name, "num_outputs": len(node.output)}
        if node.op_type == "If":
            self._nodes[node.input[0]] = as_tensor(self.bb, inputs[0])
            super()._construct_nodes(_Nodes([node]))
            return
        made: Any = self._evaluator.evaluate(node.op_type, inputs, attributes, self.opset)
        if made is None:
            result = self._convert_operator(node.op_type, inputs, attributes, self.opset)
            made = self._parts(result)
        if len(made) < len(node.output):
            raise ValueError(f"it has {len(node.output)} outputs, of which {len(made)} are computed")
        for name, value in zip(node.output, made):
            self._nodes[name] = value

    def _parts(self, result: Any) -> list[Any]:
        """The outputs in what a converter gave."""
        if isinstance(result, relax.Tuple):
            return list(result)
        if isinstance(result.ty, relax.TupleType):
            return [self.bb.emit(relax.TupleGetItem(result, index)) for index in range(len(result.ty.fields))]
        return [result]

    def _convert_operator(self, op_name: str, inputs: Any, attrs: Any, opset: int) -> Any:
        given = onnx_frontend.onnx_input(
            value
            if isinstance(value, ShapeValue) and takes_shape_value(op_name, index, value)
            else as_tensor(self.bb, value)
            for index, value in enumerate(inputs)
        )
        for value in given:
            if isinstance(getattr(value, "ty", None), relax.TensorType) and value.ty.shape is not None:
                self._evaluator.arithmetic.learn(value.ty.shape)
        attrs["xamc_arithmetic"] = self._evaluator.arithmetic
        return super()._convert_operator(op_name, given, attrs, opset)


class _Nodes:
    """What the importer reads of a graph of some nodes."""

    def __init__(self, nodes: list[Any]) -> None:
        self.node = nodes
