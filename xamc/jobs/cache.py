"""The stage cache: what a stage made, kept under a key that names everything it was made from.

A key is the stage's name and a hash of the modules that the stage runs (computed from their imports, see
`import_closure`), the versions of the libraries that those import, and its inputs, so a change of the documentation or
of another stage drops nothing. Entries are folders, published by one rename; artifacts share
their files by hard links, so files of an entry are read-only and never changed.

Layout of the cache folder (``$XAMC_CACHE``, else ``$XDG_CACHE_HOME/xamc``, else ``~/.cache/xamc``)::

    v1/<stage>-<key>/...            the stage's files
    v1/<stage>-<key>/entry.json     their sizes and digests, written last; its mtime is the time of last use
    locks/<stage>-<key>             held by the process that builds the entry; others wait for it
    users                           held (shared) by every running compile, so that `prune` takes nothing in use
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from xamc.artifact.digests import sha256_of
from xamc.artifact.manifest import FileDigest
from xamc.artifact.records import RecordError, from_json, to_json
from xamc.artifact.staging import StagingFolder, disk_errors, is_still, sweep, sweep_locks, sweep_temporary
from xamc.errors import InputError
from xamc.jobs.import_closure import import_closure, own_digest

ENTRY = "entry.json"
_LAYOUT = "v1"
_DISTRIBUTIONS = {"tvm": "apache-tvm", "tvm_ffi": "apache-tvm-ffi", "yaml": "PyYAML"}
# results; what lies beside them (a log, a child's answer with its times) differs from run to run
_OUTPUT_SUFFIXES = (".onnx", ".so", ".bin", ".params", ".safetensors")


@dataclass(frozen=True)
class StageKey:
    """Names one result of one stage; build it with `stage_key`.

    `parts` says what it was made from, each as a version or the beginning of a digest: ``tool torch``, ``source
    xamc.compiler.export``, ``input config``. `xamc diff` compares them.
    """

    stage: str
    digest: str
    parts: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        return f"{self.stage}-{self.digest[:32]}"


@dataclass(frozen=True)
class Entry:
    """What `entry.json` holds."""

    stage: str
    key: str
    files: tuple[FileDigest, ...]


@dataclass(frozen=True)
class CacheInfo:
    """Sizes in bytes; `shared` is what artifacts hold too (hard links), so removing it here frees nothing."""

    path: Path
    entries: int
    nbytes: int
    shared: int
    stages: Mapping[str, int]


def stage_key(
    stage: str, maker: str, runs: Sequence[str], inputs: Mapping[str, Any], tools: Sequence[str] = ()
) -> StageKey:
    """The key of a stage's result.

    Args:
        stage: the stage's name, for example ``export``.
        maker: the module that asks for the key and hands the stage its request; its own source counts.
        runs: what does the work: modules, or functions as `run_child` names them. Everything they import counts.
        inputs: what the stage is given: digests, keys of earlier stages, the slice of the spec it reads.
            Plain JSON values only, so that a forgotten object can't enter by its address.
        tools: names of distributions that matter though none of the modules imports them.
    """
    closure = import_closure(runs)
    sources = {**closure.sources(), "the stage itself": own_digest(maker)}
    versions = {name: tool_version(name) for name in sorted({*map(distribution, closure.libraries), *tools})}
    content: dict[str, Any] = {"stage": stage, "source": sources, "tools": versions, "inputs": inputs}
    parts = {f"source {package}": digest[:16] for package, digest in sources.items()}
    parts |= {f"tool {tool}": version for tool, version in versions.items()}
    parts |= {f"input {name}": _json_digest(value)[:16] for name, value in inputs.items()}
    return StageKey(stage, _json_digest(content), parts)


def _json_digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def distribution(library: str) -> str:
    """The distribution that installs a top-level module; most are named alike."""
    return _DISTRIBUTIONS.get(library, library.replace("_", "-"))


def tool_version(distribution: str) -> str:
    """The installed version of a distribution, or ``absent``."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def default_cache_folder() -> Path:
    """``$XAMC_CACHE``, else ``xamc`` in the XDG cache folder."""
    if chosen := os.environ.get("XAMC_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "xamc"


class StageCache:
    """Finds and keeps the results of stages; use it as a context manager for the length of a compile.

    A cache that can't be used (a read-only folder, a file in its place) costs time, not the compile: `warn` says so
    once, and results go to a scratch folder that lives as long as this object. So it is with ``enabled=False``.

    Attributes:
        hits, misses: keys that were found, and that were built.
        made: stage → what it was made from and what came out, for `xamc diff`.
    """

    def __init__(
        self,
        scratch: Path,
        folder: Path | None = None,
        enabled: bool = True,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Open the cache.

        Args:
            scratch: an existing or new folder on the artifact's file system, for results when there is no cache.
            folder: the cache's folder; `default_cache_folder` when None.
            enabled: False neither reads nor fills the cache (``--no-cache``).
            warn: called with one sentence when the cache can't be used as wished.
        """
        self.folder = folder or default_cache_folder()
        self.hits: list[StageKey] = []
        self.misses: list[StageKey] = []
        self.made: dict[str, dict[str, Any]] = {}
        self._warn = warn
        self._scratch_parent = scratch
        self._scratch: StagingFolder | None = None
        self._users = -1
        # what killed compiles have left: beside the artifact, in the system's temporary folder, and in the cache
        sweep(scratch)
        sweep_temporary()
        self._readable = enabled
        self._writable = enabled and self._open()

    def __enter__(self) -> StageCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let `prune` have the entries again, and remove the scratch folder."""
        if self._users >= 0:
            os.close(self._users)
            self._users = -1
        if self._scratch is not None:
            self._scratch.discard()
            self._scratch = None

    def state(self, *stages: str) -> str:
        """``cached`` when all results of some stages were found, else ``ok``."""
        if any(key.stage in stages for key in self.misses):
            return "ok"
        return "cached" if any(key.stage in stages for key in self.hits) else "ok"

    def get(self, key: StageKey) -> Path | None:
        """The folder of a kept result, or None; a damaged entry is named, dropped and counts as absent."""
        folder = self._entry_folder(key)
        if not self._readable or not folder.is_dir():
            return None
        problem = _problem(folder, key)
        if problem is not None:
            self._warn(f"cache entry {key} is damaged ({problem}); the stage runs again")
            if self._writable:
                shutil.rmtree(folder, ignore_errors=True)
            return None
        if self._writable:
            os.utime(folder / ENTRY)
        self.hits.append(key)
        self._remember(key, folder)
        return folder

    def publish(self, key: StageKey, build: Callable[[Path], None]) -> Path:
        """The folder of the result of `key`, built by `build` unless another process builds it meanwhile.

        Args:
            key: what `get` was asked for.
            build: writes the result's files into the empty folder it is given.

        Raises:
            InputError: E1506 the disk is full. Errors of `build` pass through; then nothing is kept.
        """
        if not self._writable:
            self.misses.append(key)
            return self._build(key, build, self._scratch_folder() / str(key))
        with self._key_lock(key):
            found = self.get(key)
            if found is not None:
                return found
            self.misses.append(key)
            return self._build(key, build, self._entry_folder(key))

    def digests(self, folder: Path) -> dict[str, FileDigest]:
        """Digests of an entry's files by relative path, as they were when it was made."""
        return {file.path: file for file in _read_entry(folder).files}

    def _build(self, key: StageKey, build: Callable[[Path], None], folder: Path) -> Path:
        with StagingFolder(folder) as staging:
            with disk_errors(folder):
                build(staging.folder)
                names = sorted(path for path in staging.folder.rglob("*") if path.is_file())
                files = []
                for path in names:
                    path.chmod(0o444)
                    relative = path.relative_to(staging.folder).as_posix()
                    files.append(FileDigest(relative, path.stat().st_size, sha256_of(path)))
                entry = Entry(key.stage, key.digest, tuple(files))
                (staging.folder / ENTRY).write_text(json.dumps(to_json(entry)), encoding="utf-8")
            staging.put_in_place()
        self._remember(key, folder)
        return folder

    def _remember(self, key: StageKey, folder: Path) -> None:
        outputs = {f.path: f.sha256 for f in _read_entry(folder).files if f.path.endswith(_OUTPUT_SUFFIXES)}
        # a stage that makes several results, one per bucket and rank, has a number appended
        taken = [name for name in self.made if name.partition(" ")[0] == key.stage]
        name = f"{key.stage} {len(taken) + 1}" if taken else key.stage
        self.made[name] = {"key": key.digest, "parts": dict(key.parts), "outputs": outputs}

    def _entry_folder(self, key: StageKey) -> Path:
        return self.folder / _LAYOUT / str(key)

    def _open(self) -> bool:
        """Make the cache's folders and join its users; False (and a warning) when that can't be."""
        try:
            for name in (_LAYOUT, "locks"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
                if not os.access(self.folder / name, os.W_OK | os.X_OK):
                    raise PermissionError(13, "not writable", str(self.folder / name))
            self._users = os.open(self.folder / "users", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            self._use_read_only()
            use = (
                "its entries are used, new ones are not kept" if (self.folder / _LAYOUT).is_dir() else "it is not used"
            )
            self._warn(f"the stage cache {self.folder} can't be written ({error.strerror}); {use}")
            return False
        fcntl.flock(self._users, fcntl.LOCK_SH)
        sweep(self.folder / _LAYOUT)
        sweep_locks(self.folder / "locks")
        return True

    def _use_read_only(self) -> None:
        """Keep another process from pruning what is read, where the cache can be opened at all."""
        try:
            self._users = os.open(self.folder / "users", os.O_RDONLY)
            fcntl.flock(self._users, fcntl.LOCK_SH)
        except OSError:  # nobody has ever used it, so nobody prunes it
            return

    def _scratch_folder(self) -> Path:
        if self._scratch is None:
            # Never published; a staging folder because a killed compile's is swept by the next one.
            self._scratch = StagingFolder(self._scratch_parent / "scratch")
        return self._scratch.folder / _LAYOUT  # a level below, as the staging folder itself is locked

    @contextmanager
    def _key_lock(self, key: StageKey) -> Iterator[None]:
        path = self.folder / "locks" / str(key)
        while True:
            with disk_errors(self.folder):
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._warn(f"another compile is making {key}; waiting for it")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if is_still(path, descriptor):
                break
            os.close(descriptor)  # the one we waited for has removed it
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)


def is_kept(key: str, folder: Path | None = None) -> bool:
    """Whether the cache holds the result of a key, given as text; nothing is opened or checked."""
    return ((folder or default_cache_folder()) / _LAYOUT / key / ENTRY).is_file()


def holds_file(stage: str, name: str, nbytes: int, folder: Path | None = None) -> bool:
    """Whether some result of a stage has a file of this name and size."""
    root = (folder or default_cache_folder()) / _LAYOUT
    return any(path.stat().st_size == nbytes for path in root.glob(f"{stage}-*/{name}"))


def cache_info(folder: Path | None = None) -> CacheInfo:
    """Sizes of the cache by stage; an absent cache is an empty one."""
    root = folder or default_cache_folder()
    stages: dict[str, int] = {}
    count = nbytes = shared = 0
    for folder in _entries(root):
        size, linked = _sizes(folder)
        stage = folder.name.rpartition("-")[0]
        stages[stage] = stages.get(stage, 0) + size
        count, nbytes, shared = count + 1, nbytes + size, shared + linked
    return CacheInfo(root, count, nbytes, shared, stages)


def prune(max_bytes: int, folder: Path | None = None) -> CacheInfo:
    """Remove the entries used longest ago until the cache holds at most `max_bytes`; what is left is returned.

    Raises:
        InputError: E1508 a compile is using the cache; E1507 the cache can't be written.
    """
    root = folder or default_cache_folder()
    if not root.is_dir():
        return cache_info(root)
    with disk_errors(root):
        users = os.open(root / "users", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                "E1508", f"a compile is using the stage cache {root}", fix="prune again when it has ended"
            ) from None
        with disk_errors(root):
            total = sum(_sizes(folder)[0] for folder in _entries(root))
            for folder in sorted(_entries(root), key=_last_use):
                if total <= max_bytes:
                    break
                total -= _sizes(folder)[0]
                shutil.rmtree(folder)
            sweep(root / _LAYOUT)
            sweep_locks(root / "locks")
    finally:
        os.close(users)
    return cache_info(root)


def _entries(root: Path) -> list[Path]:
    return sorted(folder for folder in root.glob(f"{_LAYOUT}/[!.]*") if folder.is_dir())


def _last_use(folder: Path) -> float:
    entry = folder / ENTRY
    return entry.stat().st_mtime if entry.exists() else 0.0


def _sizes(folder: Path) -> tuple[int, int]:
    """Bytes of an entry's files, and those of them that have further hard links."""
    status = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum(s.st_size for s in status), sum(s.st_size for s in status if s.st_nlink > 1)


def _read_entry(folder: Path) -> Entry:
    return from_json(Entry, json.loads((folder / ENTRY).read_text(encoding="utf-8")))


def _problem(folder: Path, key: StageKey) -> str | None:
    """Why an entry can't be used, judged by names and sizes; reading gigabytes on every hit would be no cache."""
    try:
        entry = _read_entry(folder)
        if entry.key != key.digest:
            return "it belongs to another key"
        for file in entry.files:
            if (folder / file.path).stat().st_size != file.nbytes:
                return f"{file.path} has another size"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, RecordError) as error:
        return str(error)
    return None
