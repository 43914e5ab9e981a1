"""Gives the inputs of an ONNX graph the fixed shapes that `frontend.shape` asks for."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import onnx_ir as ir

from xamc.compiler.errors import InputError, UnsupportedError


def fix_shapes(model: ir.Model, wanted: Mapping[str, Any], path: str) -> None:
    """Sets the shape of every graph input, and forgets all others, which are inferred again.

    Args:
        model: the graph; initializers are no inputs of it.
        wanted: input name → extents, as `frontend.shape` has them; an input that is fixed already may be left out.
        path: the model's file, for messages.

    Raises:
        InputError: E1155 a name or an extent that the graph doesn't have; E1156 extents left open.
        UnsupportedError: E1157 a range of shapes.
    """
    inputs = {str(value.name): value for value in model.graph.inputs}
    for name in wanted:
        if name not in inputs:
            raise _unknown(model, name, list(inputs), path)
    open_dims = []
    for name, value in inputs.items():
        shape = _one_shape(name, wanted[name]) if name in wanted else None
        declared = None if value.shape is None else [dim if isinstance(dim, int) else str(dim) for dim in value.shape]
        if shape is None:
            if declared is None:
                open_dims.append(f"{name}: its shape is unknown")
                continue
            shape = [dim if isinstance(dim, int) else -1 for dim in declared]
        if declared is not None:
            _check(name, shape, declared, path)
        left = [str(declared[i]) if declared else f"#{i}" for i, extent in enumerate(shape) if extent < 1]
        if left:
            open_dims.append(f"{name}: {', '.join(left)} of {declared if declared is not None else shape}")
        value.shape = ir.Shape([max(1, extent) for extent in shape])
    if open_dims:
        example = open_dims[0].partition(":")[0]
        raise InputError(
            "E1156",
            f"{path}: {len(open_dims)} inputs have extents that are not fixed",
            f"add them to frontend.shape, for example {example}: [1, 3, 224, 224]",
            details=tuple(open_dims),
        )
    _forget_shapes(model)


def _one_shape(name: str, written: Any) -> list[int]:
    """The extents of a shape that may be written as a list of one shape."""
    shapes = written if written and isinstance(written[0], list | tuple) else [written]
    if len(shapes) > 1:
        raise UnsupportedError(
            "E1157",
            f"frontend.shape.{name} gives {len(shapes)} shapes, {shapes[0]} to {shapes[-1]}: graphs of varying size "
            "are not compiled",
            f"write one shape, for example {name}: {list(shapes[-1])}, and a build file per size",
        )
    return [int(extent) for extent in shapes[0]]


def _check(name: str, shape: list[int], declared: list[Any], path: str) -> None:
    if len(shape) != len(declared):
        raise InputError(
            "E1155",
            f"frontend.shape.{name} has {len(shape)} extents, the graph's input has {len(declared)}: {declared}",
            f"write {len(declared)} extents",
        )
    wrong = [i for i, (ours, theirs) in enumerate(zip(shape, declared)) if isinstance(theirs, int) and ours != theirs]
    if wrong:
        raise InputError(
            "E1155",
            f"frontend.shape.{name} is {shape}, but {path} fixes it to {declared}",
            f"write {[theirs if isinstance(theirs, int) else ours for ours, theirs in zip(shape, declared)]}, or "
            "export the model with that extent left open",
        )


def _unknown(model: ir.Model, name: str, inputs: list[str], path: str) -> InputError:
    if any(value.name == name for node in model.graph for value in node.outputs):
        fix = f"the graph's inputs are {', '.join(inputs)}; a graph is compiled from its inputs, not cut"
        return InputError("E1155", f"frontend.shape.{name} is an inner value of {path}, not an input", fix)
    near = get_close_matches(name, inputs, 1)
    fix = f"did you mean {near[0]}?" if near else f"the inputs are {', '.join(inputs) or 'none'}"
    return InputError("E1155", f"frontend.shape.{name} is not an input of {path}", fix)


def _forget_shapes(model: ir.Model) -> None:
    """Shapes that a file states were inferred for other inputs: they would contradict the new ones."""
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value.const_value is None:
                value.shape = None
