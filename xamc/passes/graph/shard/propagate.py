"""Follows the shared-out axes from the weights and caches through the graph, and refuses what can't be followed.

Every operator is asked what its operands' cuts make of its results. An axis may only meet an axis of the same cut; a
matrix product over a cut axis is a partial sum, which an all-reduce completes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from xamc.errors import InternalError
from xamc.ir.names import (
    DEQUANTIZE_KV_OP,
    MASK_DOMAIN,
    MODULE_KEY,
    QUANTIZE_KV_OP,
    QUANTIZED_LINEAR_OP,
    SWIGLU_OP,
    VASTAI_DOMAIN,
)
from xamc.ir.onnx_graph import constant_array, dims
from xamc.passes.graph.shard.plan import ShardPlan
from xamc.passes.graph.shard.reshape import reshaped
from xamc.passes.graph.shard.roles import Axes, Cut, head_cut

_ELEMENTWISE = (
    *("Add", "And", "Cast", "Clip", "Div", "Exp", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual"),
    *("Max", "Min", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal", "Round", "Sigmoid", "Sqrt", "Sub", "Where"),
)


@dataclass
class Propagation:
    """What is known of a graph's values.

    Attributes:
        plan: the division.
        axes: cuts of each value that has one; a value that is not here is whole.
        sizes: new contents of the shape operand of a Reshape or Expand.
        partial: values that each rank holds a summand of, in graph order: what an all-reduce has to follow.
        first_rank_only: biases that are added to a partial sum on the first rank alone.
    """

    plan: ShardPlan
    axes: dict[ir.Value, Axes] = field(default_factory=dict)
    sizes: dict[ir.Node, list[int]] = field(default_factory=dict)
    partial: list[ir.Value] = field(default_factory=list)
    first_rank_only: set[ir.Value] = field(default_factory=set)

    def of(self, value: ir.Value | None) -> Axes:
        """A value's cuts, one entry per axis."""
        if value is None:
            return ()
        return self.axes.get(value) or (None,) * len(dims(value) or ())

    def is_cut(self, value: ir.Value | None) -> bool:
        """Whether a value has a shared-out axis."""
        return any(cut is not None for cut in self.of(value))

    def set(self, value: ir.Value, axes: Axes) -> None:
        """Notes a value's cuts."""
        if any(cut is not None for cut in axes):
            self.axes[value] = axes

    def run(self, graph: ir.Graph) -> None:
        """Follows all cuts of the graph's inputs.

        Raises:
            InternalError: E1333 naming the operator that mixes a shared-out axis with something else.
        """
        pending: set[ir.Value] = set()
        for node in graph:
            biases = [value for value in node.inputs if value in self.first_rank_only]
            summands = [value for value in node.inputs if value in pending]
            if biases and len(summands) == 1 and node.op_type == "Add" and len(summands[0].uses()) == 1:
                # each rank adds its bias, all but the first zero, before the sum over the ranks
                pending.remove(summands[0])
                self.partial[self.partial.index(summands[0])] = node.outputs[0]
                pending.add(node.outputs[0])
                continue
            if biases and node.op_type == "Cast":
                self.first_rank_only.add(node.outputs[0])
                continue
            if biases:
                raise refused(node, "the bias of a layer whose input is shared out is not added to its product alone")
            if not any(self.is_cut(value) for value in node.inputs):
                continue
            handler = _HANDLERS.get((node.domain, node.op_type))
            if handler is None:
                raise refused(node, "heads, MLP columns or vocabulary rows are shared out in its operands")
            if handler(self, node):
                self.partial.append(node.outputs[0])
                pending.add(node.outputs[0])


def refused(node: ir.Node, why: str) -> InternalError:
    """E1333 at a node."""
    module = node.metadata_props.get(MODULE_KEY) or "the model"
    return InternalError(
        "E1333",
        f"shard: {node.op_type} {node.outputs[0].name!r} in {module}: {why}",
        fix="compile for one rank (tp: 1), and report this model",
    )


def _elementwise(state: Propagation, node: ir.Node) -> None:
    for output in node.outputs:
        state.set(output, _broadcast(state, node, node.inputs, len(dims(output) or ())))


def _broadcast(state: Propagation, node: ir.Node, values: Sequence[ir.Value | None], rank: int) -> Axes:
    """Cuts of operands that are broadcast against each other, over their last `rank` axes."""
    result: list[Cut | None] = [None] * rank
    sizes: list[object] = [1] * rank
    for value in values:
        shape, axes = dims(value) or (), state.of(value)
        for axis in range(1, min(rank, len(shape)) + 1):
            size, cut = shape[-axis], axes[-axis]
            if size == 1 and (cut is None or sizes[-axis] != 1):
                continue
            if sizes[-axis] != 1 and result[-axis] != cut:
                raise refused(node, f"axis {-axis} is shared out as {cut} and as {result[-axis]}")
            result[-axis], sizes[-axis] = cut, size
    return tuple(result)


def _same_as_first(state: Propagation, node: ir.Node) -> None:
    for value in node.inputs[1:]:
        if state.is_cut(value):
            raise refused(node, f"{value.name if value else None!r} is shared out")
    for output in node.outputs:
        state.set(output, state.of(node.inputs[0]))


def _over_last_axis(state: Propagation, node: ir.Node) -> None:
    axes = state.of(node.inputs[0])
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
    if any(cut is not None for cut in axes[axis % len(axes) :]):
        raise refused(node, f"it reduces over axis {axis}, which is shared out")
    _same_as_first(state, node)


def _matmul(state: Propagation, node: ir.Node) -> bool:
    left, right = node.inputs
    a, b = state.of(left), state.of(right)
    if len(a) < 2 or len(b) < 2:
        raise refused(node, "a vector is multiplied")
    rank = len(dims(node.outputs[0]) or ())
    batch = _leading(state, node, (a, b), rank - 2)
    if a[-1] != b[-2]:
        raise refused(node, f"it sums over an axis that is shared out as {a[-1]} and as {b[-2]}")
    axes = (*batch, a[-2], b[-1])
    if a[-1] is not None and any(cut is not None for cut in axes):
        raise refused(node, "it sums over one shared-out axis and keeps another")
    state.set(node.outputs[0], axes)
    return a[-1] is not None


def _leading(state: Propagation, node: ir.Node, operands: tuple[Axes, Axes], count: int) -> Axes:
    """Cuts of the batch axes of a matrix product."""
    shapes = [(dims(value) or ())[:-2] for value in node.inputs]
    result: list[Cut | None] = [None] * count
    for axis in range(1, count + 1):
        found = {axes[:-2][-axis] for axes, shape in zip(operands, shapes, strict=True) if len(shape) >= axis}
        large = {
            axes[:-2][-axis]
            for axes, shape in zip(operands, shapes, strict=True)
            if len(shape) >= axis and shape[-axis] != 1
        }
        cuts = large or found
        if len(cuts) > 1:
            raise refused(node, f"batch axis {-axis} is shared out as {' and as '.join(map(str, cuts))}")
        result[-axis] = cuts.pop()
    return tuple(result)


def _quantized_linear(state: Propagation, node: ir.Node) -> bool:
    x, codes, scales = (state.of(value) for value in node.inputs)
    if x[-1] != codes[1] or codes[0] != scales[0] or any(cut is not None for cut in x[:-1]):
        raise refused(node, f"input {x}, codes {codes} and scales {scales} are shared out in different ways")
    state.set(node.outputs[0], (*x[:-1], codes[0]))
    return x[-1] is not None


def _dequantize(state: Propagation, node: ir.Node) -> None:
    codes = state.of(node.inputs[0])
    for value in node.inputs[1:]:
        if value is not None and state.of(value)[:1] != codes[:1]:
            raise refused(node, f"{value.name!r} is shared out in another way than the codes")
    state.set(node.outputs[0], codes)


def _kv_codec(state: Propagation, node: ir.Node) -> None:
    """Keys or values [B, Hkv, S, D] with parameters [Hkv, D] per head."""
    heads = state.of(node.inputs[0])
    for value in node.inputs[1:]:
        if value is not None and state.of(value)[0] != heads[1]:
            raise refused(node, f"{value.name!r} is shared out in another way than the heads")
    state.set(node.outputs[0], heads)


def _attention(state: Propagation, node: ir.Node) -> None:
    query, *others = (state.of(value) for value in node.inputs[:3])
    wanted = (
        (None, head_cut("head", 1, state.plan), None, None),
        (None, head_cut("kv_head", 1, state.plan), None, None),
    )
    if query != wanted[0] or any(other != wanted[1] for other in others):
        raise refused(node, f"queries, keys and values are shared out as {[query, *others]}, not as heads")
    for index, value in enumerate(node.inputs[3:], 3):
        if state.of(value) != (wanted[1] if index in (4, 5) else (None,) * len(state.of(value))) and value is not None:
            raise refused(node, f"{value.name!r} is shared out as {state.of(value)}")
    for output, axes in zip(node.outputs, (wanted[0], wanted[1], wanted[1]), strict=False):
        state.set(output, axes)


def _transpose(state: Propagation, node: ir.Node) -> None:
    axes = state.of(node.inputs[0])
    order = node.attributes["perm"].as_ints() if "perm" in node.attributes else range(len(axes))[::-1]
    state.set(node.outputs[0], tuple(axes[axis] for axis in order))


def _concat(state: Propagation, node: ir.Node) -> None:
    operands = [state.of(value) for value in node.inputs]
    axis = node.attributes["axis"].as_int()
    if len(set(operands)) > 1 or operands[0][axis] is not None:
        raise refused(node, f"it joins {operands} along axis {axis}")
    state.set(node.outputs[0], operands[0])


def _shape(state: Propagation, node: ir.Node) -> None:
    axes = state.of(node.inputs[0])
    start, end = (node.attributes[name].as_int() if name in node.attributes else None for name in ("start", "end"))
    if any(cut is not None for cut in axes[start:end]):
        raise refused(node, "it reads the size of an axis that is shared out")


def _slice(state: Propagation, node: ir.Node) -> None:
    axes = state.of(node.inputs[0])
    chosen = constant_array(node.inputs[3]) if len(node.inputs) > 3 else np.arange(len(axes))
    if chosen is None or any(axes[int(axis)] is not None for axis in chosen.reshape(-1)):
        raise refused(node, "it slices an axis that is shared out")
    state.set(node.outputs[0], axes)


def _split(state: Propagation, node: ir.Node) -> None:
    axes = state.of(node.inputs[0])
    if axes[node.attributes["axis"].as_int() if "axis" in node.attributes else 0] is not None:
        raise refused(node, "it splits an axis that is shared out")
    for output in node.outputs:
        state.set(output, axes)


def _unsqueeze(state: Propagation, node: ir.Node) -> None:
    chosen = constant_array(node.inputs[1])
    if chosen is None:
        raise refused(node, "its axes are not a constant")
    rank = len(dims(node.outputs[0]) or ())
    new = {int(axis) % rank for axis in chosen.reshape(-1)}
    old = iter(state.of(node.inputs[0]))
    state.set(node.outputs[0], tuple(None if axis in new else next(old) for axis in range(rank)))


def _reshape(state: Propagation, node: ir.Node) -> None:
    before, after = dims(node.inputs[0]), dims(node.outputs[0])
    axes = reshaped(before, after, state.of(node.inputs[0]), state.plan)
    if axes is None:
        raise refused(node, f"{state.of(node.inputs[0])} can't be followed from {before} to {after}")
    state.set(node.outputs[0], axes)
    _resize(state, node, axes)


def _expand(state: Propagation, node: ir.Node) -> None:
    before, after = dims(node.inputs[0]) or (), dims(node.outputs[0]) or ()
    axes = list(state.of(node.inputs[0]))
    axes[:0] = [None] * (len(after) - len(before))
    before = (*[1] * (len(after) - len(before)), *before)
    for axis, (old, new) in enumerate(zip(before, after, strict=True)):
        if old == new:
            continue
        if axes[axis] is not None:
            raise refused(node, f"axis {axis} is shared out and repeated")
        if axis and axes[axis - 1] == Cut("kv_head") and new == state.plan.group:
            # repeat_kv: each KV head once per query head of its group
            axes[axis] = Cut("group")
    state.set(node.outputs[0], tuple(axes))
    _resize(state, node, tuple(axes))


def _resize(state: Propagation, node: ir.Node, axes: Axes) -> None:
    """Notes the local sizes that the shape operand of a Reshape or Expand has to name."""
    target = constant_array(node.inputs[1])
    if target is None:
        raise refused(node, "its shape is not a constant")
    sizes = [int(size) for size in target.reshape(-1)]
    leading = len(axes) - len(sizes)
    for axis, size in enumerate(sizes):
        cut = axes[leading + axis]
        # 0 and -1 keep or fill in a size; 1 in an Expand repeats nothing
        if cut is not None and size > 0 and not (node.op_type == "Expand" and size == 1):
            sizes[axis] = state.plan.local(cut.kind) * cut.unit
    if sizes != [int(size) for size in target.reshape(-1)]:
        state.sizes[node] = sizes


_HANDLERS: dict[tuple[str, str], Callable[[Propagation, ir.Node], bool | None]] = {
    **{("", op): _elementwise for op in _ELEMENTWISE},
    (MASK_DOMAIN, SWIGLU_OP): _elementwise,
    ("", "RMSNormalization"): _over_last_axis,
    ("", "Softmax"): _over_last_axis,
    ("", "RotaryEmbedding"): _same_as_first,
    ("", "Attention"): _attention,
    ("", "MatMul"): _matmul,
    (VASTAI_DOMAIN, QUANTIZED_LINEAR_OP): _quantized_linear,
    ("", "DequantizeLinear"): _dequantize,
    (MASK_DOMAIN, QUANTIZE_KV_OP): _kv_codec,
    (MASK_DOMAIN, DEQUANTIZE_KV_OP): _kv_codec,
    ("", "Transpose"): _transpose,
    ("", "Concat"): _concat,
    ("", "Shape"): _shape,
    ("", "Slice"): _slice,
    ("", "Split"): _split,
    ("", "Unsqueeze"): _unsqueeze,
    ("", "Reshape"): _reshape,
    ("", "Expand"): _expand,
}
