"""An ONNX model as a graph to compile: functions inlined, shapes given, constants folded, every operator known."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnxscript import optimizer

from xamc.compiler.frontends.onnx.division import guard_divisions
from xamc.compiler.frontends.onnx.file import OnnxFile, read_onnx
from xamc.compiler.frontends.onnx.functions.expand import expand_functions, expandable
from xamc.compiler.frontends.onnx.half_precision import BFLOAT16, by_operator, half_type, reads_bits, widen
from xamc.compiler.frontends.onnx.shapes import fix_shapes
from xamc.compiler.frontends.onnx.uses import wrong_use
from xamc.compiler.frontends.onnx.weights import lift_weights
from xamc.errors import InputError, UnsupportedError
from xamc.passes.lowering.onnx_operators import RANGES, STANDARD_DOMAINS, obstacle, remedy

_MOST_LISTED = 40
_MOST_NODES_NAMED = 5
_MOST_ROUNDS = 8
# what is computed from constants: position tables and masks, but no second copy of a large weight
_FOLDED_ELEMENTS = 2**20
_MOST_EQUAL = 1024
_TENSOR_TYPES = frozenset(
    getattr(ir.DataType, name)
    for name in (
        "FLOAT",
        "DOUBLE",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
        "UINT8",
        "UINT16",
        "UINT32",
        "UINT64",
        "BOOL",
        "FLOAT16",
    )
)


@dataclass
class OnnxModel:
    """A checked model.

    Attributes:
        file: the file as it was read.
        original: the model with fixed input shapes, its functions inlined, integer divisions guarded, and widened if it
            is of 16-bit floats; nothing else done.
        not_widened: the same, not widened, for ONNX Runtime to compute in 16-bit floats; None for other models.
        half_dtype: that 16-bit float, float16 or bfloat16, or empty.
        model: the same, simplified: constants folded, batch norms merged into convolutions, dead nodes removed.
        operators: operator type → number of nodes of `model`.
        symbols: dimension that varies → its smallest and largest value.
    """

    file: OnnxFile
    original: ir.Model
    not_widened: ir.Model | None
    half_dtype: str
    model: ir.Model
    operators: Mapping[str, int]
    symbols: Mapping[str, tuple[int, int]]


def open_onnx(path: Path, shapes: Mapping[str, Any]) -> OnnxModel:
    """Opens an ONNX file for input shapes.

    Args:
        path: the file.
        shapes: `frontend.shape`.

    Raises:
        InputError: E1152 to E1156, a damaged file, or shapes that don't fit it.
        UnsupportedError: E1154 operators that can't be lowered, all of them; E1157 shapes that depend on data; E1158
            element types that are not computed in.
    """
    file = read_onnx(path)
    original = _inlined(file)
    symbols = fix_shapes(original, shapes, str(path))
    _prepare(original, path)
    half_dtype, not_widened = _widened(original, path)
    model = original.clone()
    try:
        _simplify(model, path)
    except InputError:
        require_operators(original, path, written_out=True)  # the better reason, if it is one
        raise
    # after folding: exporters leave NonZero and sequences of constants behind
    require_operators(model, path)
    _require_types(model, path)
    _require_known(model, path, symbols)
    if symbols:
        model.metadata_props[RANGES] = json.dumps(dict(sorted(symbols.items())))
    operators = Counter(node.op_type for node in model.graph.all_nodes())
    return OnnxModel(file, original, not_widened, half_dtype, model, dict(operators.most_common()), symbols)


def _prepare(model: ir.Model, path: Path) -> None:
    """Fixes what ONNX leaves open, in the graph that is compiled and in the one that it is compared with."""
    for node in model.graph.all_nodes():
        if node.op_type == "TopK" and "sorted" in node.attributes:
            node.attributes["sorted"] = ir.AttrInt64("sorted", 1)  # in any order, and so in this one
    try:
        guard_divisions(model)
    except (ValueError, KeyError, TypeError, RuntimeError, IndexError, ir.passes.PassError) as error:
        raise _not_evaluated(path, error.__cause__ or error) from error


def _widened(model: ir.Model, path: Path) -> tuple[str, ir.Model | None]:
    """Widens a model of 16-bit floats in place; gives their name, and what it was, as ONNX Runtime can run it."""
    try:
        half_dtype = half_type(model)
        if half_dtype is None:
            return "", None
        bits = [node.name or str(node.outputs[0].name) for node in model.graph.all_nodes() if reads_bits(node)]
        if bits:
            raise _refused_types(path, [f"{name} (BitCast) reads the bits of a 16-bit float" for name in bits])
        own = model.clone()
        widen(model)
        if half_dtype == BFLOAT16:
            by_operator(own)
    except (ValueError, KeyError, TypeError, RuntimeError, IndexError, ir.passes.PassError) as error:
        raise _not_evaluated(path, error.__cause__ or error) from error
    return half_dtype.name.lower(), own


def _inlined(file: OnnxFile) -> ir.Model:
    try:
        model = ir.from_proto(file.proto)
        for value in list(model.graph.inputs):
            if value.name in model.graph.initializers:  # old files list initializers among the inputs
                model.graph.inputs.remove(value)
        ir.external_data.set_base_dir(model.graph, file.path.parent)
        result = passes.InlinePass()(model).model
    except RecursionError:
        raise InputError(
            "E1152", f"{file.path} has functions or subgraphs nested without end", "export the model again"
        ) from None
    except (ValueError, KeyError, TypeError, NotImplementedError, AssertionError, ir.passes.PassError) as error:
        raise InputError(
            "E1152",
            f"{file.path} can't be read as a graph: {error}",
            "export the model again",
            details=tuple(str(error.__cause__ or error).splitlines()[:8]),
        ) from error
    return result


def require_operators(model: ir.Model, path: Path, written_out: bool = False) -> None:
    """Refuses a graph with operators that can't be lowered, all of them at once.

    Args:
        model: functions inlined.
        path: the file, for messages.
        written_out: let operators pass that `expand_functions` will replace.

    Raises:
        UnsupportedError: E1154.
    """
    found: dict[tuple[str, str, str], list[ir.Node]] = {}
    versions = model.graph.opset_imports
    for node in model.graph.all_nodes():
        reason = obstacle(node.domain, node.op_type)
        if reason is not None and written_out and expandable(node.domain, node.op_type, versions.get("", 1)):
            continue
        reason = reason or wrong_use(node)
        if reason is not None:
            found.setdefault((node.domain, node.op_type, reason), []).append(node)
    if not found:
        return
    lines = []
    for (domain, name, reason), nodes in sorted(found.items()):
        version = versions.get("" if domain in STANDARD_DOMAINS else domain, "unknown")
        named = [node.name or next((str(output.name) for output in node.outputs), "") for node in nodes]
        shown = ", ".join(named[:_MOST_NODES_NAMED]) + (", ..." if len(nodes) > _MOST_NODES_NAMED else "")
        lines.append(
            f"{_shown(domain, name)}, operator set {version}, {len(nodes)} nodes ({shown}): "
            f"{reason}; {remedy(domain, name)}"
        )
    raise UnsupportedError(
        "E1154",
        f"{path} has {len(found)} kinds of operators that can't be compiled: "
        f"{', '.join(dict.fromkeys(name for _, name, _ in sorted(found)))}",
        "export the model without them (post-processing such as NMS belongs to graph.extra_ops or to the "
        "application), or with standard operators",
        details=tuple(lines[:_MOST_LISTED]),
    )


def _shown(domain: str, name: str) -> str:
    return f"{domain}::{name}" if domain else name


def _simplify(model: ir.Model, path: Path) -> None:
    """What onnxsim does: folds constants and shapes, merges batch norms, removes dead nodes and duplicates."""
    try:
        # what is folded in the first round has a shape in the second; also when a function was written out
        left = 2
        for _ in range(_MOST_ROUNDS):
            if not left:
                if not expand_functions(model):
                    break
                left = 2
            left -= 1
            _split_constants(model)
            optimizer.optimize_ir(
                model,
                num_iterations=4,
                input_size_limit=_FOLDED_ELEMENTS,
                output_size_limit=_FOLDED_ELEMENTS,
                should_fold=_should_fold,
                inline=False,
            )
            for value in model.graph.initializers.values():
                if value.const_value is not None:
                    value.shape = ir.Shape(value.const_value.shape)
            passes.ShapeInferencePass(check_type=True, strict_mode=False)(model)
        _as_tensors(model)
    except (ValueError, KeyError, TypeError, RuntimeError, IndexError, NotImplementedError, ir.passes.PassError) as e:
        raise _not_evaluated(path, e.__cause__ or e) from e


def _split_constants(model: ir.Model) -> None:
    """Parts of small constants as constants; the optimizer folds what has one output alone."""
    for node in list(model.graph.all_nodes()):
        value = node.inputs[0] if node.op_type == "Split" else None
        sizes = node.inputs[1] if len(node.inputs) > 1 else None
        if value is None or value.const_value is None or value.const_value.size > _MOST_EQUAL or node.graph is None:
            continue
        if sizes is not None and sizes.const_value is None:
            continue
        array, axis, count = value.const_value.numpy(), node.attributes.get_int("axis", 0), len(node.outputs)
        given = node.attributes.get_ints("split", []) if sizes is None else sizes.const_value.numpy().tolist()
        if not given:  # all the same, but for a smaller last one
            part = -(-array.shape[axis] // count)
            given = [part] * (count - 1) + [array.shape[axis] - part * (count - 1)]
        for output, part_of in zip(list(node.outputs), np.split(array, np.cumsum(given)[:-1], axis), strict=True):
            constant = ir.node("Constant", [], {"value": ir.tensor(np.ascontiguousarray(part_of))})
            constant.name = f"{output.name}.part"
            made = constant.outputs[0]
            made.name, made.const_value = constant.name, constant.attributes["value"].value
            made.shape, made.type = ir.Shape(part_of.shape), output.type
            node.graph.insert_before(node, constant)
            for user, index in list(output.uses()):
                user.replace_input_with(index, made)


def _should_fold(node: ir.Node) -> bool | None:
    """Never loops; equal numbers of a known shape, which it would leave, unless they are many; None: it decides."""
    if node.op_type in ("Loop", "Scan"):
        return False
    dims = node.inputs[0] if node.op_type == "ConstantOfShape" else None
    if dims is None or dims.const_value is None:
        return None
    return int(np.prod(dims.const_value.numpy())) <= _MOST_EQUAL


def _as_tensors(model: ir.Model) -> None:
    """Constants as the one attribute that TVM's importer knows; folding leaves numbers and lists of them, too."""
    for node in model.graph.all_nodes():
        if node.op_type == "Constant" and "value" not in node.attributes:
            (attribute,) = node.attributes.values()
            array = np.asarray(attribute.value, np.int64 if attribute.type == ir.AttributeType.INTS else None)
            if array.dtype.kind in "if":
                tensor = ir.tensor(array.astype(np.float32 if array.dtype.kind == "f" else np.int64))
                node.attributes.clear()
                node.attributes.add(ir.AttrTensor("value", tensor))


def _require_consistent(model: ir.Model, path: Path) -> None:
    """Refuses shapes that contradict each other, which inference otherwise passes over in silence."""
    bare = model.clone()
    lift_weights(bare)  # inference needs their shapes only
    try:
        onnx.shape_inference.infer_shapes(ir.to_proto(bare), strict_mode=True)
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        raise _not_evaluated(path, error) from error


def _not_evaluated(path: Path, error: BaseException) -> InputError:
    return InputError(
        "E1152",
        f"{path} can't be evaluated for these input shapes: {type(error).__name__}",
        "check frontend.shape: run the model with arrays of these shapes in ONNX Runtime",
        details=tuple(str(error).strip().splitlines()[:12]),
    )


def _require_types(model: ir.Model, path: Path) -> None:
    lines = []
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.dtype not in _TENSOR_TYPES:
            lines.append(f"{value.name} is {value.dtype.name if value.dtype else 'of unknown type'}")
    if lines:
        raise _refused_types(path, lines)


def _refused_types(path: Path, lines: list[str]) -> UnsupportedError:
    return UnsupportedError(
        "E1158",
        f"{path}: {len(lines)} inputs, outputs or operators are of a type that is not computed in",
        "give them a type of at least 8 bits that NumPy has, or float16: cast at the model's ends, then export it",
        details=tuple(lines[:_MOST_LISTED]),
    )


def _require_known(model: ir.Model, path: Path, symbols: Mapping[str, Any]) -> None:
    """Refuses outputs of unknown shape; where inputs vary, the code generator finds out how outputs do."""
    lines = []
    for value in model.graph.outputs:
        if value.shape is None or not (symbols or all(isinstance(dim, int) for dim in value.shape)):
            producer = value.producer()
            lines.append(f"{value.name} is {value.shape}, made by {producer.op_type if producer else 'nothing'}")
    if lines:
        _require_consistent(model, path)
        raise UnsupportedError(
            "E1157",
            f"{path}: the shapes of {len(lines)} outputs are not known before a run",
            "shapes that depend on the data are not compiled; leave that part of the graph to the application",
            details=tuple(lines),
        )
