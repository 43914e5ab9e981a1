"""Which executor runs the artifacts of which target: by the target's name in the manifest.

The runtime knows no targets, and what compiles for one need not be installed where its artifacts run.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from xamc.artifact.manifest import Manifest
from xamc.errors import UnsupportedError
from xamc.runtime.executor import Executor

_EXECUTORS = {
    "tvm_cpu": "xamc.runtime.executors.cpu:CpuExecutor",
    "tvm_vacc": "xamc.runtime.executors.vacc.session:VaccExecutor",
    "tvm_ascend": "xamc.runtime.executors.ascend:AscendExecutor",
    "reference": "xamc.runtime.executors.reference:ReferenceExecutor",
}


def register_executor(target: str, executor: str) -> None:
    """Makes an executor known.

    Args:
        target: whose artifacts it runs.
        executor: ``module:Class``, imported when such an artifact is loaded; called with the artifact's folder, its
            manifest, threads (None: every CPU of the process's affinity) and whether to read all weights at once.
    """
    _EXECUTORS[target] = executor


def executor_of(target: str) -> str | None:
    """What `register_executor` was told; None for a target that nothing here runs."""
    return _EXECUTORS.get(target)


def open_executor(folder: Path, manifest: Manifest, threads: int | None, prefault: bool) -> Executor:
    """The executor of an artifact.

    Raises:
        UnsupportedError: E1610, nothing here runs it.
        XamcError: what the executor finds.
    """
    place = executor_of(manifest.target)
    if place is None:
        raise UnsupportedError(
            "E1610",
            f"{folder} is compiled for {manifest.target}, which this runtime can't run",
            "compile the spec with --set backend.type=tvm_cpu to run it here",
        )
    module, _, name = place.partition(":")
    executor: Executor = getattr(import_module(module), name)(folder, manifest, threads, prefault)
    return executor
