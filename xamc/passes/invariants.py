"""What must hold after every graph pass, on the twin and on the real program; cheap, structural, always on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx
import onnx_ir as ir

from xamc.errors import InternalError
from xamc.ir.names import (
    ALIAS_KEY,
    ALL_GATHER_OP,
    ALL_REDUCE_OP,
    DEQUANTIZE_KV_OP,
    DEQUANTIZE_OP,
    GATHER_POSITION_OP,
    IR_VERSION,
    MASK_DOMAIN,
    MASK_OP,
    OLDER_OPSETS,
    OPSET,
    QUANTIZE_KV_OP,
    QUANTIZED_LINEAR_OP,
    SWIGLU_OP,
    VASTAI_DOMAIN,
    WEIGHT_ROLE,
)
from xamc.ir.onnx_graph import dims
from xamc.ir.program import Program

_STANDARD = (
    "Add",
    "And",
    "Attention",
    "Cast",
    "Concat",
    "Constant",
    "DequantizeLinear",
    "Div",
    "Expand",
    "Gather",
    "GatherElements",
    "GatherND",
    "Greater",
    "Identity",
    "MatMul",
    "Mul",
    "Neg",
    "Pow",
    "RMSNormalization",
    "Range",
    "ReduceMean",
    "Reciprocal",
    "Reshape",
    "RotaryEmbedding",
    "ScatterND",
    "Shape",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "TensorScatter",
    "Transpose",
    "Unsqueeze",
    "Where",
)
KNOWN_OPS = frozenset(
    {
        *(("", op) for op in _STANDARD),
        (MASK_DOMAIN, MASK_OP),
        (MASK_DOMAIN, SWIGLU_OP),
        (MASK_DOMAIN, GATHER_POSITION_OP),
        (MASK_DOMAIN, DEQUANTIZE_OP),
        (MASK_DOMAIN, QUANTIZE_KV_OP),
        (MASK_DOMAIN, DEQUANTIZE_KV_OP),
        (MASK_DOMAIN, ALL_REDUCE_OP),
        (MASK_DOMAIN, ALL_GATHER_OP),
        (VASTAI_DOMAIN, QUANTIZED_LINEAR_OP),
    }
)
"""The closed set of operators of our IR, by (domain, name)."""

_TYPE_NAMES: dict[ir.DataType | None, str] = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.BFLOAT16: "bfloat16",
    ir.DataType.INT8: "int8",
    ir.DataType.UINT8: "uint8",
    ir.DataType.INT4: "int4",
    ir.DataType.UINT4: "uint4",
}
_CACHES = (("cache_key.", "updated_key."), ("cache_value.", "updated_value."))
_PASTS = (("past_key.", "present_key."), ("past_value.", "present_value."))


def check_invariants(program: Program, after: str = "export") -> None:
    """Checks types, shapes, operators, names, weights and the KV contract of a program.

    Args:
        program: the program; its weights may be absent altogether (a graph without a checkpoint).
        after: the stage or pass that made it, for the message.

    Raises:
        InternalError: E1305 naming `after`, with everything that is wrong in its details.
    """
    problems = [
        *_graph_problems(program.model),
        *_weight_problems(program),
        *_cache_problems(program),
    ]
    if not problems:
        problems = list(_inference_problems(program.model))
    if problems:
        raise InternalError(
            "E1305",
            f"{after} left a graph that breaks the IR's rules: {problems[0]}",
            fix=f"this is a defect of {after}; compile with passes.disable: [{after}] if the target allows it",
            details=tuple(problems),
        )


def _graph_problems(model: ir.Model) -> Iterator[str]:
    graph = model.graph
    opset = graph.opset_imports.get("", 0)
    if {OPSET: IR_VERSION, **OLDER_OPSETS}.get(opset) != model.ir_version:
        yield f"IR version {model.ir_version} and opset {opset}, not {IR_VERSION} and {OPSET}"
    if graph.initializers:
        yield f"initializers {', '.join(graph.initializers)}: weights are graph inputs"
    defined: set[ir.Value] = set(graph.inputs)
    names = Counter(value.name for value in graph.inputs)
    for node in graph:
        place = f"{node.op_type} {node.outputs[0].name!r}"
        if (node.domain, node.op_type) not in KNOWN_OPS:
            yield f"unknown operator {node.domain or 'ai.onnx'}::{node.op_type} at {node.outputs[0].name!r}"
        elif node.domain != "" and node.op_identifier() not in model.functions:
            yield f"{place} calls a function that the model does not define"
        for value in node.inputs:
            if value is not None and value not in defined:
                yield f"{place} reads {value.name!r}, which is not defined before it"
        for value in node.outputs:
            names[value.name] += 1
            defined.add(value)
            if value.name != "" and (value.type is None or value.shape is None):
                yield f"{place} has no type or no shape"
    yield from (f"{count} values are called {name!r}" for name, count in names.items() if count > 1 and name != "")
    for value in graph.outputs:
        if value not in defined:
            yield f"the output {value.name!r} is not computed"


def _weight_problems(program: Program) -> Iterator[str]:
    inputs = {value.name: value for value in program.weight_inputs()}
    for value in inputs.values():
        stored = value.metadata_props[WEIGHT_ROLE]
        if _TYPE_NAMES.get(value.dtype) != stored:
            yield f"the weight {value.name!r} is marked {stored} and typed {value.dtype}"
    if not program.weights:
        return
    for name in sorted(set(program.weights) ^ {str(name) for name in inputs}):
        yield f"the weight {name!r} is " + ("not in the graph" if name in program.weights else "only in the graph")
    for name, tensor in program.weights.items():
        if name in inputs and dims(inputs[name]) != tuple(tensor.shape):
            yield f"the weight {name!r} is {tuple(tensor.shape)} and declared {dims(inputs[name])}"
        if name in inputs and inputs[name].metadata_props[WEIGHT_ROLE] != tensor.dtype:
            yield f"the weight {name!r} is {tensor.dtype} and declared {inputs[name].metadata_props[WEIGHT_ROLE]}"


def _cache_problems(program: Program) -> Iterator[str]:
    """N layers have 2N past inputs and present outputs, or 2N cache inputs that 2N outputs update, in place or not.

    A static prefill graph has no past, and its tokens' positions are constants; that of an embedding model has no
    outputs but its hidden states either.
    """
    graph, layers = program.model.graph, range(program.config.num_layers)
    inputs = {value.name: value for value in graph.inputs}
    outputs = {value.name: value for value in graph.outputs}
    in_place, in_rows = "write_index" in inputs, "batch_index" in inputs
    pairs = [(f"{old}{i}", f"{new}{i}") for i in layers for old, new in (_CACHES if in_place or in_rows else _PASTS)]
    expected_outputs = {"logits", *(new for _, new in pairs)}
    is_embedding = "position_ids" not in inputs and set(outputs) == {"logits"}
    if set(outputs) != expected_outputs and not is_embedding:
        yield f"the outputs differ from the KV contract: {sorted(set(outputs) ^ expected_outputs, key=str)}"
    known = {
        "input_ids",
        "position_ids",
        "rope_cos",
        "rope_sin",
        "write_index",
        "last_index",
        "attention_mask",
        *(("tokens", "batch_index", "batch_valid_length", "zactivate_len") if in_rows else ()),
        *(old for old, _ in pairs),
    }
    for value in program.data_inputs():
        if value.name not in known:
            yield f"the input {value.name!r} is neither a weight nor part of the signature"
    if in_rows:
        yield from (f"the input {old!r} is missing" for old, _ in pairs if old not in inputs)
        return
    if "position_ids" not in inputs:
        # prefill: positions are 0 to S - 1 and there is nothing before them
        yield from (f"the input {old!r} has no place in a prefill graph" for old, _ in pairs if old in inputs)
        return
    for old, new in pairs:
        if old not in inputs:
            yield f"the input {old!r} is missing"
        elif in_place and new in outputs:
            yield from _alias_problems(inputs[old], outputs[new])


def _alias_problems(cache: ir.Value, updated: ir.Value) -> Iterator[str]:
    """A cache may be overwritten only when its old contents are read by nothing else."""
    writer = updated.producer()
    if writer is None or writer.op_type != "TensorScatter" or writer.inputs[0] is not cache:
        yield f"{updated.name!r} is not a TensorScatter into {cache.name!r}"
    if updated.metadata_props.get(ALIAS_KEY) != cache.name:
        yield f"{updated.name!r} does not name {cache.name!r} as the memory it shares"
    if dims(updated) != dims(cache) or updated.dtype != cache.dtype:
        yield f"{updated.name!r} is {updated.dtype} {dims(updated)}, its cache {cache.dtype} {dims(cache)}"
    for reader, _ in cache.uses():
        if reader is not writer and reader.op_type != "Shape":
            yield f"{reader.op_type} {reader.outputs[0].name!r} reads {cache.name!r} although it is overwritten"


def _inference_problems(model: ir.Model) -> Iterator[str]:
    """ONNX's own opinion: operator signatures, types, and every declared shape against the inferred one."""
    proto = ir.serde.serialize_model(model)
    declared = {value.name: dims(value) for node in model.graph for value in node.outputs}
    try:
        onnx.checker.check_model(proto)
        for info in proto.graph.value_info:
            info.type.tensor_type.ClearField("shape")
        inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        yield str(error).strip()
        return
    for info in inferred.graph.value_info:
        have = declared.get(info.name)
        want = [dim.dim_value if dim.HasField("dim_value") else None for dim in info.type.tensor_type.shape.dim]
        if have is None or not info.type.tensor_type.HasField("shape"):
            continue
        sizes = [dim if isinstance(dim, int) else None for dim in have]
        if len(sizes) != len(want) or any(
            a != b for a, b in zip(sizes, want, strict=True) if a is not None and b is not None
        ):
            yield f"{info.name!r} is declared {list(have)} and computed as {want}"
