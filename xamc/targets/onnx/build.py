"""What runs in the child process that has tvm: an ONNX graph whose weights are inputs becomes a library."""

from __future__ import annotations

import contextlib
import io
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import tvm
from tvm import relax

from xamc.errors import UnsupportedError
from xamc.targets.kernels.isa import Isa
from xamc.targets.onnx.importer.import_onnx import ConversionError, import_onnx
from xamc.targets.onnx.importer.shape_operators import SHAPE_INPUTS
from xamc.targets.onnx.names import FUNCTION, LIBRARY, PREPARE
from xamc.targets.onnx.schedule import TIR_PIPELINE, relax_pipeline
from xamc.targets.onnx.select_kernels import select_kernels

_MOST_LISTED = 40
_MOST_NAMED = 3
_SECONDS = 120.0
"""To look for the nodes that TVM can't compile."""


def build(request: Mapping[str, Any]) -> None:
    """Imports and compiles.

    Args:
        request: ``graph`` (ONNX file; its inputs are first the data, then the weights), ``data_inputs`` (how many),
            ``isa``, ``dump`` (folder or None), ``out`` (an existing folder for the library).

    Raises:
        UnsupportedError: E1473 TVM's importer or code generator refuses an operator's use.
    """
    proto = onnx.load(request["graph"])
    count, weights = request["data_inputs"], len(proto.graph.input) - request["data_inputs"]
    module = _import(proto)
    # the importer would count weights as inputs
    module[FUNCTION] = module[FUNCTION].with_attr("num_input", count)
    isa = Isa.by_name(request["isa"])
    dump = Path(request["dump"]) if request["dump"] else None
    if dump is not None:
        (dump / "20-lowered.relax.py").write_text(module.script())
    target = tvm.target.Target(isa.target())
    module = select_kernels(module, isa)
    try:
        if weights:
            # what depends on weights alone runs once, in PREPARE; both functions take weights as one tuple
            module = relax.transform.LiftTransformParams()(module)
            module[PREPARE] = module[PREPARE].without_attr("num_input")
            module = relax.transform.BundleModelParams()(module)
        if dump is not None:
            (dump / "30-kernels.relax.py").write_text(module.script())
        executable = tvm.compile(
            module, target=target, relax_pipeline=relax_pipeline(target), tir_pipeline=TIR_PIPELINE
        )
    except Exception as error:  # whatever a pass of TVM met
        raise _not_compiled(proto, isa, error) from error
    executable.export_library(str(Path(request["out"]) / LIBRARY))


def _import(proto: Any) -> tvm.IRModule:
    try:
        return _quietly_imported(proto)
    except Exception as error:
        nodes = _refusals(proto)
        if isinstance(error, ConversionError):
            where, first = f"{error.operator} {error.node}", f"{error.operator} {error.node}: {error.reason}"
            raise _refused(f"{where} can't be lowered as the graph uses it", error, nodes or [first]) from error
        raise _refused("the graph can't be lowered", error, nodes) from error


def _quietly_imported(proto: Any) -> tvm.IRModule:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that TVM changes; ours are by position
        return import_onnx(proto, _empty_inputs(proto))


def _not_compiled(proto: Any, isa: Isa, error: Exception) -> UnsupportedError:
    """Names the nodes that TVM can't compile alone either; none may be left, and then it is how they go together."""
    end, found, kinds = time.monotonic() + _SECONDS, [], set()
    target = tvm.target.Target(isa.target())
    for node, alone in _alone(proto):
        kind = (node.op_type, node.attribute, [value.type.SerializeToString() for value in alone.graph.input])
        if str(kind) in kinds:
            continue
        if time.monotonic() > end:
            break
        kinds.add(str(kind))
        try:
            module = select_kernels(_quietly_imported(alone), isa)
            tvm.compile(module, target=target, relax_pipeline=relax_pipeline(target), tir_pipeline=TIR_PIPELINE)
        except Exception as reason:  # whatever a pass of TVM met
            found.append(f"{node.op_type} {node.name or node.output[0]}: {_last_line(reason)}")
    where = ", ".join(line.partition(":")[0] for line in found[:_MOST_NAMED]) or "the graph"
    return _refused(f"TVM can't compile {where}", error, found)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]


def _empty_inputs(proto: Any) -> dict[str, list[int]]:
    """Shapes of the inputs with a dimension of 0, which the importer takes for an open one."""
    shapes = {value.name: value.type.tensor_type.shape.dim for value in proto.graph.input}
    static = {
        name: [dim.dim_value for dim in dims] for name, dims in shapes.items() if not any(d.dim_param for d in dims)
    }
    return {name: shape for name, shape in static.items() if 0 in shape}


def _alone(proto: Any) -> Iterator[tuple[Any, Any]]:
    """Every node whose operands' types are known, and a model of it alone."""
    graph = proto.graph
    known = {value.name: value for value in (*graph.input, *graph.value_info, *graph.output)}
    constants = {node.output[0]: node for node in graph.node if node.op_type == "Constant"}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        names = dict.fromkeys(filter(None, node.input))
        data = [name for name in names if name not in constants and name not in tensors]
        if node.op_type == "Constant" or any(name not in known for name in data):
            continue
        alone = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import)
        alone.metadata_props.extend(proto.metadata_props)
        alone.graph.name = "alone"
        alone.graph.node.extend([*(constants[name] for name in names if name in constants), node])
        alone.graph.initializer.extend(tensors[name] for name in names if name in tensors)
        alone.graph.input.extend(known[name] for name in data)
        alone.graph.output.extend(known.get(name, onnx.ValueInfoProto(name=name)) for name in node.output if name)
        yield node, alone


def _refusals(proto: Any) -> list[str]:
    """Every node that the importer refuses by itself, not only the first one: a line with its name and why."""
    found, given = [], {value.name for value in proto.graph.input}
    for node, alone in _alone(proto):
        if any(name not in given for name in _shape_inputs(node, alone)):
            continue  # alone it doesn't know where they come from
        try:
            _quietly_imported(alone)
        except ConversionError as error:
            found.append(f"{node.op_type} {node.name or node.output[0]}: {error.reason[:200]}")
        except Exception as error:  # whatever a converter met
            found.append(f"{node.op_type} {node.name or node.output[0]}: {_last_line(error)}")
    return found


def _shape_inputs(node: Any, alone: Any) -> list[str]:
    """The operands that say what shape a result has, and would be inputs of the node alone."""
    inputs = {value.name for value in alone.graph.input}
    places = [index for index in SHAPE_INPUTS.get(node.op_type, ()) if index < len(node.input)]
    return [node.input[index] for index in places if node.input[index] in inputs]


def _refused(what: str, error: Exception, nodes: Sequence[str] = ()) -> UnsupportedError:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return UnsupportedError(
        "E1473",
        what,
        fix="fix the dimensions that it depends on in frontend.shape, or export the model with other operators or "
        "attributes; backend.type: reference runs it as it is",
        details=tuple(nodes[:_MOST_LISTED]) or tuple(lines[-6:]),
    )
