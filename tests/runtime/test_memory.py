"""Memory of the process, and what the system's cache holds."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from xamc.runtime import memory

NBYTES = 48 * 2**20


def cached_pages(path: Path) -> int:
    """How many pages of a file the system has in memory, by mincore."""
    array = memory.map_file(path, NBYTES)
    pages = NBYTES // mmap.PAGESIZE
    found = (ctypes.c_ubyte * pages)()
    assert ctypes.CDLL(None, use_errno=True).mincore(ctypes.c_void_p(array.ctypes.data), NBYTES, found) == 0
    return int((np.frombuffer(found, np.uint8) & 1).sum())


@pytest.fixture
def cold(tmp_path: Path) -> Path:
    """A file on a disk that the system has nothing of in memory."""
    path = tmp_path / "weights.bin"
    with path.open("wb") as file:
        file.write(os.urandom(2**20) * (NBYTES // 2**20))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, NBYTES, os.POSIX_FADV_DONTNEED)
    if cached_pages(path):
        pytest.skip("this file system keeps its files in memory")
    return path


def test_a_file_is_read_ahead(cold: Path) -> None:
    thread = memory.read_ahead(cold, NBYTES)
    assert thread is not None
    thread.join(60)
    with cold.open("rb") as file:
        file.seek(NBYTES - 1)
        file.read(1)  # the last request is answered, and those before it were made earlier
    assert cached_pages(cold) > 0.9 * NBYTES / mmap.PAGESIZE


def test_what_memory_has_no_room_for_is_left_to_the_mapping(cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: NBYTES)
    assert memory.read_ahead(cold, NBYTES) is None
    assert cached_pages(cold) == 0


def test_a_file_that_has_gone_is_not_its_business(tmp_path: Path) -> None:
    thread = memory.read_ahead(tmp_path / "weights.bin", NBYTES)
    assert thread is not None
    thread.join(60)


def test_freed_memory_goes_back() -> None:
    """Small pieces, which glibc keeps in its heap, with one in use behind them."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    pieces = [bytearray(2**14) for _ in range(4000)]
    for piece in pieces:
        piece[::512] = bytes(len(piece) // 512)
    pieces.append(bytearray(2**14))
    del pieces[:-1]
    before = resident()
    memory.return_free_memory()
    assert before - resident() > 2**24
