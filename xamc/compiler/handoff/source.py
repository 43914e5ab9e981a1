"""What a hand-off is made from: a build file or an artifact, with the checkpoint where the artifact lacks the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from xamc.artifact import Artifact, read_artifact
from xamc.artifact.digests import sha256_of
from xamc.artifact.manifest import MANIFEST
from xamc.compiler.frontends import Checkpoint, open_checkpoint
from xamc.compiler.frontends.checkpoint import PACKAGE_PREFIX, resolve_checkpoint
from xamc.compiler.handoff.from_ranks import checkpoint_of, why_not_whole
from xamc.compiler.spec import LoadedSpec, load_spec
from xamc.errors import InputError, MisuseError

# Larger files are compared by size alone: hashing 18 GB of weights takes longer than writing them.
_HASHED_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Source:
    """What a hand-off is made from.

    Attributes:
        loaded: its spec.
        folder: where the result lies if nobody says otherwise.
        artifact: what holds the weights, where that is no checkpoint.
    """

    loaded: LoadedSpec
    folder: Path
    artifact: Artifact | None = None

    def open(self, allow_pickle: bool = False) -> Checkpoint:
        """The model, no weight of it read."""
        if self.artifact is not None:
            return checkpoint_of(self.artifact)
        frontend = self.loaded.spec.frontend
        return open_checkpoint(frontend.checkpoint, cast(Any, frontend.type), allow_pickle)


def load_source(source: Path | Mapping[str, Any], overrides: Sequence[str], checkpoint: str | None) -> Source:
    """What a hand-off is made from.

    A VACC artifact with float16 weights holds the model itself; for others the checkpoint has to be given, unless it is
    a file of an installed package, which the artifact knows.

    Args:
        source: a build file (or the same as a mapping), or an artifact's folder.
        overrides: `key.path=value`, applied to either.
        checkpoint: where an artifact's checkpoint lies, as in `frontend.checkpoint`.

    Raises:
        MisuseError: E1455 an artifact that does not hold the model, without `checkpoint`.
        InputError: E1456 the checkpoint is not the one the artifact was made from; E1502 to E1505 a damaged artifact.
        SpecErrors: the spec is wrong.
    """
    if isinstance(source, Mapping) or not (source / MANIFEST).is_file():
        _require_spec(source)
        extra = [] if checkpoint is None else [f"frontend.checkpoint={resolve_checkpoint(checkpoint)}"]
        loaded = load_spec(source, [*overrides, *extra])
        return Source(loaded, loaded.spec.workspace.path)
    artifact = read_artifact(source)
    recorded = str(artifact.manifest.spec["frontend"]["checkpoint"])
    reason = why_not_whole(artifact)
    if checkpoint is None and reason is None:
        return _of_artifact(artifact, source, overrides, artifact)
    if checkpoint is None and not recorded.startswith(PACKAGE_PREFIX):
        raise MisuseError(
            "E1455",
            f"{source} does not hold the model: {reason}",
            fix=f"add --checkpoint FOLDER, the {recorded} that it was compiled from, or give the build.yaml instead",
        )
    path = resolve_checkpoint(checkpoint or recorded)
    _require_same_files(artifact, path)
    return _of_artifact(artifact, path, overrides)


def _of_artifact(
    artifact: Artifact, checkpoint: Path, overrides: Sequence[str], weights: Artifact | None = None
) -> Source:
    """A manifest has no folders, so what is made of an artifact lies beside it, unless an override names one."""
    loaded = load_spec(spec_of(artifact.manifest.spec, checkpoint), overrides)
    named = (loaded.values.get("workspace") or {}).get("path") is not None
    return Source(loaded, loaded.spec.workspace.path if named else artifact.path.parent, weights)


def _require_spec(source: Path | Mapping[str, Any]) -> None:
    if isinstance(source, Path) and source.is_dir():
        raise MisuseError(
            "E1455",
            f"{source} is a folder without {MANIFEST}, so it is no artifact",
            fix="give the build.yaml, or a folder that `xamc compile` made",
        )


def spec_of(recorded: Mapping[str, Any], checkpoint: Path) -> dict[str, Any]:
    """The spec in a manifest, which is resolved and without folders, in the keys of a build file."""
    frontend, backend, workspace = (dict(recorded[section]) for section in ("frontend", "backend", "workspace"))
    frontend["checkpoint"] = str(checkpoint)
    frontend["model_kwargs"] = {"tp": frontend["model_kwargs"]["tp"], **frontend["model_kwargs"]["values"]}
    if frontend.get("quantize"):
        frontend["quantize"] = _present(frontend["quantize"])
    backend |= backend.pop("values", {})
    workspace |= workspace.pop("values", {})
    workspace.pop("path", None)  # only its last part was kept
    return {
        "name": recorded["name"],
        "frontend": _present(frontend),
        "graph": recorded.get("graph") or None,
        "backend": _present(backend),
        "dataset": recorded.get("dataset") or None,
        "workspace": _present(workspace),
        "passes": _present(recorded.get("passes", {})),
    }


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value not in (None, {}, [])}


def _require_same_files(artifact: Artifact, checkpoint: Path) -> None:
    """Names and sizes of every file the artifact was made from, and digests of those below 64 MiB."""
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    for recorded in artifact.manifest.inputs:
        file = folder / recorded.name
        size = file.stat().st_size if file.is_file() else -1
        if size != recorded.nbytes or (size <= _HASHED_BYTES and sha256_of(file) != recorded.sha256):
            raise InputError(
                "E1456",
                f"{file} is not the file from which {artifact.path} was made",
                fix="give the folder of the checkpoint that the artifact was compiled from",
            )
