"""Packed weights: the layout is what its table says, streams in blocks, and loses nothing."""

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from xamc.artifact.packing import WeightFormat, pack_rows, packed_layout
from xamc.artifact.panels import PANEL
from xamc.errors import InternalError, UnsupportedError

FORMATS = [
    WeightFormat("float32"),
    WeightFormat("float16"),
    WeightFormat("bfloat16"),
    WeightFormat("int8"),
    WeightFormat("int8", 32),
    WeightFormat("uint4", 32),
    WeightFormat("uint4", 128),
]


def unpack_rows(packed: Mapping[str, Any], rows: int, columns: int, fmt: WeightFormat) -> NDArray[np.float32]:
    """The float32 weights [rows, columns] that packed buffers stand for: the definition the kernels are held to."""
    weight = packed["weight"]
    panels = weight.shape[0]
    if fmt.kind in ("float32", "float16"):
        values = weight.transpose(0, 2, 1).reshape(panels * PANEL, -1).astype(np.float32)
    elif fmt.kind == "bfloat16":
        bits = np.ascontiguousarray(weight.transpose(0, 2, 1, 3)).reshape(panels * PANEL, -1)
        values = bits.view(ml_dtypes.bfloat16).astype(np.float32)
    else:
        words: NDArray[np.uint8] = weight.transpose(0, 2, 1, 3).astype(np.uint8, copy=False)
        if fmt.kind == "uint4":
            words = np.stack((words & np.uint8(15), words >> np.uint8(4)), axis=3)
        quants = words.reshape(panels * PANEL, -1)[:, :columns].astype(np.float32)
        scale = _per_row(packed["scale"])
        zero = _per_row(packed["zero"]) if "zero" in packed else np.full_like(scale, 128)
        grouped = quants.reshape(panels * PANEL, scale.shape[1], -1)
        values = ((grouped - zero) * scale).reshape(panels * PANEL, -1)
    return np.ascontiguousarray(values[:rows, :columns])


def _per_row(array: Any) -> NDArray[np.float32]:
    """[P, groups, 32] to float32 [rows, groups, 1]."""
    return array.astype(np.float32).transpose(0, 2, 1).reshape(array.shape[0] * PANEL, -1, 1)


def weights(fmt: WeightFormat, n: int, k: int, seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Random storage values, their scales and zero points, and the float32 weights they stand for."""
    rng = np.random.default_rng((n, k, seed))
    if not fmt.quantized:
        stored = rng.standard_normal((n, k)).astype(np.float32)
        dtype = ml_dtypes.bfloat16 if fmt.kind == "bfloat16" else fmt.kind
        return stored, {}, stored.astype(dtype).astype(np.float32)
    groups = fmt.groups(k)
    scale = rng.uniform(0.01, 0.1, (n, groups)).astype(np.float16)
    wide = scale.astype(np.float32)[:, :, None]
    if fmt.kind == "int8":
        stored = rng.integers(-128, 128, (n, k), dtype=np.int8)
        return stored, {"scale": scale}, (stored.reshape(n, groups, -1) * wide).reshape(n, k)
    stored = rng.integers(0, 16, (n, k), dtype=np.uint8)
    # every float16 in [8, 16) and some below: (q - zero) * scale then has at most 22 bits and is exact in float32
    zero = (rng.integers(0, 15 * 128 + 1, (n, groups)) / 128).astype(np.float16)
    centred = stored.reshape(n, groups, -1).astype(np.float32) - zero.astype(np.float32)[:, :, None]
    return stored, {"scale": scale, "zero": zero}, (centred * wide).reshape(n, k)


@given(st.sampled_from(FORMATS), st.integers(1, 100), st.integers(1, 80), st.integers(0, 3))
def test_packing_round_trips_in_any_blocks(fmt: WeightFormat, n: int, k: int, cut: int) -> None:
    k = -(-k // (fmt.group_size or 1)) * (fmt.group_size or 1)
    stored, extra, expected = weights(fmt, n, k)
    packed = pack_rows(stored, fmt, **extra)
    layout = packed_layout(n, k, fmt)
    assert {b.name: (b.shape, b.dtype) for b in layout.buffers} == {
        name: (array.shape, array.dtype.name) for name, array in packed.items()
    }
    assert layout.nbytes == sum(array.nbytes for array in packed.values())
    np.testing.assert_array_equal(unpack_rows(packed, n, k, fmt), expected)

    rows = min(n, cut * PANEL)
    blocks = [
        pack_rows(stored[a:b], fmt, **{name: array[a:b] for name, array in extra.items()})
        for a, b in ((0, rows), (rows, n))
        if a < b
    ]
    for name, array in packed.items():
        assert b"".join(block[name].tobytes() for block in blocks) == array.tobytes()


def test_four_bit_words_hold_eight_consecutive_inputs_of_one_row() -> None:
    stored = np.zeros((33, 32), np.uint8)
    stored[32, 8:16] = range(1, 9)
    packed = pack_rows(stored, WeightFormat("uint4", 32), scale=np.ones((33, 1)), zero=np.zeros((33, 1)))
    assert packed["weight"][1, 1, 0].tolist() == [1 | 5 << 4, 2 | 6 << 4, 3 | 7 << 4, 4 | 8 << 4]
    assert np.count_nonzero(packed["weight"]) == 4


def test_zero_points_are_float16_numbers() -> None:
    """w = (q - zero) * scale, by hand: zero points between the codes, rows of the second panel."""
    fmt = WeightFormat("uint4", 32)
    zero, scale = np.linspace(0.5, 7.5, 40).reshape(40, 1), np.full((40, 1), 0.25)
    stored = np.tile(np.arange(32, dtype=np.uint8) % 16, (40, 1))
    packed = pack_rows(stored, fmt, scale=scale, zero=zero)
    assert packed["zero"].dtype == np.float16
    expected = (stored - zero.astype(np.float16).astype(np.float64)) * 0.25
    np.testing.assert_array_equal(unpack_rows(packed, 40, 32, fmt), expected)


def test_bfloat16_rounds_to_nearest_even() -> None:
    stored = np.array([[1 + 2**-8, 1 + 3 * 2**-8]], np.float32)
    packed = pack_rows(stored, WeightFormat("bfloat16"))
    np.testing.assert_array_equal(unpack_rows(packed, 1, 2, WeightFormat("bfloat16")), [[1, 1 + 2**-6]])


@pytest.mark.parametrize(
    ("kind", "group"), [("uint4", None), ("uint4", 16), ("int8", 48), ("float16", 32)], ids=lambda value: str(value)
)
def test_group_sizes_that_do_not_exist_are_refused(kind: str, group: int | None) -> None:
    with pytest.raises(UnsupportedError) as caught:
        WeightFormat(kind, group)  # type: ignore[arg-type]
    assert caught.value.code == "E1463"


def test_group_size_must_divide_the_input_features() -> None:
    with pytest.raises(UnsupportedError, match="K = 96") as caught:
        packed_layout(32, 96, WeightFormat("uint4", 64))
    assert caught.value.code == "E1464"


def test_wrong_dtypes_and_missing_scales_are_refused() -> None:
    for call in (
        lambda: pack_rows(np.zeros((2, 32), np.int8), WeightFormat("uint4", 32), scale=np.ones(2), zero=np.ones(2)),
        lambda: pack_rows(np.zeros((2, 32), np.int8), WeightFormat("float16")),
        lambda: pack_rows(np.zeros((2, 32), np.int8), WeightFormat("int8")),
        lambda: pack_rows(np.zeros((2, 32), np.int8), WeightFormat("int8", 32), scale=np.ones((3, 1))),
    ):
        with pytest.raises(InternalError, match="E1465"):
            call()


def test_packing_needs_no_tvm() -> None:
    code = "import sys, xamc.artifact.packing; sys.exit('tvm' in sys.modules or 'tvm_ffi' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
