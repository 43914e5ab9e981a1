"""Tensors in llama.cpp's block formats, dequantized row block by row block.

Layouts from ggml-common.h: a block holds 32 consecutive weights of a row; d and m are float16, quants are packed so
that byte j holds weight j in its low and weight j + 16 in its high nibble.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xamc.compiler.weights.files import Bytes, read_bytes
from xamc.compiler.weights.lazy import Array, require

Floats = NDArray[np.float32]


def _float16(raw: Bytes) -> Floats:
    """[n, 2] bytes → [n, 1] float32."""
    return np.ascontiguousarray(raw).view(np.float16).astype(np.float32)


def _nibbles(raw: Bytes) -> Floats:
    """[n, 16] bytes → [n, 32] float32: low nibbles, then high ones."""
    return np.concatenate([raw & 15, raw >> 4], axis=1).astype(np.float32)


def _q4_0(block: Bytes) -> Floats:
    """w = d (q - 8)."""
    return (_nibbles(block[:, 2:]) - np.float32(8)) * _float16(block[:, :2])


def _q4_1(block: Bytes) -> Floats:
    """w = d q + m."""
    return _nibbles(block[:, 4:]) * _float16(block[:, :2]) + _float16(block[:, 2:4])


def _q8_0(block: Bytes) -> Floats:
    """w = d q, q int8."""
    return block[:, 2:].view(np.int8).astype(np.float32) * _float16(block[:, :2])


@dataclass(frozen=True)
class BlockFormat:
    """Weights and bytes of one block, and the function [blocks, bytes] uint8 → [blocks, weights] float32."""

    weights: int
    bytes: int
    dequantize: Callable[[Bytes], Floats]


BLOCK_FORMATS = {
    "Q4_0": BlockFormat(32, 18, _q4_0),
    "Q4_1": BlockFormat(32, 20, _q4_1),
    "Q8_0": BlockFormat(32, 34, _q8_0),
}


@dataclass(frozen=True)
class BlockTensor:
    """A matrix or vector stored at `offset` of `path` in the block format named `format`; reads as float32."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    format: str

    def __post_init__(self) -> None:
        require(self.format in BLOCK_FORMATS, f"unknown block format {self.format}")
        require(
            self.shape[-1] % BLOCK_FORMATS[self.format].weights == 0, f"{self.format} blocks don't divide {self.shape}"
        )

    @property
    def dtype(self) -> str:
        return "float32"

    def read_rows(self, start: int, stop: int) -> Array:
        layout = BLOCK_FORMATS[self.format]
        if len(self.shape) == 1:
            first, last = start // layout.weights, -(-stop // layout.weights)
            raw = read_bytes(self.path, self.offset + first * layout.bytes, (last - first) * layout.bytes)
            values = layout.dequantize(raw.reshape(-1, layout.bytes)).reshape(-1)
            return values[start - first * layout.weights : stop - first * layout.weights]
        row_blocks = int(np.prod(self.shape[1:], dtype=np.int64)) // layout.weights
        row_bytes = row_blocks * layout.bytes
        raw = read_bytes(self.path, self.offset + start * row_bytes, (stop - start) * row_bytes)
        return layout.dequantize(raw.reshape(-1, layout.bytes)).reshape(stop - start, *self.shape[1:])
