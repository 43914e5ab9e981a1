"""Folders that are built aside and published by one rename, so that a kill at any moment leaves no half-written one.

A staging folder lies beside its destination as ``.xamc-<name>-<pid>-<random>`` and is locked (flock) by the process
that fills it. The lock vanishes with the process, however it dies, so a leftover is one whose lock can be had; a
process id alone would not do, because ids are used again and mean nothing in another container.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from xamc.compiler.errors import InputError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_ASIDE = "-old"


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write below `path` into errors a person can act on.

    Raises:
        InputError: E1506 the disk (or the quota) is full; E1507 the folder can't be written.
    """
    try:
        yield
    except OSError as error:
        # Calls with two paths, such as a copy, have their destination second.
        named = error.filename2 or error.filename
        where = Path(named) if isinstance(named, str) else path
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise InputError(
                "E1506",
                f"the disk is full: writing {where} failed ({error.strerror}); "
                f"{free_bytes(path) / 1e6:.0f} MB are free",
                fix="free space or choose another folder (workspace.path, or XAMC_CACHE for the cache); "
                "`xamc plan` says how much is needed",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise InputError(
                "E1507",
                f"{where} can't be written: {error.strerror}",
                fix="choose a folder you may write to (workspace.path, or XAMC_CACHE for the cache)",
            ) from error
        raise


def free_bytes(path: Path) -> int:
    """Bytes an unprivileged process may still write on the file system of `path` or its nearest existing parent."""
    for folder in (path, *path.absolute().parents):
        if folder.exists():
            status = os.statvfs(folder)
            return status.f_bavail * status.f_frsize
    return 0


class StagingFolder:
    """A locked, hidden folder beside `destination`, published or removed as a whole."""

    def __init__(self, destination: Path, guard: Callable[[Path], None] = lambda destination: None) -> None:
        """Create it; `destination`'s parent is made if needed, and leftovers of dead processes are removed.

        Args:
            destination: what `publish` will create or replace.
            guard: raises if the destination must not be replaced. It is called now and again when publishing,
                each time while no other process can publish there.

        Raises:
            InputError: E1506 or E1507, when the parent folder can't be written.
        """
        self.destination = destination
        self._guard = guard
        self._parent = destination.parent
        with disk_errors(self._parent):
            self._parent.mkdir(parents=True, exist_ok=True)
            with _locked(self._parent):
                guard(destination)
                self._sweep()
                self.path = self._parent / f"{self._prefix}{os.getpid()}-{secrets.token_hex(4)}"
                self.path.mkdir()
                self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
                fcntl.flock(self._lock, fcntl.LOCK_EX)

    @property
    def _prefix(self) -> str:
        return f".xamc-{self.destination.name}-"

    def publish(self) -> None:
        """Flush every file to the disk, then put the folder at `destination`, replacing what is there.

        An existing destination is exchanged in one system call, so that it is there, and whole, at every moment.

        Raises:
            InputError: E1506 or E1507.
        """
        with disk_errors(self._parent):
            _sync_tree(self.path)
            with _locked(self._parent):
                self._guard(self.destination)
                if self.destination.exists():
                    _exchange(self.path, self.destination)
                    _sync_folder(self._parent)
                    # Our lock went along with the new version; while the parent is locked nobody sweeps the old one.
                    _remove_tree(self.path)
                else:
                    self.path.rename(self.destination)
                    _sync_folder(self._parent)
        self.discard()

    def discard(self) -> None:
        """Remove the staging folder, if it was not published, and give up the lock."""
        if self._lock < 0:
            return
        _remove_tree(self.path)
        os.close(self._lock)
        self._lock = -1

    def _sweep(self) -> None:
        """Remove staging folders of this destination whose process is gone; the parent must be locked."""
        for leftover in self._parent.glob(f"{self._prefix}*"):
            try:
                descriptor = os.open(leftover, os.O_RDONLY | os.O_DIRECTORY)
            except OSError:  # not a folder, or gone meanwhile: not one of ours
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            else:
                if leftover.name.endswith(_ASIDE) and not self.destination.exists():
                    leftover.rename(self.destination)  # killed between the two renames of `_exchange`
                else:
                    _remove_tree(leftover)
            finally:
                os.close(descriptor)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder; held for moments only, so waiting is fine."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _exchange(first: Path, second: Path) -> None:
    """Swap two folders atomically; on file systems without that call, by two renames."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return
    code = ctypes.get_errno()
    if code not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        raise OSError(code, os.strerror(code), str(second))
    aside = first.with_name(first.name + _ASIDE)
    second.rename(aside)
    first.rename(second)
    aside.rename(first)


def _sync_tree(folder: Path) -> None:
    for root, _, names in os.walk(folder):
        for name in names:
            _sync_file(Path(root) / name)
        _sync_folder(Path(root))


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_tree(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
