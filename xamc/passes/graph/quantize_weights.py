"""Stores weight matrices as 8-bit or 4-bit codes, rounded to nearest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from xamc.ir.names import DEQUANTIZE_OP, MASK_DOMAIN
from xamc.ir.onnx_graph import (
    Emit,
    add_function,
    dims,
    is_embedding_or_head,
    make_function,
    new_node,
)
from xamc.ir.program import Program
from xamc.ir.weights.quantize import QuantizedMatrix, RoundToNearest
from xamc.passes.protocol import Arrays, PassReport, SameSignature, Tensors
from xamc.passes.stored_matrices import decode_codes, float_matrices, weight_input

_TYPES = {"int8": ir.DataType.INT8, "uint4": ir.DataType.UINT4}


def dequantize_groups_function() -> ir.Function:
    """DequantizeGroups(codes [N, K], scales [N, G], zeros [N, G]) -> float32 [N, K]: (codes - zeros) * scales.

    Columns [g K/G, (g + 1) K/G) share a scale and a zero point, float16 both. It is a function because
    DequantizeLinear takes zero points of the codes' integer type only.
    """

    def build(emit: Emit, inputs: Sequence[ir.Value]) -> ir.Value:
        codes, scales, zeros = inputs
        last = emit("Constant", [], "last", value_ints=[-1])
        to_float = int(ir.DataType.FLOAT)
        levels = emit("Cast", [codes], "levels", to=to_float)
        groups = emit("Concat", [emit("Shape", [scales], "rows_groups"), last], "rows_groups_columns", axis=0)
        grouped = emit("Reshape", [levels, groups], "grouped")
        scale = emit("Unsqueeze", [emit("Cast", [scales], "scales32", to=to_float), last], "scale")
        zero = emit("Unsqueeze", [emit("Cast", [zeros], "zeros32", to=to_float), last], "zero")
        scaled = emit("Mul", [emit("Sub", [grouped, zero], "centred"), scale], "scaled")
        # not the shape of the codes, which ONNX Runtime has no kernel for when they are uint4
        return emit("Reshape", [scaled, emit("Shape", [levels], "rows_columns")], "weight")

    return make_function(DEQUANTIZE_OP, ["codes", "scales", "zeros"], build)


@dataclass(frozen=True)
class QuantizeWeights(SameSignature):
    """Weight-only quantization by groups of columns; all arithmetic stays fp32.

        before: MatMul(x, Transpose(weight float32 [N, K]))
        after:  MatMul(x, Transpose(xamc::DequantizeGroups(weight.codes [N, K], weight.scales [N, K/g],
                                                           weight.zeros [N, K/g])))                          4 bits
                MatMul(x, Transpose(DequantizeLinear(weight.codes [N, K], Cast<float32>(weight.scales [N, K/g]),
                                                     axis=1, block_size=g)))                                 8 bits
        before: Gather(embedding [V, K], ids)
        after:  Gather(DequantizeLinear(embedding.codes [V, K], ...), ids)

    Linear weights take `linear`; the embedding and lm_head take `embedding`, which is 8 bits in every shipped setting:
    both are read or written by every token and their errors are not averaged by a following sum. One scale per row
    is written as one group of K columns. Norm weights and biases stay float32.
    """

    linear: RoundToNearest
    embedding: RoundToNearest
    name: str = "quantize_weights"
    tolerance: str = "stored_weights"

    @staticmethod
    def to_bits(bits: Literal[4, 8], group_size: int | None) -> QuantizeWeights:
        """The policy of `w8a16_rtn` and `w4a16_rtn`: the embedding and lm_head in 8 bits, everything else in `bits`."""
        return QuantizeWeights(RoundToNearest(bits, group_size), RoundToNearest(8, group_size))

    def run(self, program: Program) -> PassReport:
        report = PassReport()
        for value in float_matrices(program, report):
            spec = self.embedding if is_embedding_or_head(value) else self.linear
            self._quantize(program, value, spec)
            report.count(spec.dtype)
        return report

    def _quantize(self, program: Program, value: ir.Value, spec: RoundToNearest) -> None:
        graph = program.model.graph
        name, shape = str(value.name), dims(value)
        assert shape is not None and isinstance(shape[0], int) and isinstance(shape[1], int)
        rows, columns = shape[0], shape[1]
        groups = spec.groups(columns, name)
        parts = [weight_input(f"{name}.codes", _TYPES[spec.dtype], spec.dtype, (rows, columns))]
        parts.append(weight_input(f"{name}.scales", ir.DataType.FLOAT16, "float16", (rows, groups)))
        if spec.bits == 4:
            parts.append(weight_input(f"{name}.zeros", ir.DataType.FLOAT16, "float16", (rows, groups)))
        index = graph.inputs.index(value)
        graph.inputs[index : index + 1] = parts
        readers = list(value.uses())
        first = next(node for node in graph if any(node is reader for reader, _ in readers))
        if spec.bits == 4:
            decode = new_node(DEQUANTIZE_OP, parts, [f"{name}.float32"], like=first, domain=MASK_DOMAIN)
            add_function(program.model, dequantize_groups_function())
        else:
            scales = new_node("Cast", [parts[1]], [f"{name}.scales.float32"], like=first, to=int(ir.DataType.FLOAT))
            scales.outputs[0].type, scales.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), parts[1].shape
            graph.insert_before(first, scales)
            operands = [parts[0], scales.outputs[0]]
            decode = new_node(
                "DequantizeLinear", operands, [f"{name}.float32"], like=first, axis=1, block_size=columns // groups
            )
        decode.outputs[0].type, decode.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), value.shape
        graph.insert_before(first, decode)
        for reader, operand in readers:
            reader.replace_input_with(operand, decode.outputs[0])
        if name in program.weights:
            matrix = QuantizedMatrix(program.weights.pop(name), spec, name)
            program.weights[f"{name}.codes"] = matrix.codes
            program.weights[f"{name}.scales"] = matrix.scales
            if matrix.zeros is not None:
                program.weights[f"{name}.zeros"] = matrix.zeros

    def decoded_weights(self, before: Tensors, after: Tensors) -> Arrays:
        return decode_codes(self.name, before, after)
