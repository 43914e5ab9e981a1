"""How linear weights are stored, and the NumPy code that packs them.

One layout serves the GEMV, the GEMM, the embedding gather and every x86-64 level. The N output features are cut into
panels of `PANEL` = 32 rows (the last one padded); inside a panel the weights run along K, and for each K step the 32
rows lie side by side, so that a vector register holds the same K of neighbouring outputs:

========= ==================== ================================= =====================================================
kind      buffer               shape                             an element
========= ==================== ================================= =====================================================
float32   weight float32       [P, K, 32]                        w[k, n]
float16   weight float16       [P, K, 32]                        w[k, n]
bfloat16  weight uint16        [P, ceil(K/2), 32, 2]             the bits of w[2c, n], w[2c+1, n]: a pair for vdpbf16ps
int8      weight uint8         [P, ceil(K/4), 32, 4]             q + 128 of four K: one 32-bit lane, as VNNI wants it
          scale float16        [P, groups, 32]
uint4     weight uint8         [P, K/8, 32, 4]                   byte b: q[8c+b] | q[8c+4+b] << 4
          scale float16        [P, groups, 32]
          zero float16         [P, groups, 32]
========= ==================== ================================= =====================================================

``w = (q - zero) * scale``, evaluated in float32; the zero point need not be an integer. int8 has none and, without a
group size, one group per row.
The first axis is the panel, so the bytes of rows [n0, n1), n0 a multiple of 32, are contiguous in each buffer and can
be appended to a file while the rows stream by. This module does not import tvm.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from xamc.artifact.panels import PANEL, float_panels, group_panels, int8_panels, pad, word_panels
from xamc.errors import InternalError, UnsupportedError

Array = NDArray[np.generic]
WeightKind = Literal["float32", "float16", "bfloat16", "int8", "uint4"]

_K_STEP: dict[WeightKind, int] = {"float32": 1, "float16": 1, "bfloat16": 2, "int8": 4, "uint4": 8}


@dataclass(frozen=True)
class WeightFormat:
    """How the weights of a linear layer are stored.

    Attributes:
        kind: the element type.
        group_size: consecutive K that share a scale (and zero point); None for a single group per row.
    """

    kind: WeightKind
    group_size: int | None = None

    def __post_init__(self) -> None:
        allowed: tuple[int | None, ...] = (None,)
        if self.kind == "int8":
            allowed = (None, 32, 64, 128)
        elif self.kind == "uint4":
            allowed = (32, 64, 128)
        if self.group_size not in allowed:
            raise UnsupportedError(
                "E1463",
                f"{self.kind} weights cannot have group size {self.group_size}",
                fix=f"use a group size of {', '.join(str(a) for a in allowed)}",
            )

    @property
    def tag(self) -> str:
        """The format as part of a name."""
        return self.kind if self.group_size is None else f"{self.kind}_g{self.group_size}"

    @property
    def k_step(self) -> int:
        """Consecutive K that are stored together; K is padded to a multiple of it."""
        return _K_STEP[self.kind]

    @property
    def quantized(self) -> bool:
        """Whether the weights are integers with scales."""
        return self.kind in ("int8", "uint4")

    def groups(self, k: int) -> int:
        """Number of scales in a row of `k` weights.

        Raises:
            UnsupportedError: E1464, the group size does not divide `k`.
        """
        size = self.group_size or k
        if k % size:
            raise UnsupportedError(
                "E1464",
                f"K = {k} input features are not a multiple of the group size {size} of {self.kind} weights",
                fix="choose a group size that divides the layer's input features, or 8- or 16-bit weights",
            )
        return k // size


@dataclass(frozen=True)
class PackedBuffer:
    """One buffer of a packed weight: its name (weight, scale, zero), shape and dtype name."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def panel_bytes(self) -> int:
        """Bytes of one panel of 32 rows."""
        return self.nbytes // self.shape[0]


@dataclass(frozen=True)
class PackedLayout:
    """The buffers of one packed weight, in the order in which the kernels take them."""

    rows: int
    columns: int
    format: WeightFormat
    buffers: tuple[PackedBuffer, ...]

    @property
    def panels(self) -> int:
        return self.buffers[0].shape[0]

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self.buffers)


def packed_layout(n: int, k: int, fmt: WeightFormat) -> PackedLayout:
    """The buffers that hold a weight of `n` output and `k` input features.

    Raises:
        UnsupportedError: E1464, the group size does not divide `k`.
    """
    panels, steps = -(-n // PANEL), -(-k // fmt.k_step)
    scales = (panels, fmt.groups(k), PANEL)
    weight: dict[WeightKind, PackedBuffer] = {
        "float32": PackedBuffer("weight", (panels, steps, PANEL), "float32"),
        "float16": PackedBuffer("weight", (panels, steps, PANEL), "float16"),
        "bfloat16": PackedBuffer("weight", (panels, steps, PANEL, 2), "uint16"),
        "int8": PackedBuffer("weight", (panels, steps, PANEL, 4), "uint8"),
        "uint4": PackedBuffer("weight", (panels, steps, PANEL, 4), "uint8"),
    }
    buffers = [weight[fmt.kind]]
    if fmt.quantized:
        buffers.append(PackedBuffer("scale", scales, "float16"))
    if fmt.kind == "uint4":
        buffers.append(PackedBuffer("zero", scales, "float16"))
    return PackedLayout(n, k, fmt, tuple(buffers))


def pack_rows(
    weight: Array, fmt: WeightFormat, *, scale: Array | None = None, zero: Array | None = None
) -> dict[str, Array]:
    """Packs a block of output rows.

    All rows of a weight may be given at once, or blocks of a multiple of 32 rows (the last block may have any
    number); the blocks' results, concatenated along axis 0, are the packed buffers.

    Args:
        weight: [n, K]; float32, float16 or bfloat16 for the float kinds (rounded to nearest even), int8 in
            [-128, 127] for int8, uint8 in [0, 15] for uint4.
        fmt: the format to pack into.
        scale: float [n, groups] (or [n] when there is one group), for the quantized kinds.
        zero: float [n, groups], for uint4.

    Returns:
        The buffers by name, each C-contiguous with the panel as its first axis.

    Raises:
        UnsupportedError: E1464, the group size does not divide K.
        InternalError: E1465, dtypes or shapes do not fit the format.
    """
    n, k = weight.shape
    groups = fmt.groups(k)
    packed = {"weight": _pack_weight(weight, fmt)}
    expected = {"int8": {"scale"}, "uint4": {"scale", "zero"}}.get(fmt.kind, set())
    given = {name: array for name, array in (("scale", scale), ("zero", zero)) if array is not None}
    if set(given) != expected:
        raise InternalError("E1465", f"{fmt.kind} weights take {sorted(expected)}, got {sorted(given)}")
    for name, array in given.items():
        if array.size != n * groups:
            raise InternalError("E1465", f"{name} has shape {array.shape}, expected {(n, groups)}")
        packed[name] = group_panels(array.reshape(n, groups))
    return packed


def _pack_weight(weight: Array, fmt: WeightFormat) -> Array:
    floats = {name: np.dtype(name) for name in ("float32", "float16")}
    floats["bfloat16"] = np.dtype(ml_dtypes.bfloat16)
    if fmt.kind in floats:
        if weight.dtype not in floats.values():
            raise InternalError("E1465", f"{fmt.kind} weights are packed from floats, got {weight.dtype}")
        rows = weight.astype(floats[fmt.kind], copy=False)
        if fmt.kind != "bfloat16":
            return float_panels(rows)
        # A pair of neighbouring K is one 32-bit word, and words are what gets transposed.
        words = np.ascontiguousarray(pad(pad(rows, PANEL, 0), 2, 1)).view(np.uint32)
        words = np.ascontiguousarray(words.reshape(-1, PANEL, words.shape[1]).transpose(0, 2, 1))
        return words.view(np.uint16).reshape(*words.shape, 2)
    wanted = np.dtype(np.int8 if fmt.kind == "int8" else np.uint8)
    if weight.dtype != wanted:
        raise InternalError("E1465", f"{fmt.kind} weights are packed from {wanted}, got {weight.dtype}")
    if fmt.kind == "int8":
        return int8_panels(weight.view(np.int8))
    grouped: NDArray[np.uint8] = (
        pad(weight, PANEL, 0).astype(np.uint8, copy=False).reshape(-1, weight.shape[1] // 8, 2, 4)
    )
    quants: Array = (grouped[:, :, 0] | (grouped[:, :, 1] << np.uint8(4))).reshape(grouped.shape[0], -1)
    return word_panels(quants)
