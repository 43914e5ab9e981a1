"""Every pass, made wrong by one edit of its source, is caught by the proof on the twin or by an invariant."""

from __future__ import annotations

import importlib

import pytest

from tests import twins
from tests.golden_files import FOLDER
from tests.mutation import mutated
from tests.passes.graph.cases import PASSES, golden_text
from xamc.compiler.errors import InternalError
from xamc.compiler.verify.proof import prove
from xamc.passes.protocol import GraphPass

# pass → edits of its source, each of which must be noticed
MUTATIONS: dict[str, list[tuple[str, str]]] = {
    "cleanup": [
        ("axis < len(source) and source[axis] == dim", "axis < len(source) and source[axis] != dim"),
        ("shape[target.index(-1)] = have // want", "shape[target.index(-1)] = want // have"),
        ("tuple(id(value) for value in node.inputs)", "len(node.inputs)"),
        ("tuple(sorted((name, _attribute_key(attribute)) for name, attribute in node.attributes.items()))", "()"),
        ("node.outputs[0].replace_all_uses_with(node.inputs[0])", "pass"),
        ("return shape[start:end]", "return shape[: end - start]"),
    ],
    "norms": [
        ("float(np.format_float_positional(np.float32(epsilon), unique=True))", "float(epsilon) * 3"),
        ("division.inputs[0] is x and", "division.inputs[0] is not x and"),
        ('"RMSNormalization", [x, weight]', '"RMSNormalization", [weight, x]'),
        ("scalar(square.inputs[1]) == 2.0", "scalar(square.inputs[1]) == 3.0"),
    ],
    "swiglu": [
        ('[node.inputs[0], up], ["gated"]', '[up, node.inputs[0]], ["gated"]'),
        ('emit("Mul", [gate, sigmoid], "silu")', 'emit("Mul", [up, sigmoid], "silu")'),
        ('emit("Sigmoid", [gate], "sigmoid")', 'emit("Sigmoid", [up], "sigmoid")'),
        ("if product.inputs[0] is silu.outputs[0] else", "if product.inputs[0] is not silu.outputs[0] else"),
    ],
    "last_position": [
        ('emit("Unsqueeze", [inputs[1], axes], "indices")', 'emit("Sub", [inputs[1], inputs[1]], "indices")'),
        ("head.replace_input_with(0, gather.outputs[0])", "pass"),
        ('[hidden, last_index], ["last_hidden"]', '[model.graph.inputs[0], last_index], ["last_hidden"]'),
        ('logits.shape = ir.Shape(["batch", 1, program', 'logits.shape = ir.Shape(["batch", 2, program'),
    ],
    "kv_cache": [
        ('"Add", [write_index, length]', '"Sub", [write_index, length]'),
        ('inputs["input_ids"], 1, "new_tokens"', 'inputs["input_ids"], 0, "new_tokens"'),
        (
            "(contract.past_value, cache_value, updated_value, 2)",
            "(contract.past_value, cache_value, updated_value, 1)",
        ),
        ("[value, node.inputs[operand], write_index]", "[value, node.inputs[operand]]"),
        ("axis=-2,", "axis=-1,"),
        ("*updated, mask, None", "*updated[::-1], mask, None"),
        ("*updated, mask, None", "*updated, None, None"),
        ("dict(node.attributes)", "{}"),
        ("node.replace_input_with(1, capacity)", "node.replace_input_with(1, length)"),
        ("scatter.outputs[0].metadata_props[ALIAS_KEY] = cache(layer)", "pass"),
    ],
    "vocab_padding": [
        ("return -(-rows // self.multiple) * self.multiple", "return (rows // self.multiple + 2) * self.multiple"),
        ("return -(-rows // self.multiple) * self.multiple", "return rows // self.multiple * self.multiple"),
        ("Pad(program.weights[value.name], padded)", "Pad(program.weights[value.name], padded + 1)"),
        ("(weight, 0) for weight", "(weight, -1) for weight"),
        ("Pad(program.weights[value.name], padded)", "program.weights[value.name]"),
        ("value.shape = ir.Shape(shape)", "pass"),
    ],
    "weight_storage": [
        ("in float_matrices(program, report, self.vectors):", "in float_matrices(program, report, self.vectors)[:-1]:"),
        ("program.weights[value.name] = _stored", "_ = _stored"),
        ("value.metadata_props[WEIGHT_ROLE] = self.dtype", "pass"),
        ("_stored(program.weights[value.name], self", "_stored(next(iter(program.weights.values())), self"),
        ("for reader, index in readers:", "for reader, index in readers[:0]:"),
    ],
    "quantize_weights": [
        ("in float_matrices(program, report):", "in float_matrices(program, report)[:-1]:"),
        ("axis=1, block_size=columns // groups", "axis=0, block_size=columns // groups"),
        ("axis=1, block_size=columns // groups", "axis=1, block_size=columns // groups // 2"),
        ("new_node(DEQUANTIZE_OP, parts,", "new_node(DEQUANTIZE_OP, [*parts[:2], parts[1]],"),
        ('emit("Sub", [grouped, zero]', 'emit("Sub", [zero, grouped]'),
        ("add_function(program.model, dequantize_groups_function())", "pass"),
        ('program.weights[f"{name}.zeros"] = matrix.zeros', 'program.weights[f"{name}.zeros"] = matrix.scales'),
        (
            "QuantizedMatrix(program.weights.pop(name), spec, name)",
            "QuantizedMatrix(program.weights.pop(name), self.linear, name)",
        ),
        ('program.weights[f"{name}.codes"] = matrix.codes', 'program.weights[f"{name}.codes"] = matrix.scales'),
        ("reader.replace_input_with(operand, decode", "reader.replace_input_with(operand, scales"),
    ],
    "quantize_per_channel": [
        ("[product.inputs[0], codes, scales]", "[product.inputs[0], codes, codes]"),
        ('"transposed", perm=[1, 0])], "product")', '"transposed", perm=[0, 1])], "product")'),
        ('emit("Mul", [levels, scale], "weight")', 'emit("Div", [levels, scale], "weight")'),
        ('"last", value_ints=[-1])', '"last", value_ints=[0])'),
        ("add_function(program.model, quantized_linear_function())", "pass"),
        ("if is_embedding_or_head(value):", "if False:"),
        ("= matrix.codes", "= matrix.scales"),
        ("= RowScales(matrix)", "= matrix.scales"),
        ("RoundToNearest(8, None), init=False", "RoundToNearest(8, 32), init=False"),
        ("for product in products:", "for product in products[:0]:"),
    ],
    "byte_codes": [
        ("ir.TensorType(ir.DataType.UINT8)", "ir.TensorType(ir.DataType.INT8)"),
        ("value.dtype == ir.DataType.UINT4", "value.dtype == ir.DataType.INT8"),
        ("Widen(program.weights[value.name])", "program.weights[value.name]"),
    ],
}


def _caught(graph_pass: GraphPass) -> bool:
    """Whether the proof, an invariant or the pass's golden shows that something is wrong."""
    case = PASSES[graph_pass.name]
    for kind in twins.KINDS:
        program, cases = twins.twin(kind)
        try:
            report = prove([*case.before, graph_pass], program, cases)
        except InternalError:
            return True
        if report.failed is not None:
            assert report.failed.name == graph_pass.name
            return True
    return (FOLDER / "passes" / f"{graph_pass.name}.txt").read_text() != golden_text(graph_pass.name, graph_pass)


CASES = [(name, old, new) for name, edits in MUTATIONS.items() for old, new in edits]


@pytest.mark.parametrize(("name", "old", "new"), CASES, ids=[f"{name}-{i}" for i, (name, _, _) in enumerate(CASES)])
def test_mutated_pass_is_caught(name: str, old: str, new: str) -> None:
    module = importlib.import_module(f"xamc.passes.graph.{name}")
    graph_pass = PASSES[name].make(mutated(module, old, new))
    assert _caught(graph_pass), f"{name} with {new!r} for {old!r} goes unnoticed"


@pytest.mark.parametrize("name", MUTATIONS)
def test_unmutated_pass_is_proven(name: str) -> None:
    assert not _caught(PASSES[name].make(importlib.import_module(f"xamc.passes.graph.{name}")))
