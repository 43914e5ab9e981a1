"""`manifest.json` as text: written so that equal manifests give equal bytes, and read with every record checked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from xamc.artifact.manifest import FORMAT_VERSION, Manifest
from xamc.artifact.onnx_manifest import OnnxManifest
from xamc.artifact.records import RecordError, from_json, to_json
from xamc.errors import InputError, UnsupportedError


def dumps(manifest: Manifest | OnnxManifest) -> str:
    """The manifest's text: keys sorted, one per line, ending in a newline; equal manifests give equal bytes."""
    return json.dumps(to_json(manifest), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def digest(manifest: Manifest | OnnxManifest) -> str:
    """SHA-256 of the manifest's text; as it lists every file's digest, it names the whole artifact."""
    return hashlib.sha256(dumps(manifest).encode()).hexdigest()


def loads(text: str, path: Path) -> Manifest | OnnxManifest:
    """Parse and check a manifest's text, a language model's or a graph's; `path` is named in errors.

    Raises:
        InputError: E1502 not JSON or not fitting the format.
        UnsupportedError: E1503 a format version this xamc does not read.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InputError(
            "E1502", f"{path} is not JSON: {error}", fix="compile the model again; the file was changed or cut off"
        ) from None
    version = value.get("format_version") if isinstance(value, dict) else None
    if isinstance(version, int) and version != FORMAT_VERSION:
        raise UnsupportedError(
            "E1503",
            f"{path} has format version {version}; this xamc reads version {FORMAT_VERSION}",
            fix="compile the model again with this xamc, or run it with the xamc that made it",
        )
    try:
        if isinstance(value, dict) and value.get("kind") == "graph":
            return from_json(OnnxManifest, value)
        return from_json(Manifest, value)
    except RecordError as error:
        raise InputError(
            "E1502", f"{path}: {error}", fix="compile the model again; the file was changed or damaged"
        ) from None
