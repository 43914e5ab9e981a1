"""Folders that are built aside and published by one rename, so that a kill at any moment leaves no half-written one.

A staging folder lies beside its destination as ``.xamc-<name>-<pid>-<random>`` and is locked (flock) by the process
that fills it. The lock vanishes with the process, however it dies, so a leftover is one whose lock can be had; a
process id alone would not do, because ids are used again and mean nothing in another container.

`temporary_folder` gives folders of the same kind for what is never published: `tempfile`'s would outlive a kill.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from xamc.errors import InputError

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the last is a limit on file sizes
_NOT_WRITABLE = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG,
)  # fmt: skip
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_ASIDE = "-old"
_STAGED = re.compile(r"\.xamc-(?P<name>.+)-\d+-[0-9a-f]{8}(?P<aside>-old)?")
_TEMPORARY = re.compile(r"xamc-[a-z]+-\d+-[0-9a-f]{8}")
_REMOVALS = 5  # attempts; the last child of a killed process may still be writing


@contextmanager
def full_disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, wherever it is met, into an error a person can act on.

    Args:
        path: named in the error when the operating system names no file.

    Raises:
        InputError: E1506 the disk (or the quota) is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK:
            raise disk_full(_place(error, path), str(error.strerror)) from error
        raise


def disk_full(where: Path, reason: str) -> InputError:
    """E1506 for a file or folder that can't be written any further."""
    return InputError(
        "E1506",
        f"the disk is full: writing {where} failed ({reason}); {free_bytes(where) / 1e6:.0f} MB are free",
        fix="free space or choose another folder (workspace.path, XAMC_CACHE for the cache, TMPDIR for temporary "
        "files); `xamc plan` says how much is needed",
    )


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write below `path` into errors a person can act on.

    Raises:
        InputError: E1506 the disk (or the quota) is full; E1507 the folder can't be written.
    """
    try:
        with full_disk_errors(path):
            yield
    except OSError as error:
        if error.errno in _NOT_WRITABLE:
            raise not_writable(error, path) from error
        raise


def not_writable(error: OSError, path: Path) -> InputError:
    """E1507 for what the operating system refused."""
    return InputError(
        "E1507",
        f"{_place(error, path)} can't be written: {error.strerror}",
        fix="choose a folder you may write to (workspace.path, or XAMC_CACHE for the cache)",
    )


def _place(error: OSError, otherwise: Path) -> Path:
    # Calls with two paths, such as a copy, have their destination second.
    named = error.filename2 or error.filename
    return Path(named) if isinstance(named, str) else otherwise


def make_folder(path: Path) -> None:
    """Create a folder and its parents where they are missing.

    Raises:
        InputError: E1506, E1507.
    """
    try:
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # not for lack of parents: file systems as /proc take no folders
        raise not_writable(error, path) from error


def require_writable(path: Path) -> None:
    """Create a folder where it is missing, and prove that files can be written in it.

    Raises:
        InputError: E1506, E1507.
    """
    make_folder(path)
    try:
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:  # it names the temporary file, which is nobody's business
        if error.errno in FULL_DISK:
            raise disk_full(path, str(error.strerror)) from error
        raise not_writable(OSError(error.errno, error.strerror), path) from error


def free_bytes(path: Path) -> int:
    """Bytes an unprivileged process may still write on the file system of `path` or its nearest existing parent."""
    for folder in (path, *path.absolute().parents):
        if folder.exists():
            status = os.statvfs(folder)
            return status.f_bavail * status.f_frsize
    return 0


class StagingFolder:
    """A locked, hidden folder beside `destination`, put there or removed as a whole.

    As a context manager it is removed on leaving, unless it was put in place.

    Attributes:
        destination: what is created or replaced.
        folder: where it is filled meanwhile.
    """

    def __init__(self, destination: Path, guard: Callable[[Path], None] = lambda destination: None) -> None:
        """Create it; `destination`'s parent is made if needed, and leftovers of dead processes are removed.

        Args:
            destination: what `put_in_place` will create or replace.
            guard: raises if the destination must not be replaced. It is called now and again by `put_in_place`,
                each time while no other process can do the same there.

        Raises:
            InputError: E1506 or E1507, when the parent folder can't be written.
        """
        self.destination = destination
        self._guard = guard
        self._parent = destination.parent
        with disk_errors(self._parent):
            self._parent.mkdir(parents=True, exist_ok=True)
            with locked(self._parent):
                guard(destination)
                _sweep_staged(self._parent)
                self.folder = self._parent / f".xamc-{destination.name}-{os.getpid()}-{secrets.token_hex(4)}"
                self.folder.mkdir()
                self._lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
                fcntl.flock(self._lock, fcntl.LOCK_EX)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def put_in_place(self) -> None:
        """Flush every file to the disk, then put the folder at `destination`, replacing what is there.

        An existing destination is exchanged in one system call, so that it is there, and whole, at every moment.

        Raises:
            InputError: E1506 or E1507.
        """
        with disk_errors(self._parent):
            _sync_tree(self.folder)
            with locked(self._parent):
                self._guard(self.destination)
                if self.destination.exists():
                    _exchange(self.folder, self.destination)
                    _sync_folder(self._parent)
                    # Our lock went along with the new version; while the parent is locked nobody sweeps the old one.
                    _remove_tree(self.folder)
                else:
                    self.folder.rename(self.destination)
                    _sync_folder(self._parent)
        self.discard()

    def discard(self) -> None:
        """Remove the staging folder, if it was not put in place, and give up the lock."""
        if self._lock < 0:
            return
        _remove_tree(self.folder)
        os.close(self._lock)
        self._lock = -1


def refuse_foreign(destination: Path, ours: str, code: str, fix: str, known: Callable[[set[str]], set[str]]) -> None:
    """Refuse to replace anything but nothing, an empty folder, or a folder of ours with no foreign files in it.

    Args:
        destination: what would be replaced.
        ours: what it would be replaced by, in words.
        code: of the errors.
        fix: of the errors.
        known: of the files that are there, those that xamc wrote; raises where the folder is none of ours.

    Raises:
        InputError: `code`.
    """
    if not destination.exists():
        return
    if not destination.is_dir():
        raise InputError(code, f"{destination} is a file; the {ours} would replace it", fix=fix)
    present = {str(p.relative_to(destination)) for p in destination.rglob("*") if not p.is_dir() or p.is_symlink()}
    foreign = sorted(present - known(present)) if present else []
    if foreign:
        raise InputError(
            code,
            f"{destination} holds files that xamc did not write, which replacing it would delete",
            fix="move them away, or choose another folder with -o",
            details=tuple(foreign[:10]),
        )


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Create or replace a file that is whole or absent at every moment; its folder is made if needed.

    Args:
        path: the file; what is no regular file, such as ``/dev/stdout``, is written to as it is.
        write: fills the file it is given, which is renamed afterwards.

    Raises:
        InputError: E1506, E1507.
    """
    if path.exists() and not path.is_file():
        with disk_errors(path):
            write(path)
        return
    path = Path(os.path.realpath(path))  # a link stays one
    with StagingFolder(path) as staging, disk_errors(path):
        written = staging.folder / path.name
        write(written)
        _sync_file(written)
        written.replace(path)
        _sync_folder(path.parent)


def sweep(parent: Path) -> None:
    """Remove the staging folders in `parent` whose process is gone; a missing or unreadable `parent` has none."""
    try:
        with locked(parent):
            _sweep_staged(parent)
    except OSError:  # nothing can have been left where nothing can be opened
        return


def _sweep_staged(parent: Path) -> None:
    """See `sweep`; `parent` must be locked."""
    for leftover in sorted(parent.glob(".xamc-*")):
        match = _STAGED.fullmatch(leftover.name)
        if match is None:
            continue
        with _abandoned(leftover) as free:
            if not free:
                continue
            destination = parent / match["name"]
            if match["aside"] and not destination.exists():
                leftover.rename(destination)  # killed between the two renames of `_exchange`
            else:
                _remove_tree(leftover)


def sweep_locks(folder: Path) -> None:
    """Remove the lock files in `folder` that nobody holds; who opens one later checks `is_still`."""
    for leftover in folder.glob("*"):
        try:
            descriptor = os.open(leftover, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:  # gone meanwhile, or another user's
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_still(leftover, descriptor):
                leftover.unlink()
        except OSError:  # held
            continue
        finally:
            os.close(descriptor)


@contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """A folder in the system's temporary one, removed at the end, or after a kill by the next `sweep_temporary`.

    A full disk inside the block is E1506, as these folders hold what a compile is about to need.

    Args:
        purpose: one lower-case word for its name.

    Raises:
        InputError: E1506, E1507.
    """
    parent = Path(tempfile.gettempdir())
    with disk_errors(parent):
        path, descriptor = _locked_folder(parent, purpose)
    try:
        with full_disk_errors(path):
            inside = path / "inside"  # of which whoever builds a folder aside can lock the parent: `path` is locked
            inside.mkdir(mode=0o700)
            yield inside
    finally:
        _remove_tree(path)
        os.close(descriptor)


def sweep_temporary() -> None:
    """Remove this user's temporary folders whose process is gone."""
    for leftover in Path(tempfile.gettempdir()).glob("xamc-*"):
        if _TEMPORARY.fullmatch(leftover.name):
            with _abandoned(leftover) as free:
                if free:
                    _remove_tree(leftover)


def _locked_folder(parent: Path, purpose: str) -> tuple[Path, int]:
    """A new folder and the descriptor that locks it; a sweep may take it before it is locked, then another is made."""
    while True:
        path = parent / f"xamc-{purpose}-{os.getpid()}-{secrets.token_hex(4)}"
        path.mkdir(mode=0o700)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if is_still(path, descriptor):
            return path, descriptor
        os.close(descriptor)


def is_still(path: Path, descriptor: int) -> bool:
    """Whether `path` is the file or folder that `descriptor` was opened as, and not removed or replaced since."""
    opened = os.fstat(descriptor)
    try:
        now = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (now.st_dev, now.st_ino) == (opened.st_dev, opened.st_ino)


@contextmanager
def _abandoned(folder: Path) -> Iterator[bool]:
    """Whether a folder of this user's is locked by nobody; it is locked inside the block, if so."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # not a folder, not ours, or gone meanwhile
        yield False
        return
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            yield False
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
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
    """Remove a folder; what can't be removed now is left to the next sweep."""
    for _ in range(_REMOVALS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.05)
