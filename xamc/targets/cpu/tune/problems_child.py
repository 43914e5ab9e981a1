"""Where the child process that lists a model's problems begins, with TVM imported in half the time.

tvm_ffi imports torch when it is installed, which takes longer than all of TVM; nothing here needs it. One module per
child, so that a stage's key names what that child runs and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xamc.runtime.tvm_library import torch_hidden


def problems(request: Mapping[str, Any]) -> list[Any]:
    """`xamc.targets.cpu.tune.problems.problems`."""
    with torch_hidden():
        from xamc.targets.cpu.tune import problems as work
    return work.problems(request)
