"""Where the child processes of this target that use TVM begin, with it imported in half the time.

tvm_ffi imports torch when it is installed, which takes longer than all of TVM; nothing here needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xamc.runtime.tvm_library import torch_hidden


def build(request: Mapping[str, Any]) -> None:
    """`xamc.targets.cpu.build.build`."""
    with torch_hidden():
        from xamc.targets.cpu import build as work
    work.build(request)


def prove(request: Mapping[str, Any]) -> None:
    """`xamc.targets.cpu.build.prove`."""
    with torch_hidden():
        from xamc.targets.cpu import build as work
    work.prove(request)


def problems(request: Mapping[str, Any]) -> list[Any]:
    """`xamc.targets.cpu.tune.compile.problems`."""
    with torch_hidden():
        from xamc.targets.cpu.tune import compile as work
    return work.problems(request)


def build_candidates(request: Mapping[str, Any]) -> None:
    """`xamc.targets.cpu.tune.compile.build`."""
    with torch_hidden():
        from xamc.targets.cpu.tune import compile as work
    work.build(request)
