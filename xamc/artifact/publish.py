"""Writing an artifact: built aside, hashed, flushed, and published by one rename."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from xamc.artifact.digests import sha256_of
from xamc.artifact.manifest import MANIFEST, REPORT, FileDigest, Manifest
from xamc.artifact.manifest_file import dumps, loads
from xamc.artifact.onnx_manifest import OnnxManifest
from xamc.artifact.staging import StagingFolder, disk_errors, refuse_foreign
from xamc.errors import InputError, InternalError, MisuseError

M = TypeVar("M", Manifest, OnnxManifest)

_PATH_KEYS = (("frontend", "checkpoint"), ("dataset", "path"), ("workspace", "path"))


class ArtifactWriter(StagingFolder):
    """Builds an artifact folder; write large files straight into `folder`, then call `seal`::

        with ArtifactWriter(Path("vacc_deploy/smollm2")) as writer:
            writer.add_file("code/model.so", cached_so)
            writer.publish(manifest, report)

    Attributes:
        copied: files that had to be copied, because they lie on another file system than the artifact.
    """

    def __init__(self, destination: Path) -> None:
        """Prepare the folder beside `destination`, which is followed if it is a symbolic link.

        Raises:
            InputError: E1501 the destination holds something other than an artifact of ours; E1506, E1507.
            MisuseError: E1525 SOURCE_DATE_EPOCH is not a number.
        """
        self._date = source_date()
        self.copied: list[str] = []
        self._files: dict[str, FileDigest] = {}
        super().__init__(Path(os.path.realpath(destination)), check_replaceable)

    @property
    def nbytes(self) -> int:
        """Bytes of all files added so far; a file that is there under several names counts once."""
        return distinct_bytes(self.folder, self._files.values())

    def seal(self, path: str) -> FileDigest:
        """Record a file that was written below `folder`, and make it read-only."""
        if path in (MANIFEST, REPORT):
            raise InternalError("E1509", f"{path} is written by `publish`, not added")
        file = self.folder / path
        file.chmod(0o444)
        self._files[path] = FileDigest(path, file.stat().st_size, sha256_of(file))
        return self._files[path]

    def add_bytes(self, path: str, content: bytes) -> None:
        """Add a small file from memory."""
        with disk_errors(self.destination):
            target = self._new(path)
            target.write_bytes(content)
        self.seal(path)

    def add_file(self, path: str, source: Path, known: FileDigest | None = None) -> None:
        """Add a file by a hard link; only across file systems is it copied (and listed in `copied`).

        Args:
            path: where in the artifact.
            source: an existing file that nobody will change any more: a stage cache's.
            known: its digest, if it was already computed, so that gigabytes are not read again.
        """
        with disk_errors(self.destination):
            target = self._new(path)
            if not link_or_copy(source, target):
                self.copied.append(path)
        if known is None:
            self.seal(path)
        else:
            self._files[path] = FileDigest(path, known.nbytes, known.sha256)

    def publish(self, manifest: M, report: Mapping[str, Any]) -> M:
        """Write the manifest with the digests of all files, and the report; then put the artifact in place.

        Returns:
            The manifest as written.

        Raises:
            InputError: E1501 the destination became something else meanwhile; E1506, E1507.
            InternalError: E1509 the manifest names a file that was never added.
        """
        complete = replace(manifest, files=tuple(self._files[path] for path in sorted(self._files)))
        missing = complete.needed_files() - set(self._files)
        if missing:
            raise InternalError("E1509", f"the manifest names {sorted(missing)}, never added")
        with disk_errors(self.destination):
            (self.folder / MANIFEST).write_text(dumps(complete), encoding="utf-8")
            shown = report if self._date is None else reproducible(report)
            text = json.dumps(shown, indent=1, ensure_ascii=False, default=str)
            (self.folder / REPORT).write_text(text + "\n", encoding="utf-8")
            if self._date is not None:
                _set_dates(self.folder, self._date)
        self.put_in_place()
        return complete

    def _new(self, path: str) -> Path:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target


def source_date() -> int | None:
    """Seconds since 1970 of ``SOURCE_DATE_EPOCH`` (https://reproducible-builds.org/specs/source-date-epoch/), or None.

    Raises:
        MisuseError: E1525 it is set to something else than a number.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 12:
        raise MisuseError(
            "E1525",
            f"SOURCE_DATE_EPOCH is {text!r}, not a number of seconds since 1970",
            fix="set it as in SOURCE_DATE_EPOCH=$(git log -1 --format=%ct), or unset it",
        )
    return int(text)


def reproducible(report: Mapping[str, Any]) -> dict[str, Any]:
    """A build report without what differs from run to run: times, memory, what the cache had, and warnings of it."""

    def kept(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: kept(item) for key, item in value.items() if not _is_transient(key)}
        return [kept(item) for item in value] if isinstance(value, list | tuple) else value

    result: dict[str, Any] = kept(report)
    if "made" in result:  # stages may end in another order
        result["made"] = dict(sorted(result["made"].items()))
    return result


def _is_transient(key: object) -> bool:
    """Whether a value follows from the moment, the machine's state, or (keys of the stage cache) a path."""
    return isinstance(key, str) and (
        key.endswith("seconds") or key.startswith("input ") or key in ("peak_bytes", "state", "warnings", "key")
    )


def _set_dates(folder: Path, date: int) -> None:
    for root, _, names in os.walk(folder, topdown=False):
        for path in (*(Path(root) / name for name in names), Path(root)):
            with contextlib.suppress(PermissionError):  # linked from a stage cache of another user's
                os.utime(path, (date, date))


def distinct_bytes(folder: Path, files: Iterable[FileDigest]) -> int:
    """What an artifact's files take on disk: hard links to one file, such as merged parameters, count once."""
    found = {}
    for file in files:
        status = (folder / file.path).stat()
        found[status.st_dev, status.st_ino] = file.nbytes
    return sum(found.values())


def check_replaceable(destination: Path) -> None:
    """Refuse to replace anything but nothing, an empty folder, or an artifact with no foreign files in it.

    Raises:
        InputError: E1501.
    """
    fix = "choose another folder (-o, or workspace.path and name in the spec), or move this one away yourself"

    def known(present: set[str]) -> set[str]:
        path = destination / MANIFEST
        if MANIFEST not in present:
            raise InputError("E1501", f"{destination} has no {MANIFEST}, so it is no artifact of xamc's", fix=fix)
        try:
            manifest = loads(path.read_text(encoding="utf-8"), path)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError("E1501", f"{path} can't be read: {error}", fix=fix) from None
        except InputError as error:
            message = f"{destination} is no artifact of this xamc's: {error.message}"
            raise InputError("E1501", message, fix=fix) from None
        return {MANIFEST, REPORT, *(file.path for file in manifest.files)}

    refuse_foreign(destination, "artifact", "E1501", fix, known)


def link_or_copy(source: Path, target: Path) -> bool:
    """Hard-link `source` to `target`; copy where the file system can't. Returns whether it was linked."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        shutil.copyfile(source, target)
        target.chmod(0o444)
        return False
    return True


def portable_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved spec with every path cut to its last part, as two machines must make the same manifest."""
    result = {key: dict(value) if isinstance(value, Mapping) else value for key, value in spec.items()}
    for section, key in _PATH_KEYS:
        value = result.get(section)
        if isinstance(value, dict) and isinstance(value.get(key), (str, os.PathLike)):
            path = os.fspath(value[key])
            value[key] = path if path.startswith("package:") else Path(path).name
    return result
