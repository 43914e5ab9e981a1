"""The building blocks: exponential, 16-bit conversions, transposes and sums, against NumPy."""

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from tests.targets.kernels.harness import HOST, LEVELS_HERE, kernel, rng
from xamc.ir.tolerances import tolerance
from xamc.targets.kernels import emit as E
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.threads import OWN_LAUNCH, launch, own_share, tasks

levels = pytest.mark.parametrize("isa", LEVELS_HERE, ids=lambda isa: isa.name)


def elementwise(
    isa: Isa, source: str, target: str, compute: Callable[[E.Buffer, E.Buffer, E.Expr], None]
) -> Callable[[np.ndarray], np.ndarray]:
    """`compute(x, y, i)` on a vector at a time."""

    def body() -> None:
        n = E.dynamic("n")
        x, y = E.parameter("x", (n,), source), E.parameter("y", (n,), target)
        with E.serial(n // isa.lanes) as i:
            compute(x, y, i * isa.lanes)

    run = kernel(E.build("f", body), isa)

    def call(values: np.ndarray) -> np.ndarray:
        dtype = ml_dtypes.bfloat16 if target == "bfloat16" else target
        result = np.zeros(values.shape, dtype)
        run(values, result)
        return result

    return call


@levels
def test_exponential(isa: Isa) -> None:
    run = elementwise(
        isa,
        "float32",
        "float32",
        lambda x, y, i: E.store(y, [i], E.exp(E.let(E.load(x, [i], isa.lanes)), isa.lanes), isa.lanes),
    )
    x = np.concatenate((np.linspace(-87, 88, 2**17), rng(0).normal(0, 1e-3, 2**12))).astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    assert (np.abs(run(x) - exact) / exact).max() <= tolerance("kernel_exp")
    assert run(np.zeros(16, np.float32)).tolist() == [1.0] * 16
    extremes = np.array([-88, -1e30, -np.inf, -3e38] * 4, np.float32)
    assert run(extremes).tolist() == [0.0] * 16
    assert np.isfinite(run(np.full(16, 1e30, np.float32))).all()


@levels
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bit_to_float_is_exact_for_every_value(isa: Isa, dtype: str) -> None:
    run = elementwise(
        isa,
        dtype,
        "float32",
        lambda x, y, i: E.store(y, [i], E.load_float(x, [i], isa.lanes, isa), isa.lanes),
    )
    values = np.arange(2**16, dtype=np.uint16).view(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    np.testing.assert_array_equal(run(values), values.astype(np.float32))


@levels
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_float_to_sixteen_bit_rounds_to_nearest_even(isa: Isa, dtype: str) -> None:
    run = elementwise(
        isa,
        "float32",
        dtype,
        lambda x, y, i: E.store_float(y, [i], E.load(x, [i], isa.lanes), isa.lanes, isa),
    )
    storage = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    every = np.arange(2**16, dtype=np.uint16).view(storage).astype(np.float32)
    every = every[np.isfinite(every)]
    ties = ((every[:-1].astype(np.float64) + every[1:]) / 2).astype(np.float32)  # halfway between neighbours
    random = rng(1).integers(0, 2**32, 2**16, dtype=np.uint32).view(np.float32)
    special = np.array([np.inf, -np.inf, 65519, 65520, 1e30, -0.0], np.float32)
    x = np.concatenate((every, ties, random, special))
    x = x[: len(x) // 16 * 16]
    with np.errstate(over="ignore", invalid="ignore"):
        expected = x.astype(storage)
    actual = run(x)
    nan = np.isnan(x)
    assert np.isnan(actual.astype(np.float32)[nan]).all()
    np.testing.assert_array_equal(actual.view(np.uint16)[~nan], expected.view(np.uint16)[~nan])


@levels
def test_transpose_and_sums_of_a_block(isa: Isa) -> None:
    lanes = isa.lanes

    def body() -> None:
        x = E.parameter("x", (lanes, lanes), "float32")
        y = E.parameter("y", (lanes, lanes), "float32")
        sums = E.parameter("sums", (lanes,), "float32")
        rows = [E.let(E.load(x, [i, 0], lanes)) for i in range(lanes)]
        for i, vector in enumerate(E.transpose(rows)):
            E.store(y, [i, 0], vector, lanes)
        E.store(sums, [0], E.gather_sums(rows), lanes)

    x = np.arange(lanes * lanes, dtype=np.float32).reshape(lanes, lanes)
    y, sums = np.zeros_like(x), np.zeros(lanes, np.float32)
    kernel(E.build("f", body), isa)(x, y, sums)
    np.testing.assert_array_equal(y, x.T)
    np.testing.assert_array_equal(sums, x.sum(1))


@pytest.mark.parametrize("extent", [0, 1, 63, 64, 1000])
def test_every_task_is_taken_once(extent: int) -> None:
    """In two launches of one kernel, as the counter begins anew; later tasks are shorter."""

    def body() -> None:
        n = E.dynamic("n")
        x, y = E.parameter("x", (n,), "int32"), E.parameter("y", (n,), "int32")
        for _ in range(2):
            with tasks(n) as task, E.serial(E.load(x, [task])):
                E.store(y, [task], E.load(y, [task]) + 1)

    times = np.arange(extent, 0, -1, dtype=np.int32)
    y = np.zeros(extent, np.int32)
    kernel(E.build("tasks", body), HOST)(times, y)
    assert y.tolist() == (2 * times).tolist()


@pytest.mark.parametrize("extent", [1, 2, 5, 64])
def test_shares_of_a_launch_cover_everything_once(extent: int) -> None:
    """Also where there are fewer iterations than threads, some of which have no share."""

    def body() -> None:
        y = E.parameter("y", (extent,), "int32")
        with launch():
            begin, count = own_share(extent)
            with E.serial(count) as i:
                E.store(y, [begin + i], E.load(y, [begin + i]) + 1)

    y = np.zeros(extent, np.int32)
    kernel(E.build("shares", body).with_attr(OWN_LAUNCH, True), HOST)(y)
    assert y.tolist() == [1] * extent
