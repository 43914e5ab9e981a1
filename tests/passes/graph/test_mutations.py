"""Every pass, made wrong by one edit of its source, is caught by the proof on the twin or by an invariant."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

import pytest

from tests import twins
from tests.golden_files import FOLDER
from tests.mutation import mutated
from tests.passes.graph.cases import PASSES, golden_of
from xamc.errors import InternalError
from xamc.ir.program import Program
from xamc.verify.proof import prove
from xamc.verify.scenario import Case

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
            "(past_value, cache_value, updated_value, 2)",
            "(past_value, cache_value, updated_value, 1)",
        ),
        ("[value, node.inputs[operand], write_index]", "[value, node.inputs[operand]]"),
        ("axis=-2,", "axis=-1,"),
        ("*updated, mask, None", "*updated[::-1], mask, None"),
        ("*updated, mask, None", "*updated, None, None"),
        ("dict(node.attributes)", "{}"),
        ("node.replace_input_with(1, capacity)", "node.replace_input_with(1, length)"),
        ("scatter.outputs[0].metadata_props[ALIAS_KEY] = cache(layer)", "pass"),
    ],
    "standard_ops": [
        ("np.array(2.0, np.float32)", "np.array(3.0, np.float32)"),
        ("np.array(1.0, np.float32)", "np.array(1.001, np.float32)"),
        ("[weight, scaled.outputs[0]]", "[x, scaled.outputs[0]]"),
        ("[one.outputs[0], root.outputs[0]]", "[root.outputs[0], one.outputs[0]]"),
        ('norm.attributes.get_float("epsilon", 1e-5)', "0.0"),
        ("zip(function.inputs, call.inputs, strict=True)", "zip(function.inputs, call.inputs[::-1], strict=True)"),
        ("model.ir_version = OLDER_OPSETS[opset]", "pass"),
        ("take_over(computed, output)", "pass"),
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
    "key_bias_apart": [
        ("[whole.outputs[0], tables[0]]", "[whole.outputs[0], tables[1]]"),
        ("[negative.outputs[0], low.outputs[0]]", "[low.outputs[0], negative.outputs[0]]"),
        ('"Add", [present, rotated.outputs[0]]', '"Sub", [present, rotated.outputs[0]]'),
        ("[lifted.outputs[0], own]", "[own, lifted.outputs[0]]"),
        ("reader.replace_input_with(operand, keys.outputs[0])", "pass"),
        ("addition.inputs[1 - uses[0][1]]", "addition.outputs[0]"),
    ],
    "kv_int8": [
        ('"token_axis", value_ints=[1])\n        levels', '"token_axis", value_ints=[2])\n        levels'),
        ('"token_axis", value_ints=[1])\n        centred', '"token_axis", value_ints=[2])\n        centred'),
        ('emit("Add", [scaled,', 'emit("Sub", [scaled,'),
        ('emit("Sub", [x,', 'emit("Add", [x,'),
        ('emit("Div", [centred,', 'emit("Mul", [centred,'),
        ('emit("Round", [', 'emit("Floor", ['),
        ('"low", value_float=-float(LARGEST_CODE)', '"low", value_float=-128.0'),
        ('"high", value_float=float(LARGEST_CODE)', '"high", value_float=126.0'),
        ("[present, scales, zeros]", "[present, zeros, scales]"),
        ("operands = [past, scales, zeros]", "operands = [past, zeros, zeros]"),
        ("reader.replace_input_with(operand, node.outputs[0])", "pass"),
        ("outputs[_present(past)], scales", "outputs[_present('past_key.0')], scales"),
        ('present_key if kind == "past_key"', 'present_key if kind == "past_value"'),
        ("program.weights[name] = ArrayTensor(array)", "program.weights[name] = ArrayTensor(array[::-1])"),
        ("add_function(program.model, quantize_kv_function())", "pass"),
    ],
    "phase": [
        ('if self.bucket.kind == "prefill" else 1', 'if self.bucket.kind == "prefill" else 2'),
        ("return self.bucket.length - self._tokens", "return self.bucket.length - self._tokens - 1"),
        ("np.arange(self.bucket.length, dtype=np.int64)[None]", "np.full((1, self.bucket.length), 1)"),
        ('"Greater", [mask, zero.outputs[0]]', '"Greater", [zero.outputs[0], mask]'),
        ('"And", [window, slots.outputs[0]]', '"And", [window, window]'),
        ("allowed[window], *node.inputs[4:6]", "allowed[None], *node.inputs[4:6]"),
        ('attention.attributes.pop("is_causal", None)', "pass"),
        ("zip(node.inputs[1:3], node.outputs[1:3], strict", "zip(node.inputs[1:3], node.outputs[2:0:-1], strict"),
        ("_attention(list(node.inputs[:4]), node)", "_attention(list(node.inputs[:3]), node)"),
        ("valid[:, :past] = 1", "valid[:, : past + 1] = 1"),
        ("valid[:, -1] = 1", "valid[:, -1] = 0"),
        ("node.replace_input_with(1, keys.outputs[0])", "pass"),
        ("np.array(self.bucket.length, np.int64)", "np.array(self.bucket.length - 1, np.int64)"),
        ("write_reshape_sizes(graph)", "pass"),
    ],
    "causal_mask": [
        ("np.arange(1, query[2] + 1, dtype", "np.arange(query[2], dtype"),
        ("[new[0].outputs[0], new[1].outputs[0]]", "[new[1].outputs[0], new[0].outputs[0]]"),
        ("float(np.finfo(np.float16).min)", "-6.0"),
        ("float(np.finfo(np.float16).min)", "float(np.finfo(np.float32).min)"),
        ("[visible, seen.outputs[0], masked.outputs[0]]", "[visible, masked.outputs[0], seen.outputs[0]]"),
        ('"And", [condition, new[-1].outputs[0]]', '"And", [condition, condition]'),
        ("(known - window)", "(known - window + 1)"),
        ('"Sub", [positions, length', '"Add", [positions, length'),
        ("[keys.outputs[0], new[-1].outputs[0]]", "[new[-1].outputs[0], keys.outputs[0]]"),
        ("[:, None, :, None]", "[:, None, None, :]"),
        ("key = (condition, causal)", "key = (None, causal)"),
        ('node.attributes.pop("is_causal", None)', "pass"),
    ],
    "rope_table": [
        ("np.concatenate([half, half], axis=-1)", "np.repeat(half, 2, axis=-1)"),
        ("zip(_TABLES, halves, strict=True)", "zip(_TABLES, halves[::-1], strict=True)"),
        ("rope_table(config, rows,", "rope_table(config, rows - 1,"),
        ('part(0, half, "low"), part(half, 2 * half, "high")', 'part(half, 2 * half, "low"), part(0, half, "high")'),
        ('"Neg", [high.outputs[0]]', '"Neg", [low.outputs[0]]'),
        ("[negative.outputs[0], low.outputs[0]]", "[low.outputs[0], negative.outputs[0]]"),
        ('"Mul", [x, cos]', '"Mul", [x, sin]'),
        ('"Mul", [turned.outputs[0], sin]', '"Mul", [x, sin]'),
        ('"Add", [along', '"Sub", [along'),
        ('value.metadata_props[WEIGHT_ROLE] = "float32"', "pass"),
        ("= ArrayTensor(table)", "= ArrayTensor(-table)"),
        ("gathered[positions], config.head_dim // 2", "gathered[positions], config.head_dim // 4"),
    ],
    "eager_attention": [
        ('"Concat", [past, new]', '"Concat", [new, past]'),
        ("axis=2)", "axis=1)"),
        ("[batch, kv_heads, heads // kv_heads, length", "[batch, heads // kv_heads, kv_heads, length"),
        ('node.attributes["scale"].as_float()', '1.01 * node.attributes["scale"].as_float()'),
        ("perm=[0, 1, 3, 2]", "perm=[1, 0, 3, 2]"),
        ('"Add", [scores.outputs[0], mask]', '"Sub", [scores.outputs[0], mask]'),
        ("axis=-1))", "axis=-2))"),
        ('"MatMul", [new[-1].outputs[0], v]', '"MatMul", [new[-1].outputs[0], k]'),
        ("k = _repeat(graph, node, k", "k = _repeat(graph, node, v"),
        ("k, v = (concat", "v, k = (concat"),
        ("if mask is not None:", "if mask is None:"),
    ],
    "cache_rows": [
        ('[following, slots], "visible"', '[own, slots], "visible"'),
        ('[slots, oldest], f"window', '[oldest, slots], f"window'),
        ("[visible, inside]", "[visible, visible]"),
        ("windows[window] = sizes.visible(window)", "windows[window] = sizes.visible(None)"),
        (
            "(past_value, cache_value, updated_value, 2)",
            "(past_value, cache_value, updated_value, 1)",
        ),
        ("[past, places, turned.outputs[0]]", "[past, places, past]"),
        ('[f"{names[1]}.new"], like=node, perm=[0, 2, 1, 3]', '[f"{names[1]}.new"], like=node, perm=[0, 1, 2, 3]'),
        ("[scatter.outputs[0], *bounds]", "[past, *bounds]"),
        ('sizes.call["batch_index"]], [f"{stem}_rows"]', 'sizes.call["batch_valid_length"]], [f"{stem}_rows"]'),
        (
            '"Sub", [sizes.call["batch_valid_length"], sizes.one]',
            '"Add", [sizes.call["batch_valid_length"], sizes.one]',
        ),
        ('sizes.batch_numbers(), [1, 2], "last.row"', 'sizes.call["batch_index"], [1, 2], "last.row"'),
        ('attention.attributes.pop("is_causal", None)', "pass"),
        (
            'self.lifted(self.call["batch_valid_length"], [1], "positions")',
            'self.lifted(self.call["batch_index"], [1], "positions")',
        ),
        (
            'pair = [self.lifted(rows, [2], "places.row"), self.lifted(positions, [2], "places.slot")]',
            'pair = [self.lifted(positions, [2], "places.row"), self.lifted(rows, [2], "places.slot")]',
        ),
        ('inputs["position_ids"].replace_all_uses_with(positions)', "pass"),
    ],
    "half_precision": [
        ('_WIDE = ("RMSNormalization", "Softmax")', '_WIDE = ("RMSNormalization",)'),
        ('_WIDE = ("RMSNormalization", "Softmax")', '_WIDE = ("Softmax",)'),
        ("if node in masked:", "if node in ():"),
        ("node.outputs[0].replace_all_uses_with(source)", "pass"),
        ("array.astype(np.float16)", "(1.5 * array).astype(np.float16)"),
        ("_narrow_result(graph, node)\n", "pass\n"),
        ("result.replace_all_uses_with(half.outputs[0])", "pass"),
        ("if value not in wide:", "if not wide:"),
    ],
    "insert_slice": [
        ('("start", length - 1)', '("start", length - 2)'),
        ('("stop", length)', '("stop", length - 1)'),
        ('("axis", 1)', '("axis", 2)'),
        ("head.replace_input_with(0, last.outputs[0])", "pass"),
        ("shape[1] == 1", "shape[1] != 1"),
    ],
    "embedding_output": [
        ("graph.outputs[:] = [hidden]", "graph.outputs[:] = [logits]"),
        ('hidden.name = "logits"', 'hidden.name = "hidden"'),
        ("head_matmul(logits, self.name).inputs[0]", "head_matmul(logits, self.name).inputs[0].producer().inputs[0]"),
        ("remove_dead(program.model)", "pass"),
        ("if not value.uses():", "if value.uses():"),
        ("graph.inputs.remove(value)", "pass"),
    ],
    "fp16_clamp": [
        ("np.clip(array, -_LIMIT, _LIMIT)", "np.clip(array, -6.0, _LIMIT)"),
        ("(magnitude > _LIMIT).any()", "(magnitude < _LIMIT).any()"),
        ("value.replace_all_uses_with(clamped.outputs[0])", "pass"),
        ("float(np.finfo(np.float16).max)", "float(np.finfo(np.float32).max)"),
    ],
    "byte_codes": [
        ("ir.TensorType(ir.DataType.UINT8)", "ir.TensorType(ir.DataType.INT8)"),
        ("value.dtype == ir.DataType.UINT4", "value.dtype == ir.DataType.INT8"),
        ("Widen(program.weights[value.name])", "program.weights[value.name]"),
    ],
}


@functools.cache
def _before(name: str, setup: int, kind: str) -> tuple[Program, list[Case]]:
    """The twin as the pass finds it, and the calls that it can serve then."""
    program, cases = twins.twin(kind)
    return program, prove(PASSES[name].setups[setup].before, program, cases).require().cases


def _caught(name: str, module: ModuleType) -> bool:
    """Whether the proof, an invariant or the pass's golden shows that something is wrong."""
    for setup, case in enumerate(PASSES[name].setups):
        for kind in twins.KINDS:
            program, cases = _before(name, setup, kind)
            try:
                report = prove([case.make(module)], twins.copy(program), cases)
            except InternalError:
                return True
            if report.failed is not None:
                assert report.failed.name == name
                return True
    return (FOLDER / "passes" / f"{name}.txt").read_text() != golden_of(name, module)


CASES = [(name, old, new) for name, edits in MUTATIONS.items() for old, new in edits]


@pytest.mark.parametrize(("name", "old", "new"), CASES, ids=[f"{name}-{i}" for i, (name, _, _) in enumerate(CASES)])
def test_mutated_pass_is_caught(name: str, old: str, new: str) -> None:
    module = importlib.import_module(f"xamc.passes.graph.{name}")
    assert _caught(name, mutated(module, old, new)), f"{name} with {new!r} for {old!r} goes unnoticed"


@pytest.mark.parametrize("name", MUTATIONS)
def test_unmutated_pass_is_proven(name: str) -> None:
    assert not _caught(name, importlib.import_module(f"xamc.passes.graph.{name}"))
