"""Round-to-nearest weight quantization, in groups of consecutive columns.

    w ≈ (code - zero) * scale        one float16 scale (and zero point) per group, the arithmetic in float32

int8 is symmetric: codes in [-127, 127], no zero point, a group of columns or a whole row. uint4 is asymmetric: codes
in [0, 15], groups of 32, 64 or 128 columns. Its zero point is a float16 number in [0, 15], the place of 0.0 among the
codes, and need not be a code itself: weights that lie on any grid of 16 levels (GGUF's Q4_1 is w = d * q + m) come
back. In a group that holds a 0 it is a code, so that pruned weights stay 0. Codes are rounded with the stored scale
and zero point. The scale is rounded up to float16, so that every weight lies within half a step of its original,
whatever the group's range.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xamc.errors import InputError, UnsupportedError
from xamc.ir.weights.lazy import Array, LazyTensor, numpy_dtype, require, row_blocks
from xamc.ir.weights.transforms import FLOATS, check_finite

# Rows are quantized in pieces of about this many weights, so that the temporaries stay in the CPU's cache.
_PIECE = 1 << 18


@dataclass(frozen=True)
class RoundToNearest:
    """What to round weights to.

    Attributes:
        bits: 8 (symmetric int8) or 4 (asymmetric uint4).
        group_size: columns that share a scale; None, for 8 bits only, one scale per row (output channel).
    """

    bits: Literal[4, 8]
    group_size: int | None

    def __post_init__(self) -> None:
        allowed = (32, 64, 128, None) if self.bits == 8 else (32, 64, 128)
        if self.bits not in (4, 8) or self.group_size not in allowed:
            raise UnsupportedError(
                "E1151",
                f"round-to-nearest weights of {self.bits} bits with group_size {self.group_size} don't exist",
                "use 8 bits with group_size 32, 64, 128 or none, or 4 bits with group_size 32, 64 or 128",
            )

    @property
    def dtype(self) -> str:
        """Dtype name of the codes."""
        return "int8" if self.bits == 8 else "uint4"

    def groups(self, columns: int, name: str = "a weight") -> int:
        """Scales per row of `columns` weights.

        Raises:
            UnsupportedError: E1150 when the group size doesn't divide the row; a shorter last group would need
                kernels of its own, and every published model has a fitting size.
        """
        size = self.group_size or columns
        if columns == 0 or columns % size:
            fitting = [str(g) for g in (128, 64, 32) if columns % g == 0]
            raise UnsupportedError(
                "E1150",
                f"group_size {size} doesn't divide the {columns} columns of {name}",
                f"set group_size to {' or '.join(fitting)}" if fitting else "use w8a16_rtn without group_size",
            )
        return columns // size


class QuantizedBlock(NamedTuple):
    """Rows of a quantized matrix.

    Attributes:
        codes: int8 (8 bits) or uint8 in [0, 15] (4 bits), [rows, columns].
        scales: float16 [rows, groups].
        zeros: float16 in [0, 15], [rows, groups]; None for 8 bits.
    """

    codes: NDArray[np.int8] | NDArray[np.uint8]
    scales: NDArray[np.float16]
    zeros: NDArray[np.float16] | None


def quantize_block(block: Array, spec: RoundToNearest, name: str = "a weight", first_row: int = 0) -> QuantizedBlock:
    """Quantizes whole rows.

    Args:
        block: floating [rows, columns].
        spec: what to round to.
        name: the parameter's name, for messages.
        first_row: the block's first row in the parameter, for messages.

    Raises:
        UnsupportedError: E1150, the group size doesn't divide the columns.
        InputError: E1123, a weight that is NaN or infinite; E1124, a group whose scale exceeds float16.
    """
    rows, columns = block.shape
    groups = spec.groups(columns, name)
    codes: Any = np.empty((rows, columns), np.int8 if spec.bits == 8 else np.uint8)
    scales = np.empty((rows, groups), np.float16)
    zeros = np.empty((rows, groups), np.float16) if spec.bits == 4 else None
    step = max(1, _PIECE // columns)
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        values = block[start:stop].astype(np.float32).reshape(-1, groups, columns // groups)
        high, low = values.max(axis=2), values.min(axis=2)
        if spec.bits == 8:
            span, levels = np.maximum(high, -low), 127
        else:
            # With 0 in the range the zero point lies in [0, 15], where a float16 is at most 2^-8 off.
            low = np.minimum(low, np.float32(0))
            span, levels = np.maximum(high, np.float32(0)) - low, 15
        scale16 = _round_up(span / np.float32(levels))
        if not np.isfinite(scale16).all():
            check_finite(name, block[start:stop], first_row + start)
            row = first_row + start + int(np.argwhere(~np.isfinite(scale16))[0][0])
            raise InputError(
                "E1124",
                f"{name}: row {row} spans {float(span.max()):g}, whose quantization scale exceeds float16's 65504",
                "the checkpoint is damaged, or store this model as bfloat16 (backend.dtype: bf16)",
            )
        scale = scale16.astype(np.float32)
        holds_zero = (values == 0).any(axis=2) if zeros is not None else False
        np.divide(values, scale[:, :, None], out=values)
        if zeros is not None:
            zero = (np.float32(0) - low) / scale
            zeros[start:stop] = np.rint(zero, out=zero, where=holds_zero)
            values += zeros[start:stop].astype(np.float32)[:, :, None]
        np.rint(values, out=values)
        if zeros is not None:
            np.clip(values, 0, 15, out=values)
        codes[start:stop] = values.reshape(stop - start, columns)
        scales[start:stop] = scale16
    return QuantizedBlock(codes, scales, zeros)


def _round_up(scale: NDArray[np.float32]) -> NDArray[np.float16]:
    """The smallest float16 not below `scale`; 1 for a group of zeros."""
    with np.errstate(over="ignore"):
        rounded = scale.astype(np.float16)
    below = rounded.astype(np.float32) < scale
    rounded[below] = np.nextafter(rounded[below], np.float16(np.inf))
    rounded[scale == 0] = 1
    return rounded


@dataclass(frozen=True)
class QuantizedMatrix:
    """A matrix to be quantized as it is read; `codes`, `scales` and `zeros` are its parts as lazy tensors.

    Args:
        source: floating [rows, columns].
        spec: what to round to.
        name: the parameter's name, for messages.
    """

    source: LazyTensor
    spec: RoundToNearest
    name: str

    def __post_init__(self) -> None:
        require(len(self.source.shape) == 2, f"{self.name} of shape {self.source.shape} is not a matrix")
        require(self.source.dtype in FLOATS, f"{self.name} of dtype {self.source.dtype} can't be quantized")
        self.spec.groups(self.source.shape[1], self.name)

    def read_block(self, start: int, stop: int) -> QuantizedBlock:
        """All parts of rows [start, stop) at once, from one read of the source."""
        return quantize_block(self.source.read_rows(start, stop), self.spec, self.name, start)

    def take(self, part: Literal["codes", "scales", "zeros"], start: int, stop: int) -> Array:
        """One part of rows [start, stop); the others are kept, as whoever packs a block asks for all of them."""
        with _lock:
            for entry in _waiting:
                if entry.matrix is self and (entry.start, entry.stop) == (start, stop) and part in entry.parts:
                    return entry.parts.pop(part)
        block = self.read_block(start, stop)
        parts: dict[str, Array] = {"codes": block.codes, "scales": block.scales}
        if block.zeros is not None:
            parts["zeros"] = block.zeros
        taken = parts.pop(part)
        with _lock:
            _waiting.append(_Waiting(self, start, stop, parts))
        return taken

    @property
    def codes(self) -> QuantizedPart:
        return QuantizedPart(self, "codes")

    @property
    def scales(self) -> QuantizedPart:
        return QuantizedPart(self, "scales")

    @property
    def zeros(self) -> QuantizedPart | None:
        return QuantizedPart(self, "zeros") if self.spec.bits == 4 else None


@dataclass(frozen=True)
class QuantizedPart:
    """A part of `matrix`: codes, int8 or uint4 [rows, columns]; scales or zero points, float16 [rows, groups]."""

    matrix: QuantizedMatrix
    part: Literal["codes", "scales", "zeros"]

    @property
    def shape(self) -> tuple[int, ...]:
        rows, columns = self.matrix.source.shape
        return (rows, columns if self.part == "codes" else self.matrix.spec.groups(columns))

    @property
    def dtype(self) -> str:
        return self.matrix.spec.dtype if self.part == "codes" else "float16"

    def read_rows(self, start: int, stop: int) -> Array:
        return self.matrix.take(self.part, start, stop).view(numpy_dtype(self.dtype))


@dataclass(frozen=True)
class RowScales:
    """Scales of a `matrix` with one per row, float16 [rows].

    They are computed from blocks of at most 64 MiB of the source, the same blocks in which its codes are read.
    """

    matrix: QuantizedMatrix
    dtype: str = "float16"

    def __post_init__(self) -> None:
        require(self.matrix.spec.group_size is None, f"{self.matrix.name} has several scales per row")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.matrix.source.shape[:1]

    def read_rows(self, start: int, stop: int) -> Array:
        scales = np.empty(stop - start, np.float16)
        for first, last in row_blocks(self.matrix.source):
            first, last = max(first, start), min(last, stop)
            if first < last:
                scales[first - start : last - start] = self.matrix.take("scales", first, last)[:, 0]
        return scales


@dataclass(frozen=True)
class _Waiting:
    """Parts of a quantized block that nobody has asked for yet; each array is handed out once."""

    matrix: QuantizedMatrix
    start: int
    stop: int
    parts: dict[str, Array]


# Three entries: the blocks of q, k and v when their projections are concatenated.
_waiting: deque[_Waiting] = deque(maxlen=3)
_lock = Lock()
