"""Writes graphs as ONNX files whose weights lie in one file beside them, streamed block by block."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import onnx_ir as ir

from xamc.errors import InternalError
from xamc.ir.onnx_graph import dims, static_dims
from xamc.ir.program import Program
from xamc.ir.weights.fingerprint import fingerprint
from xamc.ir.weights.lazy import LazyTensor, numpy_dtype, row_blocks
from xamc.ir.weights.transforms import check_finite

WEIGHTS = "weights.bin"
# ONNX Runtime maps external data straight from the file when it begins at a page.
ALIGNMENT = 4096
_TYPES = {"float32": onnx.TensorProto.FLOAT, "float16": onnx.TensorProto.FLOAT16}


@dataclass
class SharedWeights:
    """A file of raw tensors that several ONNX files refer to; equal tensors are written once.

    Args:
        stream: the open file.
        advance: told how many parameters each block had.
    """

    stream: BinaryIO
    advance: Callable[[int], None] = lambda count: None
    _places: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)

    def place(self, name: str, tensor: LazyTensor) -> tuple[int, int]:
        """Offset and length in bytes of `tensor`, which is appended unless the file has it.

        Raises:
            InputError: E1123 NaN or infinity, E1124 beyond float16, E1111 a source file is cut off.
        """
        key = (name, fingerprint(tensor))
        if key not in self._places:
            offset = -(-self.stream.tell() // ALIGNMENT) * ALIGNMENT
            self.stream.write(b"\0" * (offset - self.stream.tell()))
            for start, stop in row_blocks(tensor):
                block = np.ascontiguousarray(tensor.read_rows(start, stop))
                check_finite(name, block, start)
                self.stream.write(block.view(np.uint8).data)
                self.advance(block.size)
            self._places[key] = (offset, self.stream.tell() - offset)
        return self._places[key]


def weight_bytes(programs: Iterable[Program]) -> int:
    """Bytes that `SharedWeights` takes for all programs, a little more where tensors differ between them."""
    largest: dict[str, int] = {}
    for program in programs:
        for name, tensor in program.weights.items():
            size = math.prod(tensor.shape) * numpy_dtype(tensor.dtype).itemsize + ALIGNMENT
            largest[name] = max(size, largest.get(name, 0))
    return sum(largest.values())


def write_onnx(program: Program, path: Path, weights: SharedWeights) -> None:
    """Writes one graph to `path`, its weights as initializers in the file `WEIGHTS` beside it.

    Args:
        program: after `passes.graph.standard_ops`; weights are float32 or float16.
        path: of the ONNX file; its folder holds `weights`' file.
        weights: shared by all graphs of the folder.
    """
    names = {value.name for value in program.weight_inputs()}
    proto = ir.serde.serialize_model(program.model)
    _strip(proto)
    for index in reversed(range(len(proto.graph.input))):
        if proto.graph.input[index].name in names:
            del proto.graph.input[index]
    for name, tensor in program.weights.items():
        offset, length = weights.place(name, tensor)
        entry = proto.graph.initializer.add()
        entry.name, entry.data_type = name, _TYPES[tensor.dtype]
        entry.dims.extend(tensor.shape)
        entry.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", WEIGHTS), ("offset", offset), ("length", length)):
            entry.external_data.add(key=key, value=str(value))
    weights.stream.flush()
    path.write_bytes(proto.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(path))


def input_shapes(program: Program) -> dict[str, tuple[int, ...]]:
    """Shape of every data input of a static graph, in order.

    Raises:
        InternalError: E1458 a data input has no static shape.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for value in program.data_inputs():
        size = static_dims(value)
        if size is None:
            raise InternalError(
                "E1458", f"the input {value.name} of a static graph has the shape {dims(value)}, which is not static"
            )
        shapes[str(value.name)] = size
    return shapes


def _strip(proto: onnx.ModelProto) -> None:
    """Removes what IR version 8 has no field for: notes on nodes and values, which are ours anyway."""
    proto.producer_name = "xamc"
    del proto.metadata_props[:]
    graph = proto.graph
    del graph.metadata_props[:]
    for item in (*graph.node, *graph.value_info, *graph.input, *graph.output):
        del item.metadata_props[:]
