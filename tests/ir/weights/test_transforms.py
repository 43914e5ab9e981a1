"""Every transform against the same expression in NumPy, for any shape and any block."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xamc.errors import InputError, InternalError
from xamc.ir.weights.files import FileTensor, read_bytes
from xamc.ir.weights.lazy import ArrayTensor, ConcatRows, LazyTensor, RowRanges, read_width, row_blocks
from xamc.ir.weights.quantize import QuantizedMatrix, RoundToNearest
from xamc.ir.weights.transforms import (
    Cast,
    ColumnSlice,
    Pad,
    UninterleaveHeads,
    Zeros,
    check_finite,
    check_float16_range,
)

GENERATOR = np.random.default_rng(0)


def matrix(rows: int, columns: int = 6, dtype: type = np.float32) -> ArrayTensor:
    return ArrayTensor(GENERATOR.standard_normal((rows, columns)).astype(dtype))


def check(tensor: LazyTensor, expected: np.ndarray, cuts: list[int]) -> None:
    """Shape, dtype, and the same values whatever blocks they are read in, each a fresh array."""
    assert tensor.shape == expected.shape and tensor.dtype == expected.dtype.name
    rows = tensor.shape[0]
    edges = [0, *sorted({c % (rows + 1) for c in cuts}), rows]
    blocks = [tensor.read_rows(a, b) for a, b in itertools.pairwise(edges) if a < b]
    found = np.concatenate(blocks) if blocks else np.empty_like(expected)
    assert found.dtype == expected.dtype and np.array_equal(found, expected)
    for block in blocks:
        assert block.flags.c_contiguous and block.flags.writeable
        block[...] = 0
    if blocks:
        assert np.array_equal(np.concatenate([tensor.read_rows(0, rows)]), expected)
    restored = pickle.loads(pickle.dumps(tensor))
    assert np.array_equal(restored.read_rows(0, rows), expected)


cuts = st.lists(st.integers(0, 40), max_size=4)


@given(st.integers(1, 30), cuts, st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=5))
def test_row_ranges(rows: int, cut: list[int], pairs: list[tuple[int, int]]) -> None:
    source = matrix(rows)
    ranges = tuple((min(a, b, rows), min(max(a, b), rows)) for a, b in pairs)
    check(RowRanges(source, ranges), np.concatenate([source.array[a:b] for a, b in ranges]), cut)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), cuts)
def test_concatenated_rows(rows: list[int], cut: list[int]) -> None:
    sources = [matrix(n) for n in rows]
    check(ConcatRows(tuple(sources)), np.concatenate([s.array for s in sources]), cut)


@given(st.integers(1, 12), st.integers(0, 6), st.integers(0, 6), cuts)
def test_column_slices(rows: int, a: int, b: int, cut: list[int]) -> None:
    source = matrix(rows)
    check(ColumnSlice(source, min(a, b), max(a, b)), source.array[:, min(a, b) : max(a, b)], cut)


@given(st.integers(1, 12), st.integers(0, 20), st.integers(0, 5), cuts)
def test_padding(rows: int, more: int, wider: int, cut: list[int]) -> None:
    source = matrix(rows, dtype=np.float16)
    check(Pad(source, rows + more), np.pad(source.array, [(0, more), (0, 0)]), cut)
    check(Pad(source, rows + more, 6 + wider), np.pad(source.array, [(0, more), (0, wider)]), cut)
    vector = ArrayTensor(source.array[:, 0].copy())
    check(Pad(vector, rows + more), np.pad(vector.array, (0, more)), cut)


@given(st.integers(1, 4), st.sampled_from([2, 4, 8]), st.booleans(), cuts)
def test_uninterleaved_heads_undo_llama_cpps_permutation(heads: int, width: int, bias: bool, cut: list[int]) -> None:
    straight = matrix(heads * width).array
    if bias:
        straight = straight[:, 0].copy()
    tail = straight.shape[1:]
    stored = straight.reshape(heads, 2, width // 2, *tail).swapaxes(1, 2).reshape(straight.shape)
    check(UninterleaveHeads(ArrayTensor(np.ascontiguousarray(stored)), width), straight, cut)


@given(st.sampled_from(["float32", "float16", "bfloat16"]), st.sampled_from(["float32", "float16", "bfloat16"]), cuts)
def test_casts_round_to_nearest_even(source: str, target: str, cut: list[int]) -> None:
    kinds = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
    tensor = matrix(9, dtype=kinds[source])
    check(Cast(tensor, target, "w"), tensor.array.astype(np.float32).astype(kinds[target]), cut)


@given(st.integers(1, 8), cuts)
def test_zeros(rows: int, cut: list[int]) -> None:
    check(Zeros((rows,), "bfloat16"), np.zeros(rows, ml_dtypes.bfloat16), cut)
    check(Zeros((rows, 3), "float32"), np.zeros((rows, 3), np.float32), cut)


def test_blocks_are_small_in_what_is_read_for_them() -> None:
    """Four of 4096 columns: 4-column blocks of the same size would read a thousand times as much."""
    wide = Zeros((1024, 4096), "float16")
    cut = Pad(ColumnSlice(wide, 0, 4), 1024, 8)
    quantized = QuantizedMatrix(Cast(wide, "float32", "w"), RoundToNearest(8, None), "w")
    joined = ConcatRows((cut, Pad(cut, 2000)))
    assert [read_width(t) for t in (wide, cut, joined, ArrayTensor(np.zeros((3, 5))))] == [4096, 4096, 4096, 5]
    assert read_width(ColumnSlice(quantized.codes, 0, 4)) == read_width(quantized.scales) == 4096
    assert max(stop - start for start, stop in row_blocks(cut, limit=2**20)) == 64


@pytest.mark.parametrize(
    "make",
    [
        lambda m: ColumnSlice(m, 2, 7),
        lambda m: ColumnSlice(ArrayTensor(np.zeros(4, np.float32)), 0, 1),
        lambda m: Pad(m, 3),
        lambda m: Pad(m, 4, 5),
        lambda m: Pad(ArrayTensor(np.zeros(4, np.float32)), 4, 4),
        lambda m: UninterleaveHeads(m, 3),
        lambda m: UninterleaveHeads(m, 8),
        lambda m: Cast(m, "int8", "w"),
        lambda m: Cast(ArrayTensor(np.zeros(4, np.int8)), "float32", "w"),
        lambda m: Zeros((2,), "float13"),
        lambda m: RowRanges(m, ((0, 5),)),
        lambda m: RowRanges(m, ((3, 2),)),
        lambda m: ConcatRows((m, matrix(4, 5))),
        lambda m: ConcatRows((m, matrix(4, 6, np.float16))),
        lambda m: ConcatRows(()),
    ],
)
def test_misfits_are_refused_when_they_are_made(make: object) -> None:
    with pytest.raises(InternalError, match="E1190"):
        make(matrix(4))  # type: ignore[operator]


# --- checks on streamed blocks


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_named_by_row(dtype: type, bad: float) -> None:
    block = np.ones((7, 5), np.float32).astype(dtype)
    check_finite("model.norm.weight", block, 100)
    block[3, 2] = bad
    with pytest.raises(InputError, match=r"E1123 model.norm.weight .*first in row 103"):
        check_finite("model.norm.weight", block, 100)


def test_infinities_of_both_signs_and_overflowing_sums() -> None:
    with pytest.raises(InputError, match="holds 2 values"):
        check_finite("w", np.array([np.inf, -np.inf], np.float32), 0)
    check_finite("w", np.full(10, 3e38, np.float32), 0)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_float16_overflow_names_the_remedy(dtype: type) -> None:
    values = np.zeros((4, 3), np.float32)
    values[2, 1] = -70000
    tensor = Cast(ArrayTensor(values.astype(dtype)), "float16", "model.w")
    assert np.isfinite(tensor.read_rows(0, 2)).all()
    with pytest.raises(InputError, match=r"E1124 model.w: -7\d+ in row 2 .*bf16"):
        tensor.read_rows(1, 4)
    check_float16_range("w", np.array([65519.0], np.float32), 0)
    assert np.float32(65519).astype(np.float16) == 65504
    with pytest.raises(InputError):
        check_float16_range("w", np.array([65520.0], np.float32), 0)


# --- files and blocks


def test_file_tensors_read_their_bytes_only(tmp_path: Path) -> None:
    array = GENERATOR.standard_normal((11, 4)).astype(ml_dtypes.bfloat16)
    (tmp_path / "w").write_bytes(b"abc" + array.tobytes() + b"xyz")
    check(FileTensor(tmp_path / "w", 3, (11, 4), "bfloat16"), array, [3, 7])
    check(FileTensor(tmp_path / "w", 3, (44,), "bfloat16"), array.reshape(-1), [5])
    with pytest.raises(InputError, match=r"E1111.*short"):
        FileTensor(tmp_path / "w", 3, (12, 4), "bfloat16").read_rows(0, 12)
    with pytest.raises(InputError, match="E1111"):
        read_bytes(tmp_path, 0, 1)


@given(st.integers(0, 500), st.integers(1, 50), st.sampled_from([1, 4, 32]), st.integers(1, 5000))
def test_row_blocks_cover_in_bounds(rows: int, columns: int, multiple: int, limit: int) -> None:
    blocks = list(row_blocks(Zeros((rows, columns), "float32"), multiple, limit))
    assert [a for a, _ in blocks] + [rows] == [0, *(b for _, b in blocks)] if rows else not blocks
    for start, stop in blocks:
        assert start % multiple == 0
        assert (stop - start) * columns * 4 <= max(limit, multiple * columns * 4)
