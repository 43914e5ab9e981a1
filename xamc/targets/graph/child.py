"""Where the child process of this route that uses TVM begins, with TVM imported in half the time: without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xamc.runtime.tvm_library import torch_hidden


def build(request: Mapping[str, Any]) -> None:
    """`xamc.targets.graph.build.build`."""
    with torch_hidden():
        from xamc.targets.graph import build as work
    work.build(request)
