"""Collectives of ranks that are threads."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from xamc.runtime.executors.vacc.collectives import RankAborted, RankGroup


def _run(name: str, sources: list[np.ndarray], width: int) -> list[np.ndarray]:
    group = RankGroup(len(sources))
    targets = [np.zeros((len(source), width), np.float16) for source in sources]

    def rank(number: int) -> None:
        with group.member(number):
            getattr(group, name)(number, sources[number], targets[number])

    with ThreadPoolExecutor(len(sources)) as pool:
        list(pool.map(rank, range(len(sources))))
    return targets


@pytest.mark.parametrize("ranks", [1, 2, 4, 16])
def test_sums_are_rounded_once_and_the_same_on_all_ranks(ranks: int) -> None:
    generator = np.random.default_rng(ranks)
    sources = [generator.standard_normal((3, 7)).astype(np.float16) for _ in range(ranks)]
    total = np.zeros((3, 7), np.float32)
    for source in sources:
        total += source
    for target in _run("all_reduce", sources, 7):
        np.testing.assert_array_equal(target, total.astype(np.float16))


def test_sums_are_wider_than_float16() -> None:
    """2048 + 1 + 1 is 2050; in float16 it would stay at 2048. 60000 + 60000 - 60000 doesn't overflow on the way."""
    sources = [np.array([[a, b]], np.float16) for a, b in ((2048, 60000), (1, 60000), (1, -60000))]
    for target in _run("all_reduce", sources, 2):
        np.testing.assert_array_equal(target, [[2050, 60000]])


def test_gathered_columns_are_in_the_order_of_ranks() -> None:
    sources = [np.arange(6, dtype=np.float16).reshape(2, 3) + 100 * rank for rank in range(4)]
    for target in _run("all_gather", sources, 12):
        np.testing.assert_array_equal(target, np.concatenate(sources, axis=1))


def test_a_failure_releases_the_others() -> None:
    group = RankGroup(2)

    def rank(number: int) -> None:
        with group.member(number):
            if number == 1:
                raise ValueError("a kernel failed")
            group.all_reduce(number, np.zeros(2, np.float16), np.zeros(2, np.float16))

    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(rank, number) for number in range(2)]
        errors = [run.exception(timeout=30) for run in runs]
    assert isinstance(errors[0], RankAborted) and isinstance(errors[1], ValueError)
    assert group.failed == 1


def test_the_simulator_needs_no_framework() -> None:
    code = (
        "import sys, xamc.runtime.executors.vacc.session\n"
        "from xamc.runtime.tvm_library import tvm_ffi\n"
        "tvm_ffi()\n"
        "assert not {'tvm', 'torch', 'transformers', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
