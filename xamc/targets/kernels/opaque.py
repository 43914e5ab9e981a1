"""Trip counts that LLVM can't know.

It unrolls a loop of few iterations completely, moves all loads to its front and keeps every unpacked weight, more
than there are registers for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tvm.tirx.script.builder import ir as T

from xamc.targets.kernels import emit as E

_OPAQUE = """
define i32 @xamc_opaque(i32 %value) alwaysinline {
  %same = call i32 asm "", "=r,0"(i32 %value)
  ret i32 %same
}
"""


@contextmanager
def opaque(value: int) -> Iterator[E.Expr]:
    """Yields `value`, int32, as something that only the processor knows, in what is emitted inside."""
    with T.attr(0, "pragma_import_llvm", _OPAQUE):
        register = E.Register(1, "int32", T.call_extern("int32", "xamc_opaque", E.i32(value)))
        yield E.let(register.get())
