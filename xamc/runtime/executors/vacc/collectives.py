"""Collectives between the ranks of a simulated tensor-parallel run: threads of this process that meet at barriers.

The code of a rank calls `xamc.vacc.all_reduce` and `xamc.vacc.all_gather`; which rank it is follows from the thread
it runs on. Results don't depend on which thread comes first: sums run over the ranks in order, in float32, and are
rounded once.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
_current = threading.local()


class RankAborted(Exception):
    """Another rank failed, so this one can't go on."""


@dataclass
class _Place:
    """What a rank brought to a collective."""

    source: Array | None = None
    target: Array | None = None


class RankGroup:
    """The ranks of one run.

    Attributes:
        ranks: how many.
        failed: the rank whose exception ended the run, or None; others then raise `RankAborted`, which comes out of
            compiled code as some other exception.
    """

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self.failed: int | None = None
        self._barrier = threading.Barrier(ranks)
        self._places = [_Place() for _ in range(ranks)]

    @contextmanager
    def member(self, rank: int) -> Iterator[None]:
        """Makes the calling thread `rank`; an exception releases the other ranks."""
        _current.group, _current.rank = self, rank
        try:
            yield
        except BaseException:
            if self.failed is None:
                self.failed = rank
            self._barrier.abort()
            raise
        finally:
            _current.group = None

    def all_reduce(self, rank: int, source: Array, target: Array) -> None:
        """target = the sum of all ranks' sources; each rank sums a part of it, for everybody.

        Args:
            rank: the caller's.
            source: float16 of any shape, the same on all ranks.
            target: like `source`, written.

        Raises:
            RankAborted: another rank failed.
        """
        self._meet(rank, source.reshape(-1), target.reshape(-1))
        size = source.size
        part = slice(size * rank // self.ranks, size * (rank + 1) // self.ranks)
        total = np.zeros(part.stop - part.start, np.float32)
        for place in self._places:
            assert place.source is not None
            total += place.source[part].astype(np.float32)
        with np.errstate(over="ignore"):
            rounded = total.astype(np.float16)
        for place in self._places:
            assert place.target is not None
            place.target[part] = rounded
        self._wait()

    def all_gather(self, rank: int, source: Array, target: Array) -> None:
        """Rows of all ranks side by side, in order of the ranks.

        Args:
            rank: the caller's.
            source: [rows, columns], the same shape on all ranks.
            target: [rows, ranks * columns], written.

        Raises:
            RankAborted: another rank failed.
        """
        self._meet(rank, source, target)
        columns = source.shape[1]
        for other, place in enumerate(self._places):
            assert place.source is not None
            target[:, other * columns : (other + 1) * columns] = place.source
        self._wait()

    def _meet(self, rank: int, source: Array, target: Array) -> None:
        self._places[rank] = _Place(source, target)
        self._wait()

    def _wait(self) -> None:
        try:
            self._barrier.wait()
        except threading.BrokenBarrierError:
            raise RankAborted("another rank failed") from None


def _all_reduce(source: Any, target: Any) -> None:
    _current.group.all_reduce(_current.rank, np.from_dlpack(source), _writable(target))


def _all_gather(source: Any, target: Any) -> None:
    _current.group.all_gather(_current.rank, np.from_dlpack(source), _writable(target))


def _writable(tensor: Any) -> Array:
    """A tensor's memory as an array that may be written; NumPy marks what comes through DLPack as read-only."""
    array = np.from_dlpack(tensor)
    if array.flags.writeable:
        return array
    interface = {
        "shape": array.shape,
        "typestr": array.dtype.str,
        "data": (array.ctypes.data, False),
        "version": 3,
    }
    holder = type("_Memory", (), {"__array_interface__": interface, "tensor": tensor})()
    return np.asarray(holder)


@functools.cache
def register_collectives(ffi: Any) -> None:
    """Makes the collectives callable by compiled code of this process."""
    ffi.register_global_func("xamc.vacc.all_reduce", _all_reduce, override=True)
    ffi.register_global_func("xamc.vacc.all_gather", _all_gather, override=True)
