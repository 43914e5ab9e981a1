"""Stores the KV cache between calls as int8, one scale and zero point per KV head and channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from xamc.errors import InternalError
from xamc.ir.names import DEQUANTIZE_KV_OP, MASK_DOMAIN, QUANTIZE_KV_OP, WEIGHT_ROLE
from xamc.ir.onnx_graph import Emit, add_function, dims, make_function, new_node
from xamc.ir.program import Program
from xamc.ir.weights.kv_scales import (
    F32,
    LARGEST_CODE,
    KvScales,
    dequantize_kv,
    past_names,
    quantize_kv,
    scales_name,
    zeros_name,
)
from xamc.ir.weights.lazy import ArrayTensor
from xamc.model.kv_cache import present_key, present_value
from xamc.passes.protocol import Arrays, NonMatch, PassReport, Tensors


def dequantize_kv_function() -> ir.Function:
    """DequantizeKv(codes int8 [B, H, P, D], scales float32 [H, D], zeros [H, D]) -> float32 codes * scales + zeros."""

    def build(emit: Emit, inputs: Sequence[ir.Value]) -> ir.Value:
        codes, scales, zeros = inputs
        axis = emit("Constant", [], "token_axis", value_ints=[1])
        levels = emit("Cast", [codes], "levels", to=int(ir.DataType.FLOAT))
        scaled = emit("Mul", [levels, emit("Unsqueeze", [scales, axis], "scale")], "scaled")
        return emit("Add", [scaled, emit("Unsqueeze", [zeros, axis], "zero")], "values")

    return make_function(DEQUANTIZE_KV_OP, ["codes", "scales", "zeros"], build)


def quantize_kv_function() -> ir.Function:
    """QuantizeKv(x float32 [B, H, T, D], scales [H, D], zeros [H, D]) -> int8: round((x - zeros) / scales), clamped.

    Round is to nearest, ties to even; codes are in [-127, 127].
    """

    def build(emit: Emit, inputs: Sequence[ir.Value]) -> ir.Value:
        x, scales, zeros = inputs
        axis = emit("Constant", [], "token_axis", value_ints=[1])
        centred = emit("Sub", [x, emit("Unsqueeze", [zeros, axis], "zero")], "centred")
        levels = emit("Round", [emit("Div", [centred, emit("Unsqueeze", [scales, axis], "scale")], "steps")], "levels")
        low = emit("Constant", [], "low", value_float=-float(LARGEST_CODE))
        high = emit("Constant", [], "high", value_float=float(LARGEST_CODE))
        return emit("Cast", [emit("Clip", [levels, low, high], "clipped")], "codes", to=int(ir.DataType.INT8))

    return make_function(QUANTIZE_KV_OP, ["x", "scales", "zeros"], build)


@dataclass(frozen=True)
class KvInt8:
    """Past inputs come in and present outputs go out as int8 codes; in between everything stays as it is.

        before: present_key float32 = f(past_key float32 [B, Hkv, P, D], ...)
        after:  present_key int8 = xamc::QuantizeKv(f(xamc::DequantizeKv(past_key int8, s, z), ...), s, z)

    with s = `past_key.i.scales` and z = `past_key.i.zeros`, float32 weight inputs [Hkv, D]; so for values. A graph
    without a past (prefill) quantizes only. Attention reads the new token's key and value unrounded, as the whole
    cache is quantized where it leaves the graph. Codes that come in go out unchanged.
    """

    scales: KvScales
    name: str = "kv_int8"
    tolerance: str = "reassociated"

    def run(self, program: Program) -> PassReport:
        report = PassReport()
        graph = program.model.graph
        inputs = {str(value.name): value for value in graph.inputs}
        outputs = {str(value.name): value for value in graph.outputs}
        for past in past_names(program.config):
            if _present(past) not in outputs:
                report.skipped.append(NonMatch(_present(past), "the graph keeps no cache"))
                continue
            self._check(past, program)
            scales, zeros = (self._weight(program, name) for name in (scales_name(past), zeros_name(past)))
            if past in inputs:
                _dequantize(graph, inputs[past], scales, zeros)
                add_function(program.model, dequantize_kv_function())
                report.count("past")
            _quantize(graph, outputs[_present(past)], scales, zeros)
            add_function(program.model, quantize_kv_function())
            report.count("present")
        return report

    def _check(self, past: str, program: Program) -> None:
        """Scales are made for one model: those of another would still be a proof's valid graph when shapes agree."""
        wanted = (program.config.num_kv_heads, program.config.head_dim)
        found = self.scales.tensors.get(scales_name(past))
        if found is None or found.shape != wanted:
            raise InternalError(
                "E1160",
                f"kv_int8: there are no scales of shape {list(wanted)} for {past}",
                fix="give the pass the scales of this model's own config",
            )

    def _weight(self, program: Program, name: str) -> ir.Value:
        array = self.scales.tensors[name]
        value = ir.val(name, dtype=ir.DataType.FLOAT, shape=array.shape)
        value.metadata_props[WEIGHT_ROLE] = "float32"
        program.model.graph.inputs.append(value)
        # a graph without any weights is one without a checkpoint
        if program.weights:
            program.weights[name] = ArrayTensor(array)
        return value

    def decoded_feeds(self, feeds: Tensors) -> Arrays:
        """Feeds for the graph before the pass: what the codes of the past stand for."""
        return {
            name: self._decode(name, self._codes(name, array)) if name.startswith("past_") else np.asarray(array)
            for name, array in feeds.items()
        }

    def adapt(self, feeds: Tensors, fetches: Tensors) -> tuple[Arrays, Arrays]:
        """The same call with codes for its past, and the codes of its present to expect."""
        codes = {name: self._codes(name, array) for name, array in feeds.items() if name.startswith("past_")}
        presents = {
            name: self._codes(name.replace("present_", "past_"), array)
            for name, array in fetches.items()
            if name.startswith("present_")
        }
        return {**feeds, **codes}, {**fetches, **presents}

    def _codes(self, past: str, array: NDArray[np.generic]) -> NDArray[np.int8]:
        return quantize_kv(array.astype(np.float32), *self._pair(past))

    def _decode(self, past: str, codes: NDArray[np.int8]) -> F32:
        return dequantize_kv(codes, *self._pair(past))

    def _pair(self, past: str) -> tuple[F32, F32]:
        return self.scales.tensors[scales_name(past)], self.scales.tensors[zeros_name(past)]


def _present(past: str) -> str:
    kind, layer = past.split(".")
    return (present_key if kind == "past_key" else present_value)(int(layer))


def _dequantize(graph: ir.Graph, past: ir.Value, scales: ir.Value, zeros: ir.Value) -> None:
    """Makes `past` an int8 input whose readers read what its codes stand for."""
    readers = list(past.uses())
    first = next(node for node in graph if any(node is reader for reader, _ in readers))
    operands = [past, scales, zeros]
    node = new_node(DEQUANTIZE_KV_OP, operands, [f"{past.name}.float32"], like=first, domain=MASK_DOMAIN)
    node.outputs[0].type, node.outputs[0].shape = past.type, past.shape
    past.type = ir.TensorType(ir.DataType.INT8)
    graph.insert_before(first, node)
    for reader, operand in readers:
        reader.replace_input_with(operand, node.outputs[0])


def _quantize(graph: ir.Graph, present: ir.Value, scales: ir.Value, zeros: ir.Value) -> None:
    """Makes the codes of `present` the output of its name."""
    producer, name = present.producer(), present.name
    assert producer is not None and name is not None and dims(present) is not None
    present.name = f"{name}.float32"
    node = new_node(QUANTIZE_KV_OP, [present, scales, zeros], [name], like=producer, domain=MASK_DOMAIN)
    node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.INT8), present.shape
    graph.insert_after(producer, node)
    graph.outputs[[value is present for value in graph.outputs].index(True)] = node.outputs[0]
