"""The closed set of ONNX operators that our IR uses, each with its Relax form.

Operators with an exact Relax counterpart become it; the others become dialect calls (see dialect.py), which the
Relax passes fuse and the target replaces by kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tvm import relax
from tvm.relax import op

from xamc.errors import UnsupportedError
from xamc.ir.dialect import dialect_call
from xamc.ir.names import DEQUANTIZE_OP, MASK_DOMAIN, MASK_OP, MODULE_KEY

FUNCTION_DOMAIN = "xamc"


@dataclass
class Lowering:
    """The state of one lowering: the block being built and the Relax expression of each ONNX value."""

    builder: relax.BlockBuilder
    values: dict[ir.Value, Any]
    constants: dict[ir.Value, NDArray[np.generic]] = field(default_factory=dict)

    def read(self, node: ir.Node, index: int) -> Any:
        """The expression of an input; E1402 when it is absent or only known as a shape."""
        value = node.inputs[index]
        if value is None or value not in self.values:
            raise refused(node, f"input {index} has no value at run time")
        return self.values[value]

    def constant(self, node: ir.Node, index: int) -> NDArray[np.generic]:
        """An input that must be known at compile time."""
        value = node.inputs[index]
        if value is not None and value in self.constants:
            return self.constants[value]
        if value is not None and value.const_value is not None:
            return np.asarray(value.const_value.numpy())
        raise refused(node, f"input {index} must be a constant")

    def write(self, node: ir.Node, expr: Any) -> None:
        """Emits the expression of a node's first output."""
        output = node.outputs[0]
        self.values[output] = self.builder.emit(expr, output.name or node.op_type)


Handler = Callable[[Lowering, ir.Node], None]
HANDLERS: dict[tuple[str, str], Handler] = {}


def handles(name: str, domain: str = "") -> Callable[[Handler], Handler]:
    """Registers the handler of one operator."""

    def register(function: Handler) -> Handler:
        HANDLERS[domain, name] = function
        return function

    return register


def refused(node: ir.Node, reason: str) -> UnsupportedError:
    """E1402: an operator of the set, used in a way that has no lowering."""
    place = node.metadata_props.get(MODULE_KEY) or node.name
    return UnsupportedError(
        "E1402",
        f"{node.op_type} at {place}: {reason}",
        fix="compile for backend.type: reference, or report the model",
    )


def data_operands(node: ir.Node) -> list[ir.Value]:
    """The inputs whose values an operator needs at run time."""
    if node.op_type == "Attention" and node.domain == "":
        index = _write_index(node)
        return [v for v in (*node.inputs[:3], index) if v is not None]
    return [value for value in node.inputs if value is not None]


def _write_index(node: ir.Node) -> ir.Value:
    """The per-row cache length behind `nonpad_kv_seqlen = write_index + S`."""
    valid = node.inputs[6] if len(node.inputs) > 6 else None
    total = valid.producer() if valid is not None else None
    if total is not None and total.op_type == "Add":
        for value in total.inputs:
            if value is not None and value.is_graph_input():
                return value
    raise refused(node, "only attention over an in-place cache is lowered (pass kv_cache)")


def _window(node: ir.Node) -> int | None:
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    if mask is None:
        return None
    maker = mask.producer()
    if maker is None or (maker.domain, maker.op_type) != (MASK_DOMAIN, MASK_OP):
        raise refused(node, "an attention mask that is not a sliding window")
    return int(maker.attributes["window"].as_int())


@handles("Constant")
def _constant(state: Lowering, node: ir.Node) -> None:
    (attribute,) = node.attributes.values()
    output = node.outputs[0]
    if attribute.type == ir.AttributeType.TENSOR:
        array = attribute.as_tensor().numpy()
    else:
        array = np.asarray(attribute.value, np.float32 if "float" in attribute.name else np.int64)
    state.constants[output] = array
    if array.dtype != np.int64:
        state.values[output] = relax.const(array)


@handles("Gather")
def _gather(state: Lowering, node: ir.Node) -> None:
    axis = node.attributes.get_int("axis", 0)
    state.write(node, op.take(state.read(node, 0), state.read(node, 1), axis=axis))


@handles("MatMul")
def _matmul(state: Lowering, node: ir.Node) -> None:
    state.write(node, op.matmul(state.read(node, 0), state.read(node, 1)))


@handles("Transpose")
def _transpose(state: Lowering, node: ir.Node) -> None:
    state.write(node, op.permute_dims(state.read(node, 0), list(node.attributes.get_ints("perm") or [])))


@handles("Reshape")
def _reshape(state: Lowering, node: ir.Node) -> None:
    data = state.read(node, 0)
    wanted = [int(d) for d in state.constant(node, 1).reshape(-1)]
    source = list(data.ty.shape)
    if node.attributes.get_int("allowzero", 0) and 0 in wanted:
        raise refused(node, "allowzero with an empty dimension")
    shape = [source[i] if d == 0 else d for i, d in enumerate(wanted)]
    if -1 in wanted:
        # dimensions copied by a 0 stand on both sides; what is left of the product must be static
        copied = [i for i, d in enumerate(wanted) if d == 0]
        rest = [d for i, d in enumerate(source) if i not in copied]
        if any(not hasattr(d, "value") for d in rest):
            raise refused(node, f"cannot infer -1 of shape {wanted} from {source}")
        known = int(np.prod([d for d in wanted if d > 0], dtype=np.int64))
        shape[wanted.index(-1)] = int(np.prod([int(d.value) for d in rest], dtype=np.int64)) // known
    state.write(node, op.reshape(data, shape))


@handles("Cast")
def _cast(state: Lowering, node: ir.Node) -> None:
    target = ir.DataType(node.attributes["to"].as_int())
    if target != ir.DataType.FLOAT:
        raise refused(node, f"a cast to {target.name}; the IR computes in float32")
    state.write(node, op.astype(state.read(node, 0), "float32"))


@handles("Identity")
def _identity(state: Lowering, node: ir.Node) -> None:
    state.values[node.outputs[0]] = state.read(node, 0)


@handles("Add")
def _add(state: Lowering, node: ir.Node) -> None:
    state.write(node, op.add(state.read(node, 0), state.read(node, 1)))


@handles("Mul")
def _mul(state: Lowering, node: ir.Node) -> None:
    state.write(node, op.multiply(state.read(node, 0), state.read(node, 1)))


@handles("Sigmoid")
def _sigmoid(state: Lowering, node: ir.Node) -> None:
    state.write(node, op.sigmoid(state.read(node, 0)))


@handles("RMSNormalization")
def _rms_norm(state: Lowering, node: ir.Node) -> None:
    if node.attributes.get_int("axis", -1) != -1:
        raise refused(node, "normalization over more than the last axis")
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    assert epsilon is not None
    state.write(node, op.nn.rms_norm(state.read(node, 0), state.read(node, 1), axes=-1, epsilon=epsilon))


@handles("DequantizeLinear")
def _dequantize(state: Lowering, node: ir.Node) -> None:
    """[N, K] codes with scales [N, K / block] (or [N, 1] per row): code * scale in float32."""
    codes, scales = state.read(node, 0), state.read(node, 1)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        raise refused(node, "an integer zero point")
    axis, block = node.attributes.get_int("axis", 1), node.attributes.get_int("block_size", 0)
    # one block of all columns is one scale per row
    per_row = block == 0 or block >= int(codes.ty.shape[1])
    if (block == 0 and axis != 0) or (block and axis not in (1, -1)):
        raise refused(node, f"axis {axis} with block size {block}")
    assert node.inputs[0] is not None and node.inputs[0].dtype is not None
    kind = node.inputs[0].dtype.name.lower()
    call = dialect_call(
        "dequantize",
        [codes, scales],
        [relax.TensorType(codes.ty.shape, "float32")],
        kind=kind,
        group=None if per_row else block,
    )
    state.write(node, call)


@handles(DEQUANTIZE_OP, FUNCTION_DOMAIN)
def _dequantize_groups(state: Lowering, node: ir.Node) -> None:
    """[N, K] four-bit codes with float16 scales and zeros [N, G], each for K / G columns."""
    codes, scales, zeros = (state.read(node, i) for i in range(3))
    group = int(codes.ty.shape[1]) // int(scales.ty.shape[1])
    ty = relax.TensorType(codes.ty.shape, "float32")
    state.write(node, dialect_call("dequantize", [codes, scales, zeros], [ty], kind="uint4", group=group))


@handles("RotaryEmbedding")
def _rotary_embedding(state: Lowering, node: ir.Node) -> None:
    if node.attributes.get_int("interleaved", 0) or node.attributes.get_int("rotary_embedding_dim", 0):
        raise refused(node, "interleaved or partial rotary embedding")
    x = state.read(node, 0)
    call = dialect_call("rotary_embedding", [state.read(node, i) for i in range(4)], [x.ty])
    state.write(node, call)


@handles("TensorScatter")
def _tensor_scatter(state: Lowering, node: ir.Node) -> None:
    if node.attributes.get_int("axis", -2) not in (-2, 2) or node.attributes.get_string("mode", "linear") != "linear":
        raise refused(node, "a scatter that is not linear along the sequence axis")
    cache = state.read(node, 0)
    state.write(node, dialect_call("tensor_scatter", [state.read(node, i) for i in range(3)], [cache.ty]))


@handles("Attention")
def _attention(state: Lowering, node: ir.Node) -> None:
    attributes = node.attributes
    if not attributes.get_int("is_causal", 0) or attributes.get_float("softcap", 0.0):
        raise refused(node, "attention that is not causal, or has a soft cap")
    query = state.read(node, 0)
    index = state.values[_write_index(node)]
    scale = attributes.get_float("scale") or float(query.ty.shape[3]) ** -0.5
    call = dialect_call(
        "attention",
        [query, state.read(node, 1), state.read(node, 2), index],
        [query.ty],
        scale=scale,
        window=_window(node),
    )
    state.write(node, call)


@handles("SwiGLU", FUNCTION_DOMAIN)
def _swiglu(state: Lowering, node: ir.Node) -> None:
    gate, up = state.read(node, 0), state.read(node, 1)
    state.write(node, dialect_call("swiglu", [gate, up], [gate.ty]))


@handles("GatherPosition", FUNCTION_DOMAIN)
def _gather_position(state: Lowering, node: ir.Node) -> None:
    """hidden [B, S, H] at last_index [B] -> [B, 1, H]."""
    hidden = state.read(node, 0)
    batch, _, width = hidden.ty.shape
    ty = relax.TensorType([batch, 1, width], hidden.ty.dtype)
    state.write(node, dialect_call("gather_position", [hidden, state.read(node, 1)], [ty]))


def _only_in_shapes(state: Lowering, node: ir.Node) -> None:
    raise refused(node, "a value computed from shapes at run time")


for _name in ("Shape", "Squeeze", "Unsqueeze", "Concat", "Range", "Sub", "Greater"):
    HANDLERS["", _name] = _only_in_shapes
HANDLERS[MASK_DOMAIN, MASK_OP] = _only_in_shapes
