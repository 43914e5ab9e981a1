"""Reading an artifact, and telling which of its files are damaged."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xamc.artifact.digests import sha256_of
from xamc.artifact.manifest import MANIFEST, FileDigest, Manifest
from xamc.artifact.manifest_file import loads
from xamc.errors import InputError

if TYPE_CHECKING:
    from xamc.artifact.onnx_manifest import OnnxManifest


@dataclass(frozen=True)
class Artifact:
    """An artifact folder and its checked manifest."""

    path: Path
    manifest: Manifest

    def file(self, path: str) -> Path:
        """The place of one of the artifact's files."""
        return self.path / path


@dataclass(frozen=True)
class OnnxArtifact:
    """The folder of an artifact that holds one graph and no language model, and its checked manifest."""

    path: Path
    manifest: OnnxManifest

    def file(self, path: str) -> Path:
        """The place of one of the artifact's files."""
        return self.path / path


AnyArtifact = Artifact | OnnxArtifact


@dataclass(frozen=True)
class Damage:
    """A file of an artifact that is not what the manifest says."""

    path: str
    problem: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


def read_artifact(path: Path | str) -> Artifact:
    """Open a language model's artifact; see `read_any`.

    Raises:
        InputError: E1640 the artifact holds a graph; E1502, E1504, E1505.
        UnsupportedError: E1503.
    """
    artifact = read_any(path)
    if isinstance(artifact, OnnxArtifact):
        raise InputError(
            "E1640",
            f"{path} holds the graph {artifact.manifest.name}, not a language model: it takes "
            f"{', '.join(tensor.name for tensor in artifact.manifest.graph_inputs)}, no prompt",
            fix="use xamc run ARTIFACT --inputs FILE.npz, or GraphModel.run(feeds) in Python",
        )
    return artifact


def read_onnx_artifact(path: Path | str) -> OnnxArtifact:
    """Open a graph's artifact; see `read_any`.

    Raises:
        InputError: E1641 the artifact holds a language model; E1502, E1504, E1505.
        UnsupportedError: E1503.
    """
    artifact = read_any(path)
    if isinstance(artifact, Artifact):
        raise InputError(
            "E1641",
            f"{path} holds the language model {artifact.manifest.name}, which takes a prompt and no named inputs",
            fix='use xamc run ARTIFACT --prompt "...", or Model.generate in Python',
        )
    return artifact


def read_any(path: Path | str) -> AnyArtifact:
    """Open an artifact: read the manifest, and check that every file is there with its size.

    A cut-off weights file would otherwise show as SIGBUS in the middle of a run. Digests are for `verify_digests`.

    Raises:
        InputError: E1502 a damaged manifest, E1504 not an artifact, E1505 missing files or files of another size.
        UnsupportedError: E1503 another format version.
    """
    folder = Path(path)
    manifest_path = folder / MANIFEST
    try:
        text = manifest_path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        what = f"{folder} does not exist" if not folder.exists() else f"{folder} has no {MANIFEST}"
        raise InputError(
            "E1504",
            f"{what}, so it is no artifact",
            fix="give the folder that `xamc compile` printed at its end",
        ) from None
    except UnicodeDecodeError as error:
        raise InputError("E1502", f"{manifest_path} is not UTF-8: {error}", fix="compile the model again") from None
    manifest = loads(text, manifest_path)
    artifact: AnyArtifact
    artifact = Artifact(folder, manifest) if isinstance(manifest, Manifest) else OnnxArtifact(folder, manifest)
    refuse(artifact, [damage for file in artifact.manifest.files if (damage := _size_damage(artifact, file))])
    return artifact


def verify_digests(
    artifact: AnyArtifact,
    progress: Callable[[FileDigest], None] = lambda file: None,
    only: Collection[str] | None = None,
) -> tuple[Damage, ...]:
    """Read files again and compare them with their digests; what is linked to several places is read once.

    Args:
        artifact: whose files.
        progress: called before each file.
        only: paths as in the manifest; None for all of its files.
    """
    found = []
    known: dict[tuple[int, int], str] = {}
    for file in artifact.manifest.files:
        if only is not None and file.path not in only:
            continue
        progress(file)
        damage = _size_damage(artifact, file)
        if damage is None:
            path = artifact.file(file.path)
            status = path.stat()
            inode = status.st_dev, status.st_ino
            if inode not in known:
                known[inode] = sha256_of(path)
            if known[inode] != file.sha256:
                damage = Damage(file.path, "its content changed (SHA-256 differs)")
        if damage is not None:
            found.append(damage)
    return tuple(found)


def check_digests(
    artifact: AnyArtifact,
    progress: Callable[[FileDigest], None] = lambda file: None,
    only: Collection[str] | None = None,
) -> None:
    """Like `verify_digests`, raising for damage.

    Raises:
        InputError: E1505, with one line per damaged file.
    """
    refuse(artifact, list(verify_digests(artifact, progress, only)))


def _size_damage(artifact: AnyArtifact, file: FileDigest) -> Damage | None:
    try:
        nbytes = artifact.file(file.path).stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return Damage(file.path, "missing")
    return None if nbytes == file.nbytes else Damage(file.path, f"{nbytes} bytes, expected {file.nbytes}")


def refuse(artifact: AnyArtifact, damages: list[Damage]) -> None:
    """Raises for damage, if there is any.

    Raises:
        InputError: E1505, with one line per damaged file.
    """
    if damages:
        raise InputError(
            "E1505",
            f"{artifact.path} is damaged: {len(damages)} of {len(artifact.manifest.files)} files "
            f"({', '.join(damage.path for damage in damages[:3])}{', ...' if len(damages) > 3 else ''})",
            fix="compile the model again, or copy the artifact again from where it is whole",
            details=tuple(map(str, damages)),
        )
