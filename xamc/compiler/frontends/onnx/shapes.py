"""Gives the inputs of an ONNX graph the shapes that `frontend.shape` asks for, fixed or within a range."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import onnx_ir as ir

from xamc.errors import InputError


def fix_shapes(model: ir.Model, wanted: Mapping[str, Any], path: str) -> dict[str, tuple[int, int]]:
    """Sets the shape of every graph input, and forgets all others, which are inferred again.

    A dimension that goes from one number to another (two shapes, ``[[min], [max]]``, that differ there) stays a symbol:
    by the name that the graph gives it, or ``batch`` for unnamed first dimensions of the same range. Equal names
    are equal dimensions.

    Args:
        model: the graph; initializers are no inputs of it.
        wanted: input name → dimensions, as `frontend.shape` has them; an input that is fixed already may be left out.
        path: the model's file, for messages.

    Returns:
        Symbol → smallest and largest size.

    Raises:
        InputError: E1155 a name or a dimension that the graph doesn't have; E1156 dimensions left open; E1192 ranges
            that contradict each other.
    """
    inputs = {str(value.name): value for value in model.graph.inputs}
    for name in wanted:
        if name not in inputs:
            raise _unknown(model, name, list(inputs), path)
    open_dims = []
    symbols: dict[str, tuple[int, int]] = {}
    fixed: dict[str, str] = {}
    for name, value in inputs.items():
        low, high = _range(name, wanted[name]) if name in wanted else (None, None)
        declared = None if value.shape is None else [dim if isinstance(dim, int) else str(dim) for dim in value.shape]
        if low is None or high is None:
            if declared is None:
                open_dims.append(f"{name}: its shape is unknown")
                continue
            low = high = [dim if isinstance(dim, int) else -1 for dim in declared]
        if declared is not None:
            for shape in (low, high):
                _check(name, shape, declared, path)
        # an input that the file itself says is empty, as one that only names a type may be
        empty = {i for i, dim in enumerate(declared or ()) if dim == 0}
        left = [str(declared[i]) if declared else f"#{i}" for i, dim in enumerate(low) if dim < 1 and i not in empty]
        if left:
            open_dims.append(f"{name}: {', '.join(left)} of {declared if declared is not None else low}")
        dims: list[int | str] = []
        for axis, (least, most) in enumerate(zip(low, high)):
            least_fixed = 0 if axis in empty else max(1, least)
            dims.append(least_fixed if least == most else _symbol(symbols, name, axis, declared, (least, most)))
            if declared is not None and least == most and isinstance(declared[axis], str):
                fixed.setdefault(_identifier(str(declared[axis])), name)
        value.shape = ir.Shape(dims)
    torn = sorted(set(symbols) & set(fixed))
    if torn and not open_dims:
        raise InputError(
            "E1192",
            f"frontend.shape.{fixed[torn[0]]} fixes {torn[0]}, which goes from {symbols[torn[0]][0]} to "
            f"{symbols[torn[0]][1]} in another input; they are the same dimension",
            "give both inputs the same range",
        )
    if open_dims:
        example = open_dims[0].partition(":")[0]
        raise InputError(
            "E1156",
            f"{path}: {len(open_dims)} inputs have dimensions that are not fixed",
            f"add them to frontend.shape, for example {example}: [1, 3, 224, 224], or a range: "
            f"{example}: [[1, 3, 224, 224], [8, 3, 224, 224]]",
            details=tuple(open_dims),
        )
    _forget_shapes(model)
    return symbols


def at_bound(shapes: Mapping[str, Any], which: int) -> dict[str, Any]:
    """`frontend.shape` with the smallest (0) or the largest (-1) of every range."""
    return {name: _range(name, written)[which] for name, written in shapes.items()}


def _range(name: str, written: Any) -> tuple[list[int], list[int]]:
    """The smallest and the largest shape; the same for a shape that is written alone."""
    shapes = written if written and isinstance(written[0], list | tuple) else [written]
    low, high = [int(dim) for dim in shapes[0]], [int(dim) for dim in shapes[-1]]
    if len(shapes) > 2 or len(low) != len(high) or any(a > b for a, b in zip(low, high)):
        raise InputError(
            "E1192",
            f"frontend.shape.{name} is {written}, which is neither a shape nor a smallest and a largest one",
            f"write one shape, {name}: {high}, or two, each dimension of the second no smaller: "
            f"{name}: [[1, ...], [8, ...]]",
        )
    return low, high


def _symbol(
    symbols: dict[str, tuple[int, int]], name: str, axis: int, declared: list[Any] | None, dims: tuple[int, int]
) -> str:
    """The name of a dimension that varies, entered with its range."""
    given = declared[axis] if declared is not None else None
    if isinstance(given, str) and given not in ("None", "?", ""):
        symbol = _identifier(given)
    elif axis == 0:
        symbol = "batch" if dims == symbols.get("batch", dims) else f"batch_{len(symbols)}"
    else:
        symbol = f"extent_{len(symbols)}"
    if symbols.setdefault(symbol, dims) != dims:
        raise InputError(
            "E1192",
            f"frontend.shape.{name} gives {given} from {dims[0]} to {dims[1]}, another input from "
            f"{symbols[symbol][0]} to {symbols[symbol][1]}; they are the same dimension",
            "give both inputs the same range",
        )
    return symbol


def _identifier(given: str) -> str:
    symbol = re.sub(r"\W", "_", given)
    return symbol if symbol[0].isalpha() else f"d_{symbol}"


def _check(name: str, shape: list[int], declared: list[Any], path: str) -> None:
    if len(shape) != len(declared):
        raise InputError(
            "E1155",
            f"frontend.shape.{name} has {len(shape)} dimensions, the graph's input has {len(declared)}: {declared}",
            f"write {len(declared)} dimensions",
        )
    wrong = [i for i, (ours, theirs) in enumerate(zip(shape, declared)) if isinstance(theirs, int) and ours != theirs]
    if wrong:
        raise InputError(
            "E1155",
            f"frontend.shape.{name} is {shape}, but {path} fixes it to {declared}",
            f"write {[theirs if isinstance(theirs, int) else ours for ours, theirs in zip(shape, declared)]}, or "
            "export the model with that dimension left open",
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
