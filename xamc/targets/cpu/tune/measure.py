"""Times compiled candidates beside the default, alone on the machine; runs in a child process without TVM's compiler.

Runs alternate: default, candidate, candidate, default, ... so that what changes with time meets both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xamc.errors import InternalError
from xamc.ir.tolerances import tolerance
from xamc.runtime.memory import aligned_zeros
from xamc.runtime.threads import configure_tvm_threads
from xamc.runtime.tvm_library import tvm_ffi
from xamc.targets.cpu.tune.inputs import Arguments, arguments
from xamc.targets.kernels.tiles import problem_from_json
from xamc.verify.metrics import relative_error

KERNEL = "kernel"
"""The function of every candidate's library."""

Run = Callable[[], None]


def measure(request: Mapping[str, Any]) -> list[list[float]]:
    """For each candidate the ratios of the default's time to its own, pair by pair.

    Args:
        request: ``problem`` (as JSON), ``threads``, ``default`` and ``candidates`` (paths of libraries), ``names`` (of
            the candidates, for messages), ``pairs``.

    Raises:
        InternalError: E1419, a candidate's result is another than the default's.
    """
    problem = problem_from_json(request["problem"])
    ffi = tvm_ffi()
    configure_tvm_threads(ffi, request["threads"])
    given = arguments(problem)
    default = _Kernel(ffi, Path(request["default"]), given)
    default.run()
    results = []
    for path, name in zip(request["candidates"], request["names"], strict=True):
        candidate = _Kernel(ffi, Path(path), given)
        candidate.run()
        check(f"{problem} with {name}", candidate.result, default.result)
        results.append(ratios(default.run, candidate.run, request["pairs"]))
    return results


def check(name: str, actual: Any, expected: Any) -> None:
    """Refuses a candidate that computes something else.

    Raises:
        InternalError: E1419.
    """
    deviation = relative_error(actual, expected)
    if not deviation <= tolerance("tiles"):
        raise InternalError(
            "E1419",
            f"{name} differs by {deviation:.2g} (relative) from the kernel with default tiles",
            fix="compile with backend.compile.tune: off, and report it",
        )


def ratios(default: Run, candidate: Run, pairs: int, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Time of `default` over that of `candidate` in each of `pairs` pairs of runs; who is first alternates."""

    def seconds(run: Run) -> float:
        started = clock()
        run()
        return clock() - started

    found = []
    for pair in range(pairs):
        if pair % 2 == 0:
            before, after = seconds(default), seconds(candidate)
        else:
            after = seconds(candidate)
            before = seconds(default)
        found.append(before / after)
    return found


class _Kernel:
    """A loaded candidate with its arguments."""

    def __init__(self, ffi: Any, library: Path, given: Arguments) -> None:
        function = ffi.load_module(str(library))[KERNEL]
        self.result = aligned_zeros(given.result, np.float32)
        out = ffi.from_dlpack(self.result)
        calls = [[*(_tensor(ffi, *pair) for pair in zip(call, given.dtypes)), out] for call in given.calls]

        def run() -> None:
            for call in calls:
                function(*call)

        self.run = run


def _tensor(ffi: Any, array: Any, dtype: str) -> Any:
    """The array as a tensor of `dtype`, which for the bits of bfloat16 is not its own."""
    tensor = ffi.from_dlpack(array)
    if dtype == str(array.dtype):
        return tensor
    return ffi.get_global_func("runtime.TVMTensorCreateView")(tensor, ffi.Shape(array.shape), dtype, 0)
