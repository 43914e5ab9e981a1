"""Tensors in llama.cpp's block formats, dequantized row block by row block.

Layouts from ggml-common.h. The simple formats have blocks of 32 consecutive weights of a row: d and m are float16,
byte j of the quants holds weight j in its low and weight j + 16 in its high nibble. The K formats have super-blocks of
256 weights with a float16 scale (and minimum) over small integer ones, one per 32 or 16 weights. The IQ4 formats look
the value of a 4-bit code up in a table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xamc.ir.weights.files import Bytes, read_bytes
from xamc.ir.weights.lazy import Array, require

Floats = NDArray[np.float32]
# Weights that are dequantized at once.
_PIECE = 1 << 18


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


def _fifth_bits(raw: Bytes) -> Floats:
    """[n, 4] bytes → [n, 32] float32: 16 for each set bit, lowest bit first."""
    return np.unpackbits(raw, axis=1, bitorder="little").astype(np.float32) * np.float32(16)


def _q5_0(block: Bytes) -> Floats:
    """w = d (q - 16), q of 5 bits."""
    return (_nibbles(block[:, 6:]) + _fifth_bits(block[:, 2:6]) - np.float32(16)) * _float16(block[:, :2])


def _q5_1(block: Bytes) -> Floats:
    """w = d q + m, q of 5 bits."""
    return (_nibbles(block[:, 8:]) + _fifth_bits(block[:, 4:8])) * _float16(block[:, :2]) + _float16(block[:, 2:4])


def _shifted(raw: Bytes, width: int, shifts: tuple[int, ...], mask: int) -> Bytes:
    """[n, m] bytes, in runs of `width`, each run repeated once per shift: [n, m * len(shifts)]."""
    runs = raw.reshape(len(raw), -1, 1, width) >> np.array(shifts, np.uint8).reshape(1, 1, -1, 1)
    return (runs & np.uint8(mask)).reshape(len(raw), -1)


def _k_scales(block: Bytes) -> tuple[Floats, Floats]:
    """Scales and minimums of the 8 runs of 32 weights in Q4_K and Q5_K: two times 8 numbers of 6 bits in 12 bytes."""
    low, high, rest = block[:, 4:8], block[:, 8:12], block[:, 12:16]
    scales = np.concatenate([low & 63, (rest & 15) | ((low >> 2) & 48)], axis=1)
    minimums = np.concatenate([high & 63, (rest >> 4) | ((high >> 2) & 48)], axis=1)
    return _float16(block[:, :2]) * scales.astype(np.float32), _float16(block[:, 2:4]) * minimums.astype(np.float32)


def _k_blocks(block: Bytes, codes: Bytes) -> Floats:
    """w = d scale q - dmin minimum for codes [n, 256]."""
    scales, minimums = _k_scales(block)
    runs = codes.reshape(len(block), 8, 32).astype(np.float32)
    return (scales[:, :, None] * runs - minimums[:, :, None]).reshape(len(block), 256)


def _q4_k(block: Bytes) -> Floats:
    return _k_blocks(block, _shifted(block[:, 16:], 32, (0, 4), 15))


def _q5_k(block: Bytes) -> Floats:
    high = _shifted(block[:, 16:48], 32, tuple(range(8)), 1)
    return _k_blocks(block, _shifted(block[:, 48:], 32, (0, 4), 15) | (high << np.uint8(4)))


def _q6_k(block: Bytes) -> Floats:
    """w = d scale (q - 32), q of 6 bits, an int8 scale per 16 weights."""
    low = _shifted(block[:, :128], 64, (0, 4), 15)
    codes = (low | (_shifted(block[:, 128:192], 32, (0, 2, 4, 6), 3) << np.uint8(4))).astype(np.float32) - np.float32(
        32
    )
    scales = _float16(block[:, 208:210]) * block[:, 192:208].view(np.int8).astype(np.float32)
    return (codes.reshape(len(block), 16, 16) * scales[:, :, None]).reshape(len(block), 256)


def _q2_k(block: Bytes) -> Floats:
    """w = d scale q - dmin minimum, q of 2 bits; 4 bits each for the scale and minimum of 16 weights."""
    codes = _shifted(block[:, 16:80], 32, (0, 2, 4, 6), 3).reshape(len(block), 16, 16).astype(np.float32)
    scales = _float16(block[:, 80:82]) * (block[:, :16] & 15).astype(np.float32)
    minimums = _float16(block[:, 82:84]) * (block[:, :16] >> 4).astype(np.float32)
    return (scales[:, :, None] * codes - minimums[:, :, None]).reshape(len(block), 256)


def _q3_k(block: Bytes) -> Floats:
    """w = d (scale - 32) (q - 4), q of 2 bits and a third one in the mask, a scale of 6 bits per 16 weights."""
    codes = _shifted(block[:, 32:96], 32, (0, 2, 4, 6), 3) | (_shifted(block[:, :32], 32, tuple(range(8)), 1) << 2)
    low, high = _shifted(block[:, 96:104], 8, (0, 4), 15), _shifted(block[:, 104:108], 4, (0, 2, 4, 6), 3)
    scales = _float16(block[:, 108:110]) * ((low | (high << 4)).astype(np.float32) - np.float32(32))
    signed = codes.reshape(len(block), 16, 16).astype(np.float32) - np.float32(4)
    weights: Floats = (scales[:, :, None] * signed).reshape(len(block), 256)
    return weights


# The 16 values of a code in the non-linear 4-bit formats (kvalues_iq4nl).
_IQ4_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)


def _iq4_nl(block: Bytes) -> Floats:
    """w = d value(q); llama.cpp writes it for rows that the super-blocks of Q2_K and Q3_K don't divide."""
    values: Floats = _float16(block[:, :2]) * _IQ4_VALUES[_shifted(block[:, 2:], 16, (0, 4), 15)]
    return values


def _iq4_xs(block: Bytes) -> Floats:
    """w = d (scale - 32) value(q), a scale of 6 bits per 32 weights."""
    high = (np.ascontiguousarray(block[:, 2:4]).view("<u2") >> np.arange(0, 16, 2, dtype=np.uint16)) & 3
    low = _shifted(block[:, 4:8], 1, (0, 4), 15)
    scales = _float16(block[:, :2]) * ((low | (high << 4)).astype(np.float32) - np.float32(32))
    values = _IQ4_VALUES[_shifted(block[:, 8:], 16, (0, 4), 15)].reshape(len(block), 8, 32)
    weights: Floats = (scales[:, :, None] * values).reshape(len(block), 256)
    return weights


@dataclass(frozen=True)
class BlockFormat:
    """Weights and bytes of one block, and the function [blocks, bytes] uint8 → [blocks, weights] float32."""

    weights: int
    bytes: int
    dequantize: Callable[[Bytes], Floats]


BLOCK_FORMATS = {
    "Q4_0": BlockFormat(32, 18, _q4_0),
    "Q4_1": BlockFormat(32, 20, _q4_1),
    "Q5_0": BlockFormat(32, 22, _q5_0),
    "Q5_1": BlockFormat(32, 24, _q5_1),
    "Q8_0": BlockFormat(32, 34, _q8_0),
    "Q2_K": BlockFormat(256, 84, _q2_k),
    "Q3_K": BlockFormat(256, 110, _q3_k),
    "Q4_K": BlockFormat(256, 144, _q4_k),
    "Q5_K": BlockFormat(256, 176, _q5_k),
    "Q6_K": BlockFormat(256, 210, _q6_k),
    "IQ4_NL": BlockFormat(32, 18, _iq4_nl),
    "IQ4_XS": BlockFormat(256, 136, _iq4_xs),
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
            values = self._dequantized(first, last)
            return values[start - first * layout.weights : stop - first * layout.weights]
        row_blocks = int(np.prod(self.shape[1:], dtype=np.int64)) // layout.weights
        return self._dequantized(start * row_blocks, stop * row_blocks).reshape(stop - start, *self.shape[1:])

    def _dequantized(self, first: int, last: int) -> Floats:
        """The weights of blocks [first, last), a few thousand blocks at a time, so that temporaries stay small."""
        layout = BLOCK_FORMATS[self.format]
        raw = read_bytes(self.path, self.offset + first * layout.bytes, (last - first) * layout.bytes)
        blocks, values = raw.reshape(-1, layout.bytes), np.empty((last - first, layout.weights), np.float32)
        step = _PIECE // layout.weights
        for start in range(0, last - first, step):
            values[start : start + step] = layout.dequantize(blocks[start : start + step])
        return values.reshape(-1)
