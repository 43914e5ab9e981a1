"""Whether the folder that an artifact goes to can take it, asked before hours of work and not after them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from xamc.artifact.staging import free_bytes, not_writable
from xamc.errors import InputError
from xamc.jobs.cache import default_cache_folder, holds_file
from xamc.jobs.progress import size
from xamc.targets.planned import TargetPlan
from xamc.targets.stored_bytes import WEIGHTS_FILE


def needed_bytes(planned: TargetPlan, folder: Path) -> int:
    """What a compile adds to the disk of `folder`, at most.

    An artifact shares its large files with the stage cache on the same disk, and takes them from there when an earlier
    compile has made them; on different disks both hold them.
    """
    if _device(folder) != _device(default_cache_folder()):
        return planned.nbytes
    kept = planned.weights if holds_file("weights", WEIGHTS_FILE, planned.weights) else 0
    return planned.nbytes - kept


def require_room_for(name: str, planned: TargetPlan, folder: Path, use_cache: bool) -> None:
    """Refuses an artifact that doesn't fit beside what is in `folder`, or its parts into the stage cache.

    Raises:
        InputError: E1711.
    """
    require_disk(name, needed_bytes(planned, folder), free_bytes(folder), folder)
    cache = default_cache_folder()
    if use_cache and _device(folder) != _device(cache):
        kept = 0 if holds_file("weights", WEIGHTS_FILE, planned.weights) else planned.weights
        require_disk(name, kept + planned.code, free_bytes(cache), cache)


def require_disk(name: str, needed: int, free: int, folder: Path) -> None:
    """Refuses what is larger than the space that is free.

    Raises:
        InputError: E1711 with both numbers.
    """
    if needed > free:
        raise InputError(
            "E1711",
            f"compiling {name} takes {size(needed)} of disk, {size(free)} are free in {folder}",
            fix="free space, or choose another disk with workspace.path (XAMC_CACHE for the stage cache); "
            "`xamc cache prune --max-size 0` frees what no artifact uses",
            keys=("workspace.path",),
        )


def require_permission(folder: Path) -> None:
    """Refuses a folder that can't be written, or that can't be made, without making it.

    Raises:
        InputError: E1507.
    """
    for place in (folder, *folder.absolute().parents):
        if place.exists():
            if not place.is_dir():
                raise not_writable(NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place)), place)
            if not os.access(place, os.W_OK | os.X_OK):
                raise not_writable(PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place)), place)
            return


def _device(path: Path) -> int:
    """The file system of a folder, or of its nearest existing parent."""
    return next(place.stat().st_dev for place in (path, *path.absolute().parents) if place.exists())
