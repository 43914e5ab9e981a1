"""Strided operators, softmax and batched products against NumPy: float32 inside, one rounding at the end."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.targets.kernels.harness import kernel, normal, rng
from xamc.ir.tolerances import tolerance
from xamc.targets.kernels import emit as E
from xamc.targets.kernels.batched_matmul import MatMulShape, batched_matmul
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.softmax import softmax
from xamc.targets.kernels.strided import Strides, concatenate, merge_dimensions, pointwise, row_major, take_rows

ISA = Isa.by_name("x86-64-v3")
# without conversions between float16 and float32 in hardware
OLD = Isa.by_name("x86-64-v2")


def half(generator: np.random.Generator, *shape: int) -> np.ndarray:
    return normal(generator, *shape).astype(np.float16)


def strides(array: np.ndarray, base: np.ndarray) -> Strides:
    """How `array`, a view of `base`, lies in it."""
    offset = (array.ctypes.data - base.ctypes.data) // base.itemsize
    return Strides(base.dtype.name, base.size, offset, tuple(step // base.itemsize for step in array.strides))


def assert_rounded(actual: np.ndarray, expected: np.ndarray) -> None:
    """`actual` is float16 of `expected`, up to sums in another order: at most one unit in the last place off."""
    unit = np.spacing(np.abs(expected).astype(np.float16)).astype(np.float64)
    error = np.abs(actual.astype(np.float64) - expected)
    assert (error <= unit * tolerance("float16_ulps")).all(), (error / unit).max()


@pytest.mark.parametrize("isa", [ISA, OLD], ids=lambda isa: isa.name)
def test_operands_are_read_through_strides_and_rounded_once(isa: Isa) -> None:
    generator = rng(1)
    base, row, scalar = half(generator, 3, 7, 5), half(generator, 9), np.float32([3e-4])
    a, b = base.transpose(0, 2, 1), row[2:]
    views = [strides(a, base), strides(np.broadcast_to(b, (3, 5, 7)), row), Strides("float32", 1, 0, (0, 0, 0))]
    call = kernel(pointwise("f", (3, 5, 7), views, "float16", lambda v, lanes: v[0] * v[1] + v[2], isa), isa)
    y = np.zeros(105, np.float16)
    call(base.reshape(-1), row, scalar, y)
    # the product of two float16 is exact in float32: rounding it to float16 before the sum would show
    expected = (a.astype(np.float32) * b.astype(np.float32) + scalar).astype(np.float16)
    np.testing.assert_array_equal(y.reshape(3, 5, 7), expected)


def test_conditions_are_bytes() -> None:
    call = kernel(
        pointwise(
            "g",
            (2, 19),
            [Strides("int64", 19, 0, (0, 1)), Strides("int64", 2, 0, (1, 0))],
            "int8",
            lambda v, lanes: E.cast(v[0] > v[1], "int8", lanes),
            ISA,
        ),
        ISA,
    )
    numbers, limits, y = np.arange(19), np.array([4, -1]), np.zeros(38, np.int8)
    call(numbers, limits, y)
    np.testing.assert_array_equal(y.reshape(2, 19), numbers > limits[:, None])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_concatenation_along_any_axis(axis: int) -> None:
    generator = rng(2)
    shapes = [[2, 3, 16], [2, 3, 16]]
    shapes[1][axis] = 5
    arrays = [half(generator, *shape) for shape in shapes]
    bases = [np.ascontiguousarray(array.swapaxes(0, 1)) for array in arrays]
    views = [strides(base.swapaxes(0, 1), base) for base in bases]
    expected = np.concatenate(arrays, axis)
    y = np.zeros(expected.size, np.float16)
    kernel(concatenate("c", shapes, views, axis, "float16", ISA), ISA)(*(base.reshape(-1) for base in bases), y)
    np.testing.assert_array_equal(y.reshape(expected.shape), expected)


def test_rows_of_a_table() -> None:
    table, ids = normal(rng(3), 11, 20), np.array([3, 0, 10, 3])
    y = np.zeros(80, np.float16)
    kernel(take_rows("t", 4, 11, 20, "float32", "float16", ISA), ISA)(table.reshape(-1), ids, y)
    np.testing.assert_array_equal(y.reshape(4, 20), table[ids].astype(np.float16))


@given(st.data())
def test_merged_dimensions_visit_the_same_elements(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 4), max_size=4)))
    order = data.draw(st.permutations(range(len(shape))))
    turned = tuple(np.empty(shape, np.int8).transpose(np.argsort(order)).transpose(order).strides)
    steps = [row_major(shape), turned, tuple(data.draw(st.sampled_from([0, s])) for s in row_major(shape))]
    dims, merged = merge_dimensions(shape, steps)
    for before, after in zip(steps, merged, strict=True):
        old = [sum(i * s for i, s in zip(index, before, strict=True)) for index in np.ndindex(*shape)]
        new = [sum(i * s for i, s in zip(index, after, strict=True)) for index in np.ndindex(*dims)]
        assert old == new


@pytest.mark.parametrize("width", [5, 64, 100])
def test_softmax(width: int) -> None:
    x = half(rng(4, width), 4, width) * np.float16(8)
    x[0, 1] = -np.inf
    x[1, 2:] = -65504
    x[2] = 60000
    y = np.zeros(x.size, np.float16)
    kernel(softmax("s", 4, width, "float16", ISA), ISA)(x.reshape(-1), y)
    exact = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True).astype(np.float64))
    assert_rounded(y.reshape(x.shape), exact / exact.sum(-1, keepdims=True))
    assert y.reshape(x.shape)[0, 1] == 0 and not y.reshape(x.shape)[1, 2:].any()


@pytest.mark.parametrize("width", [5, 19])
def test_softmax_of_no_numbers_is_none(width: int) -> None:
    """As NumPy's: e^(inf - inf) is NaN, and so is a row with a NaN in it, in a vector or behind the last one."""
    x = normal(rng(5), 5, width)
    x[0], x[1], x[2, 2], x[3, -1] = -np.inf, np.inf, np.inf, np.nan
    y = np.zeros(x.size, np.float32)
    kernel(softmax("s", 5, width, "float32", ISA), ISA)(x.reshape(-1), y)
    assert np.isnan(y.reshape(x.shape)[:4]).all() and np.isfinite(y.reshape(x.shape)[4]).all()


@pytest.mark.parametrize(
    ("m", "n", "k", "transposed"),
    [
        # one row: dot products, with columns and elements left over; weighted sums, in one chunk and in several
        (1, 37, 16, True),
        (1, 70, 13, True),
        (1, 13, 37, False),
        (1, 128, 9, False),
        # several rows: whole tiles, tails in every direction, both ways of reading B
        (9, 16, 16, True),
        (33, 37, 13, True),
        (100, 40, 24, False),
    ],
)
def test_batched_products(m: int, n: int, k: int, transposed: bool) -> None:
    """Grouped queries: two KV heads serve two query heads each. A is read out of [rows, heads, k]."""
    generator = rng(5, m, n, k)
    base = half(generator, m, 4, k)
    a = base.reshape(m, 2, 2, k).transpose(1, 2, 0, 3)
    right = half(generator, 2, n, k) if transposed else half(generator, 2, k, n)
    b = np.broadcast_to((right.swapaxes(1, 2) if transposed else right)[:, None], (2, 2, k, n))
    shape = MatMulShape((2, 2), m, n, k)
    call = kernel(batched_matmul("p", shape, strides(a, base), strides(b, right), "float16", ISA), ISA)
    y = np.zeros(4 * m * n, np.float16)
    call(base.reshape(-1), right.reshape(-1), y)
    assert_rounded(y.reshape(2, 2, m, n), a.astype(np.float64) @ b.astype(np.float64))


def test_sums_are_wider_than_float16() -> None:
    """4096 ones sum to 4096 in float32; in float16 they would stay at 2048."""
    ones = np.ones(4096, np.float16)
    for rows in (1, 2):
        y = np.zeros(rows, np.float16)
        left = Strides("float16", 4096, 0, (0, 0, 1))
        right = Strides("float16", 4096, 0, (0, 1, 0))
        call = kernel(batched_matmul("p", MatMulShape((1,), rows, 1, 4096), left, right, "float16", ISA), ISA)
        call(ones, ones, y)
        assert (y == 4096).all()
