"""`ReverseSequence` and `TensorScatter` written out: places that are computed from lengths, and gathered or written."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from xamc.compiler.frontends.onnx.functions.bodies import body, function, set_constant


@body("ReverseSequence")
def _reverse_sequence(node: ir.Node) -> Any:
    """The element at t comes from length - 1 - t where t is within its row's length, and from t behind it."""
    data = node.inputs[0]
    if data is None or data.shape is None or len(data.shape) < 2:
        return None
    batch, time = node.attributes.get_int("batch_axis", 1), node.attributes.get_int("time_axis", 0)
    dim, rank = data.shape[time], len(data.shape)
    if not isinstance(dim, int):
        return None
    rows = [-1 if axis == batch else 1 for axis in range(rank)]
    made = function(
        f"""ReverseSequence(x, lengths) => (y) {{
            column = Constant<value_ints = {rows}>()
            length = Reshape(lengths, column)
            one = Constant<value_int = 1>()
            steps = Constant<value_int = 0>()
            last = Sub(length, one)
            back = Sub(last, steps)
            within = Less(steps, length)
            place = Where(within, back, steps)
            shape = Shape(x)
            places = Expand(place, shape)
            y = GatherElements<axis = {time}>(x, places)
        }}"""
    )
    set_constant(made, "steps", np.arange(dim).reshape([-1 if axis == time else 1 for axis in range(rank)]))
    return made


@body("TensorScatter")
def _tensor_scatter(node: ir.Node) -> Any:
    """Writes the update's elements at index + 0, 1, ... of an axis, each row of the batch at its own index."""
    cache, update = node.inputs[0], node.inputs[1]
    if cache is None or update is None or cache.shape is None or update.shape is None:
        return None
    rank = len(cache.shape)
    axis = node.attributes.get_int("axis", -2) % rank
    slots, steps = cache.shape[axis], update.shape[axis]
    if axis == 0 or not isinstance(slots, int) or not isinstance(steps, int):
        return None
    rows = [-1, *[1] * (rank - 1)]
    given = len(node.inputs) > 2 and node.inputs[2] is not None
    circular = node.attributes.get_string("mode", "linear") == "circular"
    made = function(
        f"""TensorScatter({", ".join(["cache", "update", "starts"][: len(node.inputs)])}) => (y) {{
            steps = Constant<value_int = 0>()
            slots = Constant<value_int = {slots}>()
            column = Constant<value_ints = {rows}>()
            {"start = Reshape(starts, column)" if given else "start = Constant<value_int = 0>()"}
            far = Add(start, steps)
            place = {"Mod(far, slots)" if circular else "Identity(far)"}
            shape = Shape(update)
            places = Expand(place, shape)
            y = ScatterElements<axis = {axis}>(cache, places, update)
        }}"""
    )
    set_constant(made, "steps", np.arange(steps).reshape([-1 if other == axis else 1 for other in range(rank)]))
    return made
