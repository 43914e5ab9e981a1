"""Aligned and memory-mapped arrays, and how much memory is left."""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xamc.artifact.manifest import ALIGNMENT
from xamc.errors import InputError

Bytes = NDArray[np.uint8]
_MEMINFO = Path("/proc/meminfo")
# Linux's flag, which the mmap module of Python 3.11 does not name. A writable private mapping counts as memory that may
# be needed one day; without the flag the kernel refuses weights larger than the machine's memory.
_MAP_NORESERVE = 0x4000
_READ_AHEAD_BYTES = 2**23
_MALLOC_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None)


def aligned_zeros(shape: tuple[int, ...], dtype: Any) -> Any:
    """An array of zeros on a 64-byte boundary, as compiled kernels expect.

    Large arrays take memory only where they are written, page by page, and are not counted before.

    Raises:
        OSError: this process may not map so much.
    """
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    if nbytes >= mmap.PAGESIZE:
        mapped = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
        # a huge page would take 2 MiB for the first byte of each
        mapped.madvise(mmap.MADV_NOHUGEPAGE)
        block: Bytes = np.frombuffer(mapped, np.uint8)
    else:
        raw: Bytes = np.zeros(nbytes + ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        block = raw[start : start + nbytes]
    return block.view(dtype).reshape(shape)


def return_free_memory() -> None:
    """Gives the system what glibc's heap holds free: it keeps all below the highest byte in use.

    Other C libraries have no such call, and need none or do without.
    """
    if _MALLOC_TRIM is not None:
        _MALLOC_TRIM(0)


def map_file(path: Path, nbytes: int) -> Bytes:
    """A file's bytes, mapped copy-on-write: shared with other processes, and writable as DLPack demands.

    Raises:
        InputError: E1611, the file is missing or shorter than `nbytes`.
    """
    fix = "compile the model again, or copy the artifact again from where it is whole"
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size < nbytes:
                raise InputError("E1611", f"{path} has {size} bytes, the manifest says {nbytes}", fix)
            if nbytes == 0:
                return np.zeros(0, np.uint8)
            flags = mmap.MAP_PRIVATE | _MAP_NORESERVE
            mapped = mmap.mmap(file.fileno(), nbytes, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except OSError as error:
        raise InputError("E1611", f"{path} can't be read: {error.strerror}", fix) from error
    return np.frombuffer(mapped, np.uint8)


def prefault(block: Bytes) -> None:
    """Reads a byte of every page of a mapping, so that the disk is read now and not by the first tokens."""
    block[:: mmap.PAGESIZE].max(initial=0)


def read_ahead(path: Path, nbytes: int) -> threading.Thread | None:
    """Has the system read a file into its cache while this process goes on, in order and as fast as the disk can.

    A mapping alone would have it read where threads happen to need a page first, a little at a time. Left out (None)
    where the file would take more than half of the memory that is free.
    """
    free = available_bytes()
    if free is None or nbytes > free // 2:
        return None

    def read() -> None:
        # What can't be read is reported where it is used.
        with contextlib.suppress(OSError), path.open("rb") as file:
            for start in range(0, nbytes, _READ_AHEAD_BYTES):
                os.posix_fadvise(file.fileno(), start, _READ_AHEAD_BYTES, os.POSIX_FADV_WILLNEED)

    thread = threading.Thread(target=read, name="xamc-read-ahead", daemon=True)
    thread.start()
    return thread


def available_bytes(meminfo: Path = _MEMINFO) -> int | None:
    """Memory that can still be taken without swapping, or None where Linux does not say."""
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None
