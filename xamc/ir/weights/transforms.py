"""Transforms of lazy tensors: frozen dataclasses that check their sources when made and read in row blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xamc.errors import InputError
from xamc.ir.weights.lazy import Array, LazyTensor, numpy_dtype, require
from xamc.model.dtypes import DTYPE_BYTES

FLOATS = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Zeros:
    """Zeros of any shape; a bias that the transformers class has and the checkpoint doesn't."""

    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        require(self.dtype in DTYPE_BYTES and all(n >= 0 for n in self.shape), f"no zeros of {self.dtype} {self.shape}")

    def read_rows(self, start: int, stop: int) -> Array:
        return np.zeros((stop - start, *self.shape[1:]), dtype=numpy_dtype(self.dtype))


@dataclass(frozen=True)
class ColumnSlice:
    """Columns [start, stop) of a matrix [rows, columns]."""

    source: LazyTensor
    start: int
    stop: int

    def __post_init__(self) -> None:
        shape = self.source.shape
        require(
            len(shape) == 2 and 0 <= self.start <= self.stop <= shape[-1],
            f"no columns {self.start}:{self.stop} in {shape}",
        )

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.source.shape[0], self.stop - self.start)

    @property
    def dtype(self) -> str:
        return self.source.dtype

    def read_rows(self, start: int, stop: int) -> Array:
        return np.ascontiguousarray(self.source.read_rows(start, stop)[:, self.start : self.stop])


@dataclass(frozen=True)
class Pad:
    """`source` with `fill` appended: to `rows` along axis 0 and, for a matrix, to `columns` along axis 1."""

    source: LazyTensor
    rows: int
    columns: int | None = None
    fill: float = 0.0

    def __post_init__(self) -> None:
        shape = self.source.shape
        require(self.rows >= shape[0], f"{shape} can't be padded to {self.rows} rows")
        require(
            self.columns is None or (len(shape) == 2 and self.columns >= shape[1]),
            f"{shape} can't be padded to {self.columns} columns",
        )

    @property
    def shape(self) -> tuple[int, ...]:
        tail = self.source.shape[1:] if self.columns is None else (self.columns,)
        return (self.rows, *tail)

    @property
    def dtype(self) -> str:
        return self.source.dtype

    def read_rows(self, start: int, stop: int) -> Array:
        block = np.full((stop - start, *self.shape[1:]), self.fill, dtype=numpy_dtype(self.dtype))
        last = min(stop, self.source.shape[0])
        if start < last:
            rows = self.source.read_rows(start, last)
            if self.columns is None:
                block[: last - start] = rows
            else:
                block[: last - start, : rows.shape[1]] = rows
        return block


@dataclass(frozen=True)
class UninterleaveHeads:
    """Rows of each head reordered from pairs (x0 y0 x1 y1 ...) to halves (x0 x1 ... y0 y1 ...).

    llama.cpp stores q and k of Llama for a rotation of neighbouring rows, transformers rotates the two halves of a
    head; this undoes ``LlamaModel.permute`` of llama.cpp's convert_hf_to_gguf.py. Works for weights and biases.
    """

    source: LazyTensor
    head_dim: int

    def __post_init__(self) -> None:
        rows = self.source.shape[0]
        require(self.head_dim % 2 == 0 and rows % self.head_dim == 0, f"{rows} rows are not heads of {self.head_dim}")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def dtype(self) -> str:
        return self.source.dtype

    def read_rows(self, start: int, stop: int) -> Array:
        width = self.head_dim
        first, last = start // width, -(-stop // width)
        block = self.source.read_rows(first * width, last * width)
        tail = block.shape[1:]
        heads = block.reshape(last - first, width // 2, 2, *tail).swapaxes(1, 2).reshape(-1, *tail)
        return np.ascontiguousarray(heads[start - first * width : stop - first * width])


@dataclass(frozen=True)
class Cast:
    """`source` rounded to another floating dtype (to nearest, ties to even).

    Args:
        source: a floating tensor.
        dtype: float32, float16 or bfloat16.
        name: the parameter's name, for messages.
    """

    source: LazyTensor
    dtype: str
    name: str

    def __post_init__(self) -> None:
        require(self.dtype in FLOATS and self.source.dtype in FLOATS, f"no cast {self.source.dtype} → {self.dtype}")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    def read_rows(self, start: int, stop: int) -> Array:
        block = self.source.read_rows(start, stop)
        if self.dtype == self.source.dtype:
            return block
        if self.dtype == "float16":
            check_float16_range(self.name, block, start)
        return block.astype(numpy_dtype(self.dtype))


def check_float16_range(name: str, block: Array, first_row: int) -> None:
    """Refuses finite values that float16 would turn into infinity.

    Raises:
        InputError: E1124 naming tensor, row and value.
    """
    values = block.astype(np.float32, copy=False)
    # 65520 is the first value that rounds to infinity; 65504 is the largest float16.
    over = np.isfinite(values) & (np.abs(values) >= 65520.0)
    if over.any():
        at = tuple(int(i) for i in np.argwhere(over)[0])
        raise InputError(
            "E1124",
            f"{name}: {float(values[at]):g} in row {first_row + at[0]} exceeds float16's largest value, 65504",
            "store the weights as bfloat16 or float32: backend.dtype: bf16 or fp32, on tvm_cpu",
        )


def check_finite(name: str, block: Array, first_row: int) -> None:
    """Refuses NaN and infinity in a block of weights; callers run it on every block they stream.

    Args:
        name: the tensor's name.
        block: rows [first_row, ...) of the tensor, floating.
        first_row: the block's first row.

    Raises:
        InputError: E1123 naming tensor and row.
    """
    # The sum is NaN or infinite when any element is; it may overflow by itself, then the exact test decides.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(np.sum(block, dtype=np.float32)):
            return
    bad = ~np.isfinite(block.astype(np.float32, copy=False))
    if bad.any():
        row = int(np.argwhere(bad)[0][0])
        raise InputError(
            "E1123",
            f"{name} holds {int(bad.sum())} values that are NaN or infinite, the first in row {first_row + row}",
            "the checkpoint is damaged or its training diverged; download it again",
        )


@dataclass(frozen=True)
class Widen:
    """Four-bit codes one per byte: uint4 `source` as uint8."""

    source: LazyTensor
    dtype: str = "uint8"

    def __post_init__(self) -> None:
        require(self.source.dtype == "uint4", f"only uint4 codes are widened, not {self.source.dtype}")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    def read_rows(self, start: int, stop: int) -> Array:
        return self.source.read_rows(start, stop).astype(np.uint8)
