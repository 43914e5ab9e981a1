"""What a hand-off is made from: a build file, or an artifact together with the checkpoint that it was compiled from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xamc.compiler.artifact import Artifact, read_artifact, sha256_of
from xamc.compiler.artifact.manifest import MANIFEST
from xamc.compiler.errors import InputError, MisuseError
from xamc.compiler.frontends.checkpoint import resolve_checkpoint
from xamc.compiler.spec import LoadedSpec, load_spec

# Larger files are compared by size alone: hashing 18 GB of weights takes longer than writing them.
_HASHED_BYTES = 64 * 2**20


def load_source(source: Path | Mapping[str, Any], overrides: Sequence[str], checkpoint: str | None) -> LoadedSpec:
    """The spec of a hand-off.

    Args:
        source: a build file (or the same as a mapping), or an artifact's folder.
        overrides: `key.path=value`, applied to either.
        checkpoint: where an artifact's checkpoint lies, as in `frontend.checkpoint`; an artifact holds packed weights.

    Raises:
        MisuseError: E1455 an artifact without `checkpoint`.
        InputError: E1456 the checkpoint is not the one the artifact was made from; E1502 to E1505 a damaged artifact.
        SpecErrors: the spec is wrong.
    """
    if isinstance(source, Mapping) or not (source / MANIFEST).is_file():
        extra = [] if checkpoint is None else [f"frontend.checkpoint={resolve_checkpoint(checkpoint)}"]
        return load_spec(source, [*overrides, *extra])
    artifact = read_artifact(source)
    if checkpoint is None:
        raise MisuseError(
            "E1455",
            f"{source} is an artifact, which holds packed weights and not the checkpoint",
            fix="add --checkpoint FOLDER, or give the build.yaml instead of the artifact",
        )
    path = resolve_checkpoint(checkpoint)
    _require_same_files(artifact, path)
    return load_spec(spec_of(artifact.manifest.spec, path), overrides)


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
