"""One process that does the work of all child processes of many compiles, and exports the twins.

A compile starts a process for the export, one for each library and one for the golden logits, which import torch or
TVM for seconds, and a first export warms up for seconds more, to work for less. With a `Worker` one process does the
work of all of them. Real child processes have tests of their own: test_compile.py, test_reproducible.py and
test_vacc_commands.py in tests/end_to_end compile without it. The module is imported by that process, so it imports
little.
"""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from xamc.jobs.child import Limits, end_with
from xamc.jobs.hidden_imports import hidden

_CALLERS = (
    "xamc.compiler.stages.export",
    "xamc.compiler.stages.golden",
    "xamc.compiler.stages.onnx_import",
    "xamc.compiler.stages.onnx_route",
    "xamc.verify.kv_calibration",
    "xamc.verify.streamed_reference",
    "xamc.targets.child_stage",
    "xamc.targets.cpu.library",
)


def call(function: str, request: Any, without: tuple[str, ...] = ()) -> Any:
    """The worker's side: `module:function` of one argument."""
    place, _, name = function.partition(":")
    with hidden(*without):
        module = importlib.import_module(place)
    return getattr(module, name)(request)


class Worker:
    """One process for the work of all child processes, while it is asked for it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, context, initializer=end_with, initargs=(os.getpid(),))

    @contextmanager
    def active(self) -> Iterator[None]:
        """What child processes would do in this block, the worker does."""

        def run(function: str, request: Any, *, limits: Limits, without: tuple[str, ...] = (), **_: Any) -> Any:
            return self._pool.submit(call, function, request, without).result(limits.seconds)

        with pytest.MonkeyPatch.context() as patch:
            for module in _CALLERS:
                patch.setattr(f"{module}.run_child", run)
            yield

    def call(self, function: str, request: Any) -> Any:
        """What `module:function` makes of `request`, both pickled on their way."""
        return self._pool.submit(call, function, request).result()

    def end(self) -> None:
        """End the process."""
        self._pool.shutdown()


@functools.cache
def session_worker() -> Worker:
    """The one of this test process, started when it is first needed; tests/conftest.py ends it."""
    return Worker()
