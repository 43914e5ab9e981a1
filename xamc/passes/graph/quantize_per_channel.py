"""Stores the weights of linear layers as int8 with one scale per output channel, behind the vendor's own operator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from xamc.ir.names import QUANTIZED_LINEAR_OP, VASTAI_DOMAIN
from xamc.ir.onnx_graph import (
    Emit,
    add_function,
    dims,
    is_embedding_or_head,
    make_function,
    new_node,
    take_over,
)
from xamc.ir.program import Program
from xamc.ir.weights.quantize import QuantizedMatrix, RoundToNearest, RowScales
from xamc.passes.protocol import Arrays, NonMatch, PassReport, SameSignature, Tensors
from xamc.passes.stored_matrices import decode_codes, weight_input


def quantized_linear_function() -> ir.Function:
    """QuantizedLinearPerChannel(x [..., K], codes int8 [O, K], scales float16 [O]) -> x · (codes * scales)ᵀ."""

    def build(emit: Emit, inputs: Sequence[ir.Value]) -> ir.Value:
        x, codes, scales = inputs
        last = emit("Constant", [], "last", value_ints=[-1])
        levels = emit("Cast", [codes], "levels", to=int(ir.DataType.FLOAT))
        scale = emit("Unsqueeze", [emit("Cast", [scales], "scales32", to=int(ir.DataType.FLOAT)), last], "scale")
        weight = emit("Mul", [levels, scale], "weight")
        return emit("MatMul", [x, emit("Transpose", [weight], "transposed", perm=[1, 0])], "product")

    return make_function(QUANTIZED_LINEAR_OP, ["x", "codes", "scales"], build, domain=VASTAI_DOMAIN)


@dataclass(frozen=True)
class QuantizePerChannel(SameSignature):
    """Weight-only int8 of every linear layer but lm_head, symmetric, one scale per output channel (row).

        before: MatMul(x [..., K], Transpose(weight float32 [O, K]))
        after:  Vastai::QuantizedLinearPerChannel(x, weight.codes int8 [O, K], weight.scales float16 [O])

    scale[o] = max |W[o, :]| / 127, rounded up to float16; code = round(W / scale) in [-127, 127], rounded with the
    stored scale. Rounding up keeps the codes in range without a clamp that would move the largest weight, and every
    weight within half a step of its original. A row of zeros has scale 1. float16 because the rest of the graph is:
    a float32 scale would gain 2^-12 of a step. Embedding, lm_head, norms and biases are left alone, and a bias stays
    an Add after the operator, which is a function of standard operators so that ONNX Runtime executes it.
    """

    name: str = "quantize_per_channel"
    tolerance: str = "stored_weights"
    rounding: RoundToNearest = field(default=RoundToNearest(8, None), init=False)

    def run(self, program: Program) -> PassReport:
        report = PassReport()
        for value in program.weight_inputs():
            products = _products(value)
            if isinstance(products, str):
                report.skipped.append(NonMatch(str(value.name), products))
                continue
            self._quantize(program, value, products)
            report.count("linear")
        return report

    def _quantize(self, program: Program, value: ir.Value, products: Sequence[ir.Node]) -> None:
        graph, name, shape = program.model.graph, str(value.name), dims(value)
        assert shape is not None
        codes = weight_input(f"{name}.codes", ir.DataType.INT8, "int8", shape)
        scales = weight_input(f"{name}.scales", ir.DataType.FLOAT16, "float16", shape[:1])
        add_function(program.model, quantized_linear_function())
        for product in products:
            operands = [product.inputs[0], codes, scales]
            node = new_node(QUANTIZED_LINEAR_OP, operands, [f"{name}.product"], like=product, domain=VASTAI_DOMAIN)
            graph.insert_before(product, node)
            take_over(node.outputs[0], product.outputs[0])
            graph.remove(product, safe=True)
        for transpose, _ in list(value.uses()):
            graph.remove(transpose, safe=True)
        index = graph.inputs.index(value)
        graph.inputs[index : index + 1] = [codes, scales]
        if name in program.weights:
            matrix = QuantizedMatrix(program.weights.pop(name), self.rounding, name)
            program.weights[codes.name or ""] = matrix.codes
            program.weights[scales.name or ""] = RowScales(matrix)

    def decoded_weights(self, before: Tensors, after: Tensors) -> Arrays:
        return decode_codes(self.name, before, after)


def _products(value: ir.Value) -> list[ir.Node] | str:
    """The MatMuls that multiply by a weight's transpose, or why it stays as it is."""
    if value.dtype != ir.DataType.FLOAT:
        return f"stored as {value.dtype}"
    if value.shape is None or len(value.shape) != 2:
        return "a norm weight or a bias"
    if is_embedding_or_head(value):
        return "the embedding or lm_head"
    products: list[ir.Node] = []
    for reader, _ in value.uses():
        if reader.op_type != "Transpose" or tuple(reader.attributes["perm"].as_ints()) != (1, 0):
            return f"read by {reader.op_type} {reader.outputs[0].name!r}, not by the transpose of a linear layer"
        for product, operand in reader.outputs[0].uses():
            if product.op_type != "MatMul" or operand != 1:
                return f"its transpose is read by {product.op_type} {product.outputs[0].name!r}, not as a linear layer"
            products.append(product)
    return products or "read by nothing"
