"""Small ONNX models of the kinds that build files with `frontend.type: onnx` name, with seeded weights.

They are written with onnx.helper, node by node, as exporters write them: opset 13 and 17, shapes computed in the graph,
a batch dimension that is a symbol.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]


class Graph:
    """Collects nodes and initializers; `add` returns the name of the node's first output."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(seed)
        self._count = 0

    def weight(self, *shape: int, scale: float | None = None, offset: float = 0.0) -> str:
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        scale = 1.5 / np.sqrt(fan_in) if scale is None else scale
        return self.const((offset + scale * self._rng.standard_normal(shape)).astype(np.float32), "weight")

    def const(self, value: Any, name: str = "const") -> str:
        self._count += 1
        name = f"{name}.{self._count}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        self._count += 1
        names = [f"{op.lower()}_{self._count}" + (f"_{i}" if i else "") for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=f"/{op}_{self._count}", **attributes))
        return names[0]

    def model(
        self, inputs: dict[str, tuple[int, list[Any]]], outputs: dict[str, tuple[str, list[Any]]], opset: int = 17
    ) -> onnx.ModelProto:
        """Inputs: name → (element type, shape); outputs: name → (value of the graph, shape)."""
        for name, (value, _) in outputs.items():
            self.nodes.append(helper.make_node("Identity", [value], [name], name=f"/out/{name}"))
        graph = helper.make_graph(
            self.nodes,
            "main",
            [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, (_, shape) in outputs.items()],
            self.initializers,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def resnet() -> onnx.ModelProto:
    """A residual CNN: `input.1` [batch, 3, 32, 32] → `logits` [batch, 10]; opset 13."""
    g = Graph(1)

    def conv_bn(x: str, cin: int, cout: int, kernel: int, stride: int = 1, group: int = 1) -> str:
        pad = kernel // 2
        x = g.add(
            "Conv", x, g.weight(cout, cin // group, kernel, kernel), kernel_shape=[kernel, kernel],
            strides=[stride, stride], pads=[pad] * 4, group=group,
        )  # fmt: skip
        variance = g.const(np.linspace(0.5, 1.5, cout, dtype=np.float32), "var")
        return g.add(
            "BatchNormalization", x, g.weight(cout, scale=0.1, offset=1), g.weight(cout), g.weight(cout), variance
        )

    x = g.add("Relu", conv_bn("input.1", 3, 16, 7, 2))
    x = g.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    y = conv_bn(g.add("Relu", conv_bn(x, 16, 16, 3)), 16, 16, 3)
    x = g.add("Relu", g.add("Add", y, x))
    y = conv_bn(g.add("Clip", conv_bn(x, 16, 32, 1), g.const(np.float32(0)), g.const(np.float32(6))), 32, 32, 3, 2, 32)
    x = g.add("Relu", g.add("Add", conv_bn(y, 32, 32, 1), conv_bn(x, 16, 32, 1, 2)))
    x = g.add("Flatten", g.add("GlobalAveragePool", x), axis=1)
    x = g.add("Gemm", x, g.weight(10, 32), g.weight(10), transB=1)
    return g.model(
        {"input.1": (TensorProto.FLOAT, ["batch", 3, 32, 32])}, {"logits": (x, ["batch", 10])}, opset=13
    )  # fmt: skip


def _attention(g: Graph, x: str, width: int, heads: int, tokens: str, mask: str | None = None) -> str:
    """Multi-head attention as exporters write it, with reshapes whose first dimension is read from the input."""
    batch = g.add("Gather", g.add("Shape", tokens), g.const(np.int64(0)), axis=0)
    rest = g.const(np.array([-1, heads, width // heads]))
    shape = g.add("Concat", g.add("Unsqueeze", batch, g.const(np.array([0]))), rest, axis=0)
    parts = []
    for permutation in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
        y = g.add("Add", g.add("MatMul", x, g.weight(width, width)), g.weight(width, scale=0.1))
        parts.append(g.add("Transpose", g.add("Reshape", y, shape), perm=permutation))
    scores = g.add("Div", g.add("MatMul", parts[0], parts[1]), g.const(np.float32(np.sqrt(width // heads))))
    if mask is not None:
        scores = g.add("Add", scores, mask)
    y = g.add("Transpose", g.add("MatMul", g.add("Softmax", scores, axis=-1), parts[2]), perm=[0, 2, 1, 3])
    y = g.add("Reshape", y, g.const(np.array([0, 0, width])))
    return g.add("Add", g.add("MatMul", y, g.weight(width, width)), g.weight(width, scale=0.1))


def _norm(g: Graph, x: str, width: int) -> str:
    return g.add(
        "LayerNormalization", x, g.weight(width, scale=0.1, offset=1), g.weight(width, scale=0.1), axis=-1, epsilon=1e-5
    )


def _mlp(g: Graph, x: str, width: int) -> str:
    """Two linear layers around the GELU that torch exports: x * 0.5 * (1 + erf(x / sqrt 2))."""
    y = g.add("Add", g.add("MatMul", x, g.weight(width, 2 * width)), g.weight(2 * width, scale=0.1))
    erf = g.add("Erf", g.add("Div", y, g.const(np.float32(np.sqrt(2)))))
    y = g.add("Mul", g.add("Mul", y, g.add("Add", erf, g.const(np.float32(1)))), g.const(np.float32(0.5)))
    return g.add("Add", g.add("MatMul", y, g.weight(2 * width, width)), g.weight(width, scale=0.1))


def vit(width: int = 32, layers: int = 2) -> onnx.ModelProto:
    """A vision transformer: `pixel_values` [batch, 3, 16, 16] → `logits` [batch, 7]; opset 17."""
    g = Graph(2)
    patches = {"kernel_shape": [4, 4], "strides": [4, 4]}
    x = g.add("Conv", "pixel_values", g.weight(width, 3, 4, 4), g.weight(width, scale=0.1), **patches)
    x = g.add("Transpose", g.add("Reshape", x, g.const(np.array([0, width, -1]))), perm=[0, 2, 1])
    batch = g.add("Slice", g.add("Shape", "pixel_values"), g.const(np.array([0])), g.const(np.array([1])))
    shape = g.add("Concat", batch, g.const(np.array([1, width])), axis=0)
    x = g.add("Concat", g.add("Expand", g.weight(1, 1, width), shape), x, axis=1)
    x = g.add("Add", x, g.weight(1, 17, width, scale=0.2))
    for _ in range(layers):
        x = g.add("Add", x, _attention(g, _norm(g, x, width), width, 4, "pixel_values"))
        x = g.add("Add", x, _mlp(g, _norm(g, x, width), width))
    x = g.add("Gather", _norm(g, x, width), g.const(np.int64(0)), axis=1)
    x = g.add("Gemm", x, g.weight(width, 7), g.weight(7))
    return g.model(
        {"pixel_values": (TensorProto.FLOAT, ["batch", 3, 16, 16])}, {"logits": (x, ["batch", 7])}
    )  # fmt: skip


def audio(width: int = 32, mels: int = 16) -> onnx.ModelProto:
    """An acoustic encoder: `wave` [batch, samples] → `frames` [batch, time, 8]; opset 17.

    A filter bank as a strided convolution, mel bands as a matrix, two 1-D convolutions (the second with stride 2, then
    depthwise), an attention layer over time.
    """
    g = Graph(4)
    window = 32
    time = np.arange(window)
    bank = np.stack([f(2 * np.pi * k * time / window) for f in (np.cos, np.sin) for k in range(17)])
    x = g.add("Unsqueeze", "wave", g.const(np.array([1])))
    spectrum = g.add("Conv", x, g.const(bank[:, None].astype(np.float32), "bank"), strides=[8], pads=[16, 16])
    power = g.add("Mul", spectrum, spectrum)
    power = g.add("Add", *(g.add("Slice", power, *(g.const(np.array([v])) for v in (a, a + 17, 1))) for a in (0, 17)))
    mel = g.add("MatMul", g.const(np.abs(g._rng.standard_normal((mels, 17))).astype(np.float32), "mel"), power)
    x = g.add("Log", g.add("Max", mel, g.const(np.float32(1e-5))))
    x = g.add("Relu", g.add("Conv", x, g.weight(width, mels, 3), g.weight(width, scale=0.1), pads=[1, 1]))
    x = g.add("Relu", g.add("Conv", x, g.weight(width, width, 3), strides=[2], pads=[1, 1]))
    x = g.add("Add", x, g.add("Conv", x, g.weight(width, 1, 5), pads=[4, 4], dilations=[2], group=width))
    x = g.add("Transpose", x, perm=[0, 2, 1])
    x = g.add("Add", x, _attention(g, _norm(g, x, width), width, 4, "wave"))
    x = g.add("Add", x, _mlp(g, _norm(g, x, width), width))
    x = g.add("LogSoftmax", g.add("MatMul", x, g.weight(width, 8)), axis=-1)
    return g.model(
        {"wave": (TensorProto.FLOAT, ["batch", "samples"])}, {"frames": (x, ["batch", "time", 8])}
    )  # fmt: skip


VOCABULARY = 50


def bert(width: int = 32, layers: int = 2) -> onnx.ModelProto:
    """An encoder: `input_ids`, `attention_mask`, `token_type_ids` int64[batch, tokens] → hidden states, a pooled row.

    The vocabulary has 50 words; opset 17.
    """
    g = Graph(3)
    x = g.add("Gather", g.weight(VOCABULARY, width, scale=1.0), "input_ids", axis=0)
    x = g.add("Add", x, g.add("Gather", g.weight(2, width, scale=0.3), "token_type_ids", axis=0))
    tokens = g.add("Gather", g.add("Shape", "input_ids"), g.const(np.int64(1)), axis=0)
    stop = g.add("Unsqueeze", tokens, g.const(np.array([0])))
    positions = g.add("Slice", g.weight(1, 64, width, scale=0.3), g.const(np.array([0])), stop, g.const(np.array([1])))
    x = _norm(g, g.add("Add", x, positions), width)
    mask = g.add("Unsqueeze", "attention_mask", g.const(np.array([1, 2])))
    mask = g.add("Sub", g.const(np.float32(1)), g.add("Cast", mask, to=TensorProto.FLOAT))
    mask = g.add("Mul", mask, g.const(np.float32(-3.4028235e38)))
    for _ in range(layers):
        x = _norm(g, g.add("Add", x, _attention(g, x, width, 4, "input_ids", mask)), width)
        x = _norm(g, g.add("Add", x, _mlp(g, x, width)), width)
    first = g.add("Gather", x, g.const(np.int64(0)), axis=1)
    pooled = g.add("Tanh", g.add("Gemm", first, g.weight(width, width), g.weight(width), transB=1))
    ids = (TensorProto.INT64, ["batch", "tokens"])
    return g.model(
        {"input_ids": ids, "attention_mask": ids, "token_type_ids": ids},
        {"last_hidden_state": (x, ["batch", "tokens", width]), "pooler_output": (pooled, ["batch", width])},
    )


MODELS = {"resnet": resnet, "vit": vit, "bert": bert, "audio": audio}

SHAPES: dict[str, dict[str, list[int]]] = {
    "resnet": {"input.1": [1, 3, 32, 32]},
    "vit": {"pixel_values": [1, 3, 16, 16]},
    "audio": {"wave": [1, 512]},
    "bert": {name: [1, 16] for name in ("input_ids", "attention_mask", "token_type_ids")},
}


#: Smallest and largest shapes of the same models.
RANGES: dict[str, dict[str, list[list[int]]]] = {
    "resnet": {"input.1": [[1, 3, 32, 32], [4, 3, 32, 32]]},
    "vit": {"pixel_values": [[1, 3, 16, 16], [4, 3, 16, 16]]},
    "audio": {"wave": [[1, 128], [3, 1024]]},
    "bert": {name: [[1, 2], [4, 24]] for name in ("input_ids", "attention_mask", "token_type_ids")},
}


def feeds(kind: str, seed: int = 5, shapes: dict[str, list[int]] | None = None) -> dict[str, Array]:
    """Seeded inputs of one of `MODELS`."""
    rng = np.random.default_rng(seed)
    shapes = shapes or SHAPES[kind]
    if kind == "bert":
        shape = shapes["input_ids"]
        mask = np.ones(shape, np.int64)
        mask[0, 3 * shape[1] // 4 :] = 0
        return {
            "input_ids": rng.integers(0, VOCABULARY, shape),
            "attention_mask": mask,
            "token_type_ids": rng.integers(0, 2, shape),
        }
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def narrowed(model: onnx.ModelProto, kind: int) -> onnx.ModelProto:
    """The same model in float16 or bfloat16, as exporters make it: weights, inputs, outputs and casts to float."""
    narrow = onnx.ModelProto()
    narrow.CopyFrom(model)
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    for tensor in narrow.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            array = np.clip(numpy_helper.to_array(tensor), -65504, 65504).astype(dtype)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in (*narrow.graph.input, *narrow.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = kind
    for node in narrow.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = kind
    return narrow


def write(kind: str, path: Path) -> Path:
    """Saves one of `MODELS` to `path`."""
    onnx.save(MODELS[kind](), path)
    return path


def reference(model: onnx.ModelProto, inputs: dict[str, Array]) -> dict[str, Array]:
    """ONNX Runtime's answer: fp32, optimizations off."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs)))
