"""How kernels share out work among threads beyond a plain parallel loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tvm.tirx import IntImm
from tvm.tirx.script.builder import ir as T

from xamc.targets.kernels import emit as E

OWN_LAUNCH = "xamc.own_launch"
"""Attribute of functions in which more than parallel loops runs on all threads."""
# TensorIR has no atomic operations.
_NEXT_TASK = """
define i32 @xamc_next_task(ptr %counter) alwaysinline {
  %task = atomicrmw add ptr %counter, i32 1 monotonic
  ret i32 %task
}
"""
_MOST_THREADS = 64
"""More threads than these share out a loop of `tasks` no further."""


@contextmanager
def tasks(extent: E.Expr | int) -> Iterator[E.Expr]:
    """A loop whose iterations threads take one by one, whoever is ready: none waits for one that others held up.

    The order is that of the numbers, so neighbours run at about the same time.
    """
    counter = E.scratch((1,), "int32")
    E.store(counter, [0], E.i32(0))
    with T.attr(0, "pragma_import_llvm", _NEXT_TASK), E.parallel(_MOST_THREADS):
        task = E.Register(1, "int32")

        def take() -> None:
            task.set(T.call_extern("int32", "xamc_next_task", T.address_of(counter[0])))

        take()
        with T.While(task.get() < extent):
            yield E.let(task.get())
            take()


@contextmanager
def launch() -> Iterator[None]:
    """Runs its body on every thread; loops that are `parallel` share out their iterations.

    The function needs the attribute `OWN_LAUNCH`.
    """
    with T.attr(IntImm("int32", 0), "pragma_parallel_launch_point", IntImm("int32", 1)):
        yield


@contextmanager
def barrier() -> Iterator[None]:
    """In a launch: after its body every thread waits for all others."""
    with T.attr(IntImm("int32", 0), "pragma_parallel_barrier_when_finish", IntImm("int32", 1)):
        yield


def own_share(extent: int) -> tuple[E.Expr, E.Expr]:
    """In a launch: the begin of this thread's share of [0, extent) and how many they are, possibly none.

    The shares are those of a `parallel` loop, which is how a thread can know them.
    """
    begin, end = E.Register(1, "int32", E.i32(extent)), E.Register(1, "int32", E.i32(0))
    # TVM drops a loop of one iteration, and with it the sharing
    with E.parallel(max(2, extent)) as index:
        begin.set(E.minimum(begin.get(), index))
        end.set(E.minimum(index + 1, extent))
    return E.let(begin.get()), E.let(E.maximum(end.get() - begin.get(), 0))
