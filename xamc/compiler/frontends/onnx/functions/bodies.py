"""Function bodies for operators that ONNX defines in words only, and for uses that TVM's importer gets wrong.

Written in ONNX's own text form; `$name` stands for a number or list that depends on the node. A use that none of them
fits keeps its operator, and is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from string import Template
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

Body = Callable[[ir.Node], Any]
BODIES: dict[str, Body] = {}


# from float32 steps to the integers of y; the node says which
_TO_INTEGERS = """rounded = Round(steps)
            y_offset = Cast<to = 1>(y_zero)
            moved = Add(rounded, y_offset)
            least = Constant<value_float = $least>()
            most = Constant<value_float = $most>()
            bounded = Clip(moved, least, most)
            y = Cast<to = $dtype>(bounded)"""


def body(name: str) -> Callable[[Body], Body]:
    """Registers what writes one operator out; it gives None for a use that it does not fit."""

    def register(function: Body) -> Body:
        BODIES[name] = function
        return function

    return register


def function(text: str, values: Mapping[str, Any] | None = None) -> Any:
    """A function from its text."""
    head = '<opset_import: ["" : 17], domain: "xamc.expanded">\n'
    return onnx.parser.parse_function(head + Template(text).substitute(values or {}))


def _given(node: ir.Node, index: int) -> bool:
    return len(node.inputs) > index and node.inputs[index] is not None


def constant(node: ir.Node, index: int) -> Any:
    """An input's values when they are known, else None."""
    value = node.inputs[index] if _given(node, index) else None
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _dtype(node: ir.Node, index: int) -> int:
    """The element type of an input, as ONNX numbers it."""
    value = node.inputs[index]
    assert value is not None and value.dtype is not None
    return int(value.dtype)


def _rank(node: ir.Node, index: int = 0) -> int | None:
    value = node.inputs[index]
    return None if value is None or value.shape is None else len(value.shape)


@body("LpNormalization")
def _lp_normalization(node: ir.Node) -> Any:
    """x / ‖x‖ along one axis; 0 where the norm is 0."""
    axis, p, dtype = node.attributes.get_int("axis", -1), node.attributes.get_int("p", 2), _dtype(node, 0)
    assert node.graph is not None
    late = node.graph.opset_imports.get("", 1) >= 18  # axes became an input
    axes = "(x, axes)" if late else "(x)"
    attribute = "" if late else f", axes = [{axis}]"
    return function(
        f"""LpNormalization(x) => (y) {{
            axes = Constant<value_ints = [{axis}]>()
            norm = ReduceL{p}<keepdims = 1{attribute}>{axes}
            zero = Constant<value_float = 0.0>()
            zero_like = Cast<to = {dtype}>(zero)
            one = Constant<value_float = 1.0>()
            one_like = Cast<to = {dtype}>(one)
            empty = Equal(norm, zero_like)
            divisor = Where(empty, one_like, norm)
            y = Div(x, divisor)
        }}"""
    )


@body("ReduceLogSumExp")
def _reduce_log_sum_exp(node: ir.Node) -> Any:
    """m + log ∑ e^(x - m) with m the largest of x, or 0 where that is infinite: inf - inf would be NaN."""
    value = node.inputs[0]
    if value is None or value.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
        return None
    if node.attributes.get_int("noop_with_empty_axes", 0):
        return None
    axes = "(%s, axes)" if _given(node, 1) else "(%s)"  # an input from operator set 18 on
    attribute = _written(node, "axes")[1:-1]
    keep, attribute = node.attributes.get_int("keepdims", 1), f", {attribute}" if attribute else ""
    made = function(
        f"""ReduceLogSumExp({", ".join(["x", "axes"][: len(node.inputs)])}) => (y) {{
            infinity = Constant<value_float = 0.0>()
            zero = Constant<value_float = 0.0>()
            most = ReduceMax<keepdims = 1{attribute}>{axes % "x"}
            size = Abs(most)
            finite = Less(size, infinity)
            shift = Where(finite, most, zero)
            below = Sub(x, shift)
            powers = Exp(below)
            total = ReduceL1<keepdims = {keep}{attribute}>{axes % "powers"}
            logarithm = Log(total)
            back = ReduceMax<keepdims = {keep}{attribute}>{axes % "shift"}
            y = Add(logarithm, back)
        }}"""
    )
    for name, number in (("infinity", np.inf), ("zero", 0)):
        set_constant(made, name, np.asarray(number, value.dtype.numpy()))
    return made


@body("Softplus")
def _softplus(node: ir.Node) -> Any:
    """log(1 + e^x) as max(x, 0) + log1p(e) with e = e^-|x|; the logarithm of the rounded 1 + e would lose a small e.

    log1p(e) = 2 atanh(t) = 2t (1 + t^2/3 + t^4/5 + ...) with t = e / (2 + e), at most 1/3: each term is a ninth of the
    one before it, or less.
    """
    dtype = _dtype(node, 0)
    terms = 18 if dtype == ir.DataType.DOUBLE else 8
    lines = []
    for term in range(terms):
        lines.append(f"f{term} = Constant<value_float = 0.0>()")
        lines.append(f"p{term} = Mul(s{term - 1}, square)" if term else "p0 = Identity(f0)")
        lines.append(f"s{term} = Add(p{term}, f{term})" if term else "s0 = Identity(p0)")
    made = function(
        f"""Softplus(x) => (y) {{
            two = Constant<value_float = 0.0>()
            zero = Constant<value_float = 0.0>()
            size = Abs(x)
            below = Neg(size)
            e = Exp(below)
            divisor = Add(e, two)
            t = Div(e, divisor)
            square = Mul(t, t)
            {chr(10).join(lines)}
            twice = Mul(t, two)
            small = Mul(twice, s{terms - 1})
            positive = Max(x, zero)
            y = Add(positive, small)
        }}"""
    )
    factors = {f"f{term}": 1 / divisor for term, divisor in enumerate(range(2 * terms - 1, 0, -2))}
    for name, number in ({"two": 2, "zero": 0} | factors).items():
        set_constant(made, name, np.asarray(number, ir.DataType(dtype).numpy()))
    return made


@body("Mish")
def _mish(node: ir.Node) -> Any:
    """x tanh(log(1 + e^x)) as x n / (n + 2) with n = e^x (e^x + 2): the logarithm would lose the small e^x.

    From 20 on the factor is 1 in float32, and e^x would soon be infinite.
    """
    dtype = _dtype(node, 0)
    return function(
        f"""Mish(x) => (y) {{
            most = Constant<value_float = 20.0>()
            most_like = Cast<to = {dtype}>(most)
            two = Constant<value_float = 2.0>()
            two_like = Cast<to = {dtype}>(two)
            bounded = Min(x, most_like)
            e = Exp(bounded)
            more = Add(e, two_like)
            n = Mul(e, more)
            divisor = Add(n, two_like)
            factor = Div(n, divisor)
            y = Mul(x, factor)
        }}"""
    )


@body("Pow")
def _pow(node: ir.Node) -> Any:
    """Of two types, or of integers: in float64, or in float32 where that is the base's type and the exponent whole."""
    base, exponent = (value.dtype if value is not None else None for value in node.inputs)
    if base is None or exponent is None or (base == exponent and base.is_floating_point()):
        return None
    narrow = base == ir.DataType.FLOAT and not exponent.is_floating_point()
    wide = int(ir.DataType.FLOAT if narrow else ir.DataType.DOUBLE)
    return function(
        f"""Pow(x, n) => (y) {{
            base = Cast<to = {wide}>(x)
            exponent = Cast<to = {wide}>(n)
            power = Pow(base, exponent)
            y = Cast<to = {int(base)}>(power)
        }}"""
    )


@body("Mod")
def _mod(node: ir.Node) -> Any:
    """Of floats, with the divisor's sign: what fmod leaves, and one divisor more where that has the other sign."""
    if node.attributes.get_int("fmod", 0) or not ir.DataType(_dtype(node, 0)).is_floating_point():
        return None
    return function(
        f"""Mod(x, y) => (z) {{
            zero = Constant<value_float = 0.0>()
            none = Cast<to = {_dtype(node, 0)}>(zero)
            rest = Mod<fmod = 1>(x, y)
            below = Less(rest, none)
            divisor_below = Less(y, none)
            other = Xor(below, divisor_below)
            exact = Equal(rest, none)
            inexact = Not(exact)
            moves = And(other, inexact)
            moved = Add(rest, y)
            z = Where(moves, moved, rest)
        }}"""
    )


@body("OneHot")
def _one_hot(node: ir.Node) -> Any:
    """Compares the indices, those below 0 counted from the end, with 0 to depth - 1: an index outside has no hit."""
    depth, rank = constant(node, 1), _rank(node)
    if depth is None or rank is None or node.graph is None:
        return None
    dim, axis = int(depth.reshape(())), node.attributes.get_int("axis", -1) % (rank + 1)
    late = node.graph.opset_imports.get("", 1) >= 13  # axes became an input
    unsqueeze = "Unsqueeze(place, axes)" if late else f"Unsqueeze<axes = [{axis}]>(place)"
    made = function(
        f"""OneHot(indices, depth, values) => (y) {{
            wide = Cast<to = 7>(indices)
            zero = Constant<value_int = 0>()
            one = Constant<value_int = 1>()
            extent = Constant<value_int = {dim}>()
            below = Less(wide, zero)
            from_end = Add(wide, extent)
            place = Where(below, from_end, wide)
            axes = Constant<value_ints = [{axis}]>()
            column = {unsqueeze}
            classes = Constant<value_int = 0>()
            hit = Equal(column, classes)
            off = Gather(values, zero)
            on = Gather(values, one)
            y = Where(hit, on, off)
        }}"""
    )
    set_constant(made, "classes", np.arange(dim).reshape([-1, *[1] * (rank - axis)]))
    return made


@body("EyeLike")
def _eye_like(node: ir.Node) -> Any:
    """The matrix itself, for a shape that is known: it depends on nothing else."""
    value = node.inputs[0]
    if value is None or value.shape is None or len(value.shape) != 2 or value.dtype is None:
        return None
    if not all(isinstance(dim, int) for dim in value.shape):
        return None
    dtype = ir.DataType(node.attributes.get_int("dtype", int(value.dtype)))
    rows, columns = (int(dim) for dim in value.shape)
    made = function("EyeLike(x) => (y) {\n y = Constant<value_float = 0.0>()\n}")
    set_constant(made, "y", np.eye(rows, columns, node.attributes.get_int("k", 0)).astype(dtype.numpy()))
    return made


@body("QLinearMatMul")
def _qlinear_matmul(node: ir.Node) -> Any:
    """Dequantize both sides, multiply in float32, quantize; scales of whole tensors, in ONNX Runtime's order."""
    if any(_rank(node, index) not in (0, 1) for index in (1, 4, 6)) or not _whole(node, (1, 4, 6)):
        return None
    return function(
        f"""QLinearMatMul(a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero) => (y) {{
            a_number = Cast<to = 1>(a)
            a_offset = Cast<to = 1>(a_zero)
            a_centred = Sub(a_number, a_offset)
            b_number = Cast<to = 1>(b)
            b_offset = Cast<to = 1>(b_zero)
            b_centred = Sub(b_number, b_offset)
            sums = MatMul(a_centred, b_centred)
            a_scale_wide = Cast<to = 1>(a_scale)
            b_scale_wide = Cast<to = 1>(b_scale)
            y_scale_wide = Cast<to = 1>(y_scale)
            scales = Mul(a_scale_wide, b_scale_wide)
            multiplier = Div(scales, y_scale_wide)
            steps = Mul(sums, multiplier)
            {_TO_INTEGERS}
        }}""",
        _bounds(node, 7),
    )


@body("QLinearConv")
def _qlinear_conv(node: ir.Node) -> Any:
    """The same for convolutions; the weights' scale and zero point may be per output channel."""
    rank = _rank(node, 3)
    if rank is None or not _whole(node, (1, 6)):
        return None
    column = [-1, *[1] * (rank - 1)]
    bias = "bias_wide = Cast<to = 1>(bias)\n row = Reshape(bias_wide, channels)\n sums = Add(plain, row)"
    return function(
        f"""QLinearConv(x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero{", bias" if _given(node, 8) else ""})
        => (y) {{
            channels = Constant<value_ints = {[1, *column[:1], *column[2:]]}>()
            filters = Constant<value_ints = {column}>()
            x_number = Cast<to = 1>(x)
            x_offset = Cast<to = 1>(x_zero)
            x_centred = Sub(x_number, x_offset)
            w_number = Cast<to = 1>(w)
            w_offset = Cast<to = 1>(w_zero)
            w_column = Reshape(w_offset, filters)
            w_centred = Sub(w_number, w_column)
            plain = Conv{_written(node, "auto_pad dilations group kernel_shape pads strides")}(x_centred, w_centred)
            {bias if _given(node, 8) else "sums = Identity(plain)"}
            w_scales = Reshape(w_scale, channels)
            scales = Mul(x_scale, w_scales)
            multiplier = Div(scales, y_scale)
            steps = Mul(sums, multiplier)
            {_TO_INTEGERS}
        }}""",
        _bounds(node, 7),
    )


@body("ConvInteger")
def _conv_integer(node: ir.Node) -> Any:
    """Exact as long as sums stay below 2^24, which 257 products of two bytes do; wider ones are refused."""
    weight = node.inputs[1]
    if weight is None or weight.shape is None or not all(isinstance(dim, int) for dim in weight.shape):
        return None
    if int(np.prod([int(dim) for dim in weight.shape[1:]])) > 257 or _rank(node, 3 if _given(node, 3) else 1) == 1:
        return None
    zero = "Cast<to = 1>(x_zero)" if _given(node, 2) else "Constant<value_float = 0.0>()"
    w_zero = "Cast<to = 1>(w_zero)" if _given(node, 3) else "Constant<value_float = 0.0>()"
    names = ["x", "w", *(["x_zero"] if len(node.inputs) > 2 else []), *(["w_zero"] if len(node.inputs) > 3 else [])]
    return function(
        f"""ConvInteger({", ".join(names)}) => (y) {{
            x_number = Cast<to = 1>(x)
            x_offset = {zero}
            x_centred = Sub(x_number, x_offset)
            w_number = Cast<to = 1>(w)
            w_offset = {w_zero}
            w_centred = Sub(w_number, w_offset)
            sums = Conv{_written(node, "auto_pad dilations group kernel_shape pads strides")}(x_centred, w_centred)
            y = Cast<to = 6>(sums)
        }}""",
    )


@body("IsInf")
def _is_inf(node: ir.Node) -> Any:
    """One sign only; both signs are TVM's own."""
    positive, negative = (node.attributes.get_int(f"detect_{sign}", 1) for sign in ("positive", "negative"))
    if positive and negative:
        return None
    value = "inf" if positive else "-inf"
    if not positive and not negative:
        return None
    dtype = ir.DataType(_dtype(node, 0))
    wide = np.finfo(dtype.numpy() if dtype.is_floating_point() else np.float32).max
    bound, comparison = (wide, "Greater") if value == "inf" else (-wide, "Less")
    made = function(f"IsInf(x) => (y) {{\n limit = Constant<value_float = 0.0>()\n y = {comparison}(x, limit)\n}}")
    set_constant(made, "limit", np.asarray(bound))
    return made


@body("DFT")
def _dft(node: ir.Node) -> Any:
    """A matrix product with cosines and sines, for a length and an axis that are known: [..., L, 1 or 2]."""
    signal = node.inputs[0]
    if signal is None or signal.shape is None or _given(node, 1):
        return None
    rank = len(signal.shape)
    axis = node.attributes.get_int("axis", 1) if "axis" in node.attributes else None
    if axis is None:
        axis = int(constant(node, 2)) if constant(node, 2) is not None else (-2 if not _given(node, 2) else None)
    if axis is None or not isinstance(signal.shape[axis], int) or not isinstance(signal.shape[-1], int):
        return None
    axis, length = axis % rank, int(signal.shape[axis])
    one_sided, inverse = node.attributes.get_int("onesided", 0), node.attributes.get_int("inverse", 0)
    if inverse and one_sided:
        return None
    angles = -2 * np.pi * np.outer(np.arange(length), np.arange(length // 2 + 1 if one_sided else length)) / length
    if inverse:
        angles = -angles
    factor = 1 / length if inverse else 1.0
    real, imaginary = np.cos(angles) * factor, np.sin(angles) * factor
    # rows: samples and parts of the input; columns: frequencies and parts of the output
    table = np.stack([real, imaginary], axis=-1)[:, None]
    if int(signal.shape[-1]) == 2:
        table = np.concatenate([table, np.stack([-imaginary, real], axis=-1)[:, None]], axis=1)
    # an inverse mostly gives back a signal's small values from the sums of large ones
    matrix = table.reshape(table.shape[0] * table.shape[1], -1).astype(np.float64 if inverse else np.float32)
    order = [i for i in range(rank) if i not in (axis, rank - 1)] + [axis, rank - 1]
    back = [order.index(i) for i in range(rank)]
    keep = [0] * (rank - 2)
    made = function(
        f"""DFT({", ".join(["x", "length", "axis"][: len(node.inputs)])}) => (y) {{
            last = Transpose<perm = {order}>(x)
            flat_shape = Constant<value_ints = {[*keep, -1]}>()
            flat = Reshape(last, flat_shape)
            wide = Cast<to = {11 if inverse else 1}>(flat)
            table = Constant<value_float = 0.0>()
            sums = MatMul(wide, table)
            product = Cast<to = 1>(sums)
            split_shape = Constant<value_ints = {[*keep, table.shape[2], 2]}>()
            split = Reshape(product, split_shape)
            y = Transpose<perm = {back}>(split)
        }}""",
    )
    set_constant(made, "table", matrix)
    return made


@body("STFT")
def _stft(node: ir.Node) -> Any:
    """A strided convolution with windowed cosines and sines, for a real signal and a known window: [B, T, 1]."""
    step, window, length = (constant(node, index) for index in (1, 2, 3))
    signal = node.inputs[0]
    if step is None or signal is None or signal.shape is None or (_given(node, 2) and window is None):
        return None
    if len(signal.shape) == 3 and signal.shape[-1] != 1:
        return None
    size = int(length) if length is not None else (len(window) if window is not None else 0)
    if not size or (window is not None and len(window) != size):
        return None
    bins = size // 2 + 1 if node.attributes.get_int("onesided", 1) else size
    angles = -2 * np.pi * np.outer(np.arange(bins), np.arange(size)) / size
    shape = np.ones(size) if window is None else window.astype(np.float64)
    bank = np.stack([np.cos(angles) * shape, np.sin(angles) * shape], axis=1).reshape(2 * bins, 1, size)
    made = function(
        f"""STFT({", ".join(["x", "step", "window", "length"][: len(node.inputs)])}) => (y) {{
            row_shape = Constant<value_ints = [0, 1, -1]>()
            row = Reshape(x, row_shape)
            table = Constant<value_float = 0.0>()
            parts = Conv<strides = [{int(step)}]>(row, table)
            split_shape = Constant<value_ints = [0, {bins}, 2, -1]>()
            split = Reshape(parts, split_shape)
            y = Transpose<perm = [0, 3, 1, 2]>(split)
        }}""",
    )
    set_constant(made, "table", bank.astype(np.float32))
    return made


def set_constant(function: Any, name: str, array: Any) -> None:
    """Gives a constant of the text its real value, too long for text."""
    (node,) = (node for node in function.node if node.output[0] == name)
    del node.attribute[:]
    node.attribute.append(onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(array, name)))


def _whole(node: ir.Node, indices: tuple[int, ...]) -> bool:
    """Whether these inputs hold one number each."""
    shapes = [value.shape if value is not None else None for value in (node.inputs[index] for index in indices)]
    return all(shape is not None and all(dim == 1 for dim in shape) for shape in shapes)


def _bounds(node: ir.Node, index: int) -> dict[str, Any]:
    """The range of the integers that a zero point is of."""
    value = node.inputs[index]
    assert value is not None and value.dtype is not None
    info = np.iinfo(value.dtype.numpy())
    return {"least": f"{float(info.min)}", "most": f"{float(info.max)}", "dtype": _dtype(node, index)}


def _written(node: ir.Node, names: str) -> str:
    """Attributes of a node as text, in their brackets; those it does not have are left out."""
    parts = []
    for name in names.split():
        if name in node.attributes:
            value: Any = node.attributes[name].value
            shown = (
                f'"{value}"'
                if isinstance(value, str)
                else str(list(value) if isinstance(value, tuple | list) else value)
            )
            parts.append(f"{name} = {shown}")
    return f"<{', '.join(parts)}>" if parts else ""
