"""Calls of operators that kernels cover, with what follows them, become calls of the kernels.

Weights are packed by calls that depend on nothing but weights, so that LiftTransformParams takes them out of the model
and they run once, when it is loaded. What is not covered here stays as it is, for TVM to lower.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Literal

import tvm
from tvm import relax, te, tirx
from tvm.relax import op

from xamc.artifact.packing import WeightFormat
from xamc.artifact.panels import PANEL
from xamc.passes.lowering.body import arguments, substitute
from xamc.targets.kernels import unary
from xamc.targets.kernels.batched_matmul import MatMulShape, batched_matmul
from xamc.targets.kernels.convolution import ConvolutionShape, convolution, packed_shape
from xamc.targets.kernels.emit import number_name
from xamc.targets.kernels.image_planes import Window
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.layer_norm import layer_norm
from xamc.targets.kernels.linear import linear
from xamc.targets.kernels.pooling import pooling
from xamc.targets.kernels.softmax import softmax
from xamc.targets.kernels.strided import Strides, row_major
from xamc.targets.onnx.epilogues import ConvolutionEnd, convolution_end
from xamc.targets.onnx.names import FUNCTION

_UNARY = {"relax.erf": "erf", "relax.nn.gelu": "gelu", "relax.sigmoid": "sigmoid", "relax.nn.silu": "silu"}
_LARGEST_WINDOW = 4096


def select_kernels(module: tvm.IRModule, isa: Isa) -> tvm.IRModule:
    """Rewrites `main`; a module whose body is not a single dataflow block is returned as it is.

    Args:
        module: as the ONNX importer leaves it; `num_input` parameters of main are data, the others weights.
        isa: the level to generate for.
    """
    function = module[FUNCTION]
    if len(function.body.blocks) != 1 or not isinstance(function.body.blocks[0], relax.DataflowBlock):
        return module
    if not all(isinstance(binding, relax.VarBinding) for binding in function.body.blocks[0].bindings):
        return module
    return _Selection(module, isa).run()


def static_shape(var: Any) -> tuple[int, ...] | None:
    """The dimensions of a tensor, or None if one of them varies."""
    shape = getattr(var.ty, "shape", None)
    if shape is None or not isinstance(shape, relax.ShapeExpr):
        return None
    dims = tuple(getattr(dim, "value", None) for dim in shape)
    return None if None in dims else tuple(int(dim) for dim in dims if dim is not None)


class _Selection:
    def __init__(self, module: tvm.IRModule, isa: Isa) -> None:
        self.module, self.isa = module, isa
        body = module[FUNCTION].body
        self.bindings = [(binding.var, binding.value) for binding in body.blocks[0].bindings]
        self.result = body.body
        self.producers = dict(self.bindings)
        self.users: dict[Any, list[Any]] = {read: [None] for read in arguments(self.result)}
        for var, value in self.bindings:
            for read in arguments(value):
                self.users.setdefault(read, []).append(var)
        others = {var: f for var, f in module.functions_items() if var.name_hint != FUNCTION}
        self.builder = relax.BlockBuilder(tvm.IRModule(others))
        self.kernels: dict[str, Any] = {}
        self.renamed: dict[Any, Any] = {}
        self.weight_only = self._weight_only()
        # the last operator of a fused group → what writes the group; the others are left out
        self.ends: dict[Any, Callable[[], Any]] = {}
        self.absorbed: set[Any] = set()

    def run(self) -> tvm.IRModule:
        function = self.module[FUNCTION]
        for var, value in self.bindings:
            if not self._taken(var):
                self._plan(var, value)
        with self.builder.function(FUNCTION, list(function.params), attrs=dict(function.attrs.items())):
            with self.builder.dataflow():
                for var, value in self.bindings:
                    if var in self.ends:
                        self.renamed[var] = self.ends[var]()
                    elif var not in self.absorbed:
                        self.renamed[var] = self.builder.emit(substitute(value, self._now), var.name)
                output = self.builder.emit_output(substitute(self.result, self._now))
            self.builder.emit_func_output(output)
        return self.builder.finalize()

    def _weight_only(self) -> set[Any]:
        """Variables that depend on nothing but weights and constants."""
        function = self.module[FUNCTION]
        count = int(function.attrs["num_input"])
        found = set(function.params[count:])
        for var, value in self.bindings:
            if isinstance(value, relax.Call) and all(read in found for read in arguments(value)):
                found.add(var)
        return found

    def _now(self, var: Any) -> Any:
        return var if isinstance(var, tvm.ir.GenericConst) else self.renamed.get(var, var)

    def _is_weight(self, operand: Any) -> bool:
        return isinstance(operand, tvm.ir.GenericConst) or operand in self.weight_only

    def _taken(self, var: Any) -> bool:
        """Whether a group has `var` already."""
        return var in self.absorbed or var in self.ends

    # -- what belongs together ----------------------------------------------------------------------------------

    def _plan(self, var: Any, value: Any) -> None:
        if not isinstance(value, relax.Call) or not hasattr(value.op, "name") or var in self.weight_only:
            return
        name = value.op.name
        if str(getattr(var.ty, "dtype", "")) != "float32":
            return
        if name in ("relax.nn.conv2d", "relax.nn.conv1d"):
            self._convolution(var, value)
        elif name == "relax.matmul":
            self._matmul(var, value)
        elif name == "relax.nn.softmax":
            self._softmax(var, value)
        elif name == "relax.nn.layer_norm":
            self._layer_norm(var, value)
        elif name in ("relax.nn.max_pool2d", "relax.nn.avg_pool2d"):
            self._pooling(var, value)
        elif name in _UNARY:
            self._unary(var, value, _UNARY[name])

    def _kernel(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self.kernels:
            self.kernels[name] = self.builder.add_func(make(), name)
        return self.kernels[name]

    def _call(self, kernel: Any, given: Sequence[Any], ty: Any) -> Any:
        return self.builder.emit(relax.call_tir(kernel, relax.Tuple(list(given)), ty))

    def _reshape(self, value: Any, shape: Sequence[Any]) -> Any:
        return self.builder.emit(op.reshape(value, relax.ShapeExpr(list(shape))))

    # -- convolutions and pooling -------------------------------------------------------------------------------

    def _convolution(self, var: Any, call: Any) -> None:
        x, weight = call.args
        attrs, weight_shape = call.attrs, static_shape(weight)
        rank = 2 if call.op.name.endswith("2d") else 1
        layouts = (str(attrs.data_layout), str(attrs.kernel_layout))
        if layouts not in (("NCHW", "OIHW"), ("NCW", "OIW")) or weight_shape is None or str(x.ty.dtype) != "float32":
            return
        image, out = list(x.ty.shape)[2:], list(var.ty.shape)[2:]
        channels = getattr(list(x.ty.shape)[1], "value", None)
        if channels is None or prod(weight_shape[2:]) > _LARGEST_WINDOW:
            return
        ones = [1] * (2 - rank)
        window = Window(
            _pair(ones, weight_shape[2:]),
            _pair(ones, attrs.strides),
            _pair(ones, attrs.dilation),
            _pair([0] * (2 - rank), list(attrs.padding)[:rank]),
        )
        shape = ConvolutionShape(
            _dims(ones + image), _dims(ones + out), int(channels), weight_shape[0], int(attrs.groups), window
        )
        end = convolution_end(var, self.producers, self.users, self._is_weight, self._taken, rank)
        self.absorbed.update(end.absorbed)
        self.ends[end.last] = lambda: self._emit_convolution(x, weight, shape, end, rank, ones, out)

    def _emit_convolution(
        self, x: Any, weight: Any, shape: ConvolutionShape, end: ConvolutionEnd, rank: int, ones: list[int], out: Any
    ) -> Any:
        name = f"convolution_{_name(shape)}_{end.epilogue.tag}"
        kernel = self._kernel(name, lambda: convolution(name, shape, end.epilogue, self.isa))
        kernel_shape = [shape.features, shape.channels // shape.groups, *shape.window.kernel]
        packed = self._pack_convolution(self._flat_weight(weight, kernel_shape), shape)
        given = self._now(x)
        batch, _, *image = given.ty.shape
        if rank == 1:
            given = self._reshape(given, [batch, shape.channels, *ones, *image])
        result = [batch, shape.features, *ones, *out]
        operands = [given, packed]
        if end.bias is not None:
            operands.append(self._reshape(self._now(end.bias), [shape.features]))
        if end.residual is not None:
            other = self._now(end.residual)
            operands.append(other if rank == 2 else self._reshape(other, result))
        y = self._call(kernel, operands, relax.TensorType(result, "float32"))
        return y if rank == 2 else self._reshape(y, [batch, shape.features, *out])

    def _flat_weight(self, weight: Any, shape: Sequence[int]) -> Any:
        return self._reshape(self._now(weight), shape)

    def _pack_convolution(self, weight: Any, shape: ConvolutionShape) -> Any:
        packed = packed_shape(shape, self.isa)
        if shape.depthwise:
            return self._reshape(weight, packed)
        features, taps, wide = shape.features // shape.groups, shape.window.taps, shape.window.kernel[1]
        height = packed[-1]

        def pack(w: te.Tensor) -> te.Tensor:
            def element(g: Any, t: Any, k: Any, r: Any) -> Any:
                f = t * height + r
                place = (g * features + f, k // taps, k % taps // wide, k % wide if wide == taps else k % taps % wide)
                return tirx.if_then_else(f < features, w(*place), tirx.const(0, "float32"))

            return te.compute(packed, element, name="packed")

        return self.builder.emit_te(pack, weight, primfunc_name_hint="pack_convolution")

    def _pooling(self, var: Any, call: Any) -> None:
        (x,), attrs = call.args, call.attrs
        mean = call.op.name == "relax.nn.avg_pool2d"
        shape = list(x.ty.shape)
        padded = any(attrs.padding)
        if str(attrs.layout) != "NCHW" or not hasattr(shape[1], "value"):
            return
        if mean and (attrs.ceil_mode or (padded and not attrs.count_include_pad)):
            return  # windows of different sizes
        window = Window(
            _pair([], attrs.pool_size),
            _pair([], attrs.strides),
            _pair([], attrs.dilation),
            _pair([], attrs.padding[:2]),
        )
        if window.taps > _LARGEST_WINDOW:
            return
        channels, image = int(shape[1].value), _dims(shape[2:])
        kind: Literal["max", "mean"] = "mean" if mean else "max"
        name = f"pooling_{kind}_{channels}_{_dims_name(image)}_{window.tag}"

        def emit() -> Any:
            kernel = self._kernel(name, lambda: pooling(name, kind, channels, image, window, self.isa))
            return self._call(kernel, [self._now(x)], relax.TensorType(list(var.ty.shape), "float32"))

        self.ends[var] = emit

    # -- matrices -----------------------------------------------------------------------------------------------

    def _matmul(self, var: Any, call: Any) -> None:
        a, b = call.args
        weight_shape = static_shape(b)
        if str(a.ty.dtype) != "float32" or weight_shape is None:
            return
        if self._is_weight(b) and len(weight_shape) == 2 and len(list(a.ty.shape)) >= 2:
            self._linear(var, a, b, weight_shape)
        elif len(weight_shape) >= 2 and static_shape(a) is not None and len(static_shape(a) or ()) >= 2:
            self._product(var, a, b)

    def _linear(self, var: Any, a: Any, b: Any, weight_shape: tuple[int, ...]) -> None:
        k, n = weight_shape
        last, bias = var, None
        readers = self.users.get(var, [])
        if len(readers) == 1 and readers[0] is not None and not self._taken(readers[0]):
            other = _other_operand(self.producers[readers[0]], var)
            given = (static_shape(other) or ()) if other is not None and self._is_weight(other) else ()
            if prod(given) == n and given[-1:] == (n,) and len(given) <= len(list(var.ty.shape)):
                last, bias = readers[0], other
                self.absorbed.add(var)
        shape = list(var.ty.shape)
        one = all(getattr(dim, "value", 0) == 1 for dim in shape[:-1])

        def emit() -> Any:
            rows: Any = 1
            for dim in shape[:-1]:
                rows = rows * dim
            fmt = WeightFormat("float32")
            name = f"linear_{n}x{k}_{'one' if one else 'any'}{'_bias' if bias is not None else ''}"
            kernel = self._kernel(
                name, lambda: linear(n, k, fmt, self.isa, m="one" if one else "any", bias=bias is not None)
            )
            x = self._reshape(self._now(a), [rows, k])
            operands = [x, self._pack_linear(self._now(b), n, k)]
            if bias is not None:
                operands.append(self._reshape(self._now(bias), [n]))
            y = self._call(kernel, operands, relax.TensorType([rows, n], "float32"))
            return self._reshape(y, shape)

        self.ends[last] = emit

    def _pack_linear(self, weight: Any, n: int, k: int) -> Any:
        def pack(w: te.Tensor) -> te.Tensor:
            def element(p: Any, c: Any, r: Any) -> Any:
                return tirx.if_then_else(p * PANEL + r < n, w(c, p * PANEL + r), tirx.const(0, "float32"))

            return te.compute((-(-n // PANEL), k, PANEL), element, name="packed")

        return self.builder.emit_te(pack, weight, primfunc_name_hint="pack_linear")

    def _strides(self, var: Any, batch: Sequence[int]) -> tuple[Any, Strides]:
        """What lies in memory, and how a batch of matrices is read from it: a transposition costs nothing."""
        source, order = var, tuple(range(len(static_shape(var) or ())))
        made = self.producers.get(var)
        if isinstance(made, relax.Call) and getattr(made.op, "name", "") == "relax.permute_dims":
            axes = made.attrs.axes
            source = made.args[0]
            order = tuple(int(axis) for axis in axes) if axes is not None else tuple(reversed(order))
        lying, shape = static_shape(source) or (), static_shape(var) or ()
        steps = row_major(lying)
        read = [steps[axis] for axis in order]
        leading = [0 if dim == 1 else step for dim, step in zip(shape[:-2], read)]
        leading = [0] * (len(batch) - len(leading)) + leading
        return source, Strides("float32", prod(lying), 0, (*leading, *read[-2:]))

    def _product(self, var: Any, a: Any, b: Any) -> None:
        out = static_shape(var)
        if out is None or prod(out) == 0 or a is b:
            return
        batch = out[:-2]
        (source_a, left), (source_b, right) = self._strides(a, batch), self._strides(b, batch)
        k = (static_shape(a) or (0,))[-1]
        if k == 0:
            return
        shape = MatMulShape(batch, out[-2], out[-1], k)
        steps = "_".join(str(step) for step in (*left.steps, *right.steps))
        name = f"matmul_{'x'.join(map(str, (*batch, shape.m, shape.n, k)))}_{steps}"

        def emit() -> Any:
            kernel = self._kernel(name, lambda: batched_matmul(name, shape, left, right, "float32", self.isa))
            operands = [self._reshape(self._now(s), [t.size]) for s, t in ((source_a, left), (source_b, right))]
            y = self._call(kernel, operands, relax.TensorType([prod(out)], "float32"))
            return self._reshape(y, out)

        self.ends[var] = emit

    # -- rows and elements --------------------------------------------------------------------------------------

    def _softmax(self, var: Any, call: Any) -> None:
        shape = static_shape(var)
        if shape is None or prod(shape) == 0 or int(call.attrs.axis) not in (-1, len(shape) - 1):
            return
        rows, width = prod(shape[:-1]), shape[-1]
        name = f"softmax_{rows}x{width}"

        def emit() -> Any:
            kernel = self._kernel(name, lambda: softmax(name, rows, width, "float32", self.isa))
            x = self._reshape(self._now(call.args[0]), [rows * width])
            return self._reshape(self._call(kernel, [x], relax.TensorType([rows * width], "float32")), shape)

        self.ends[var] = emit

    def _layer_norm(self, var: Any, call: Any) -> None:
        shape, attrs = list(var.ty.shape), call.attrs
        width = getattr(shape[-1], "value", None)
        axes = [int(axis) % len(shape) for axis in attrs.axes]
        if width is None or axes != [len(shape) - 1] or not (attrs.center and attrs.scale):
            return
        eps = float(attrs.epsilon)
        name = f"layer_norm_{int(width)}_{number_name(eps)}"

        def emit() -> Any:
            kernel = self._kernel(name, lambda: layer_norm(name, int(width), eps, self.isa))
            rows: Any = 1
            for dim in shape[:-1]:
                rows = rows * dim
            x, *rest = (self._now(arg) for arg in call.args)
            flat = self._reshape(x, [rows, width])
            return self._reshape(self._call(kernel, [flat, *rest], relax.TensorType([rows, width], "float32")), shape)

        self.ends[var] = emit

    def _unary(self, var: Any, call: Any, function: str) -> None:
        shape = list(var.ty.shape)

        def emit() -> Any:
            kernel = self._kernel(function, lambda: unary.unary(function, function, self.isa))
            count: Any = 1
            for dim in shape:
                count = count * dim
            x = self._reshape(self._now(call.args[0]), [count])
            return self._reshape(self._call(kernel, [x], relax.TensorType([count], "float32")), shape)

        self.ends[var] = emit


def _pair(before: Sequence[int], values: Sequence[Any]) -> tuple[int, int]:
    first, second = (*before, *(int(value) for value in values))
    return first, second


def _dims(values: Sequence[Any]) -> tuple[int | None, int | None]:
    first, second = (value if isinstance(value, int) else getattr(value, "value", None) for value in values)
    return (None if first is None else int(first), None if second is None else int(second))


def _dims_name(dims: tuple[int | None, int | None]) -> str:
    return "x".join("any" if dim is None else str(dim) for dim in dims)


def _name(shape: ConvolutionShape) -> str:
    parts = [shape.channels, shape.features, shape.groups, _dims_name(shape.image), _dims_name(shape.out)]
    return "_".join(str(part) for part in (*parts, shape.window.tag))


def _other_operand(value: Any, var: Any) -> Any:
    """What is added to `var`, or None if `value` is something else than a sum."""
    if not isinstance(value, relax.Call) or getattr(value.op, "name", "") != "relax.add":
        return None
    left, right = value.args
    other = right if left is var or left.same_as(var) else left
    return other if isinstance(other, relax.Var | tvm.ir.GenericConst) else None
