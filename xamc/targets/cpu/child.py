"""Where the child process that generates this target's code begins, with TVM imported in half the time.

tvm_ffi imports torch when it is installed, which takes longer than all of TVM; nothing here needs it. One module per
child, so that a stage's key names what that child runs and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xamc.runtime.tvm_library import torch_hidden


def build(request: Mapping[str, Any]) -> None:
    """`xamc.targets.cpu.compile_library.build`."""
    with torch_hidden():
        from xamc.targets.cpu import compile_library as work
    work.build(request)
