"""Convolutions and pooling of odd shapes against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from tests.onnx_models import reference
from xamc.ir.tolerances import tolerance
from xamc.verify.metrics import relative_error

Array = NDArray[np.float32]
# batch, channels, height, width, features, kernel, strides, padding (top, left, bottom, right), dilations, groups
CASES = {
    "tiles and tails": (2, 5, 9, 11, 7, (3, 2), (2, 1), (1, 0, 0, 1), (1, 2), 1),
    "two blocks along K, three vectors": (1, 70, 6, 5, 13, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    "groups": (2, 6, 9, 11, 9, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 3),
    "pixels": (2, 9, 5, 7, 10, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    "pixels, a stride": (1, 9, 5, 7, 10, (1, 1), (2, 3), (0, 0, 0, 0), (1, 1), 1),
    "depthwise": (2, 6, 9, 7, 6, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 6),
    "depthwise, a stride, two features": (1, 3, 11, 9, 6, (5, 5), (2, 2), (2, 1, 2, 3), (1, 1), 3),
    "one output": (3, 4, 3, 3, 5, (3, 3), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    "patches": (1, 3, 12, 12, 8, (4, 4), (4, 4), (0, 0, 0, 0), (1, 1), 1),
    "more padding than image": (1, 2, 2, 1, 3, (2, 2), (3, 3), (4, 5, 4, 5), (1, 1), 1),
    "columns only": (2, 4, 1, 33, 6, (1, 5), (1, 2), (0, 2, 0, 2), (1, 3), 2),
}


def _value(name: str, shape: Any) -> Any:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)


def _expected(op: str, inputs: dict[str, Array], **attributes: Any) -> Array:
    graph = helper.make_graph(
        [helper.make_node(op, list(inputs), ["y"], **attributes)],
        "g",
        [_value(name, array.shape) for name, array in inputs.items()],
        [_value("y", None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return reference(model, dict(inputs))["y"]


def _compiled(function: Any, level: str) -> Any:
    import tvm

    from xamc.targets.cpu.tir_pipeline import NAME
    from xamc.targets.kernels.isa import Isa

    target = tvm.target.Target(Isa.by_name(level).target())
    return tvm.compile(tvm.IRModule({"f": function}), target=target, tir_pipeline=NAME)["f"]


def _packed(weight: Array, shape: Any, isa: Any) -> Array:
    from xamc.targets.kernels.convolution import packed_shape

    packed = packed_shape(shape, isa)
    if shape.depthwise:
        return weight.reshape(packed)
    groups, tiles, k, rows = packed
    padded = np.zeros((groups, tiles * rows, k), np.float32)
    padded[:, : shape.features // groups] = weight.reshape(groups, -1, k)
    return np.ascontiguousarray(padded.reshape(groups, tiles, rows, k).swapaxes(2, 3))


@pytest.mark.parametrize("static", [True, False], ids=["fixed", "varying"])
@pytest.mark.parametrize("name", CASES)
def test_convolution(name: str, static: bool) -> None:
    import tvm

    from xamc.targets.kernels.convolution import ConvolutionShape, Epilogue, convolution
    from xamc.targets.kernels.image_planes import Window
    from xamc.targets.kernels.isa import Isa

    n, c, h, w, f, kernel, strides, pads, dilations, groups = CASES[name]
    rng = np.random.default_rng(3)
    x, weight, bias = (rng.standard_normal(s).astype(np.float32) for s in ((n, c, h, w), (f, c // groups, *kernel), f))
    attributes = {"kernel_shape": kernel, "strides": strides, "pads": pads, "dilations": dilations, "group": groups}
    expected = _expected("Conv", {"x": x, "w": weight, "b": bias}, **attributes)
    residual = rng.standard_normal(expected.shape).astype(np.float32)
    isa = Isa.host() if static else Isa.by_name("x86-64")
    out = expected.shape[2:]
    shape = ConvolutionShape(
        (h, w) if static else (None, None),
        (out[0], out[1]) if static else (None, None),
        c,
        f,
        groups,
        Window(kernel, strides, dilations, pads[:2]),
    )
    run = _compiled(convolution("f", shape, Epilogue(True, not static, 0.0, 6.0 if static else None), isa), isa.name)
    y = tvm.runtime.tensor(np.full_like(expected, np.nan))
    operands = [x, _packed(weight, shape, isa), bias, *([] if static else [residual])]
    run(*map(tvm.runtime.tensor, operands), y)
    wanted = np.clip(expected, 0, 6) if static else np.maximum(expected + residual, 0)
    assert relative_error(y.numpy(), wanted) <= tolerance("graph_fp32")


@pytest.mark.parametrize("kind", ["max", "mean"])
@pytest.mark.parametrize(("kernel", "strides", "pad"), [((3, 3), (2, 2), 1), ((2, 3), (1, 2), 0)])
def test_pooling(kind: str, kernel: tuple[int, int], strides: tuple[int, int], pad: int) -> None:
    import tvm

    from xamc.targets.kernels.image_planes import Window
    from xamc.targets.kernels.isa import Isa
    from xamc.targets.kernels.pooling import pooling

    x = np.random.default_rng(4).standard_normal((2, 3, 9, 13)).astype(np.float32) - 3
    more = {"count_include_pad": 1} if kind == "mean" else {}
    op = "AveragePool" if kind == "mean" else "MaxPool"
    expected = _expected(op, {"x": x}, kernel_shape=kernel, strides=strides, pads=[pad] * 4, **more)
    isa = Isa.host()
    function = pooling("f", kind, 3, (9, 13), Window(kernel, strides, (1, 1), (pad, pad)), isa)  # type: ignore[arg-type]
    y = tvm.runtime.tensor(np.zeros_like(expected))
    _compiled(function, isa.name)(tvm.runtime.tensor(x), y)
    assert relative_error(y.numpy(), expected) <= tolerance("graph_fp32")


@pytest.mark.parametrize("function", ["erf", "gelu", "sigmoid", "silu"])
def test_functions_of_elements(function: str) -> None:
    import torch
    import tvm

    from xamc.targets.kernels.isa import Isa
    from xamc.targets.kernels.unary import unary

    x = np.concatenate([np.linspace(-12, 12, 5003), [0.0, -100, 100, np.nan]]).astype(np.float32)
    theirs = getattr(torch, function, None) or getattr(torch.nn.functional, function)
    expected = theirs(torch.from_numpy(x.astype(np.float64))).numpy()
    y = tvm.runtime.tensor(np.zeros_like(x))
    _compiled(unary("f", function, Isa.host()), Isa.host().name)(tvm.runtime.tensor(x), y)
    actual = y.numpy()
    assert np.isnan(actual[-1])
    np.testing.assert_allclose(actual[:-1], expected[:-1], rtol=0, atol=tolerance("graph_fp32"))


def test_layer_norm() -> None:
    import tvm

    from xamc.targets.kernels.isa import Isa
    from xamc.targets.kernels.layer_norm import layer_norm

    rng = np.random.default_rng(5)
    for width in (5, 8, 77):
        x, w, b = ((rng.standard_normal(s) * 3 + 9).astype(np.float32) for s in ((7, width), width, width))
        expected = _expected("LayerNormalization", {"x": x, "w": w, "b": b}, epsilon=1e-5)
        y = tvm.runtime.tensor(np.zeros_like(x))
        run = _compiled(layer_norm("f", width, 1e-5, Isa.host()), Isa.host().name)
        run(*map(tvm.runtime.tensor, (x, w, b)), y)
        assert relative_error(y.numpy(), expected) <= tolerance("graph_fp32")
