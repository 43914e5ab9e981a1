"""Publishing: the manifest, the files, the golden logits, and one rename."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xamc
from xamc.artifact.digests import sha256_of
from xamc.artifact.golden import GOLDEN_FOLDER, Golden, golden_files
from xamc.artifact.manifest import MANIFEST, Generation, InputDigest, Manifest, Quantization
from xamc.artifact.manifest_file import dumps
from xamc.artifact.publish import ArtifactWriter, portable_spec
from xamc.artifact.staging import locked
from xamc.compiler.frontends import Checkpoint
from xamc.compiler.frontends.tokenizers.chat_templates import TEMPLATES
from xamc.compiler.spec.model import Spec
from xamc.compiler.stages.job import Job
from xamc.jobs.cache import tool_version
from xamc.targets.target import Built

TOKENIZER = "tokenizer"
CHAT_TEMPLATE = "chat_template.jinja"
_TOOLS = ("apache-tvm", "apache-tvm-ffi", "torch", "transformers", "onnx", "onnx-ir", "onnxscript", "numpy")


def fill(
    job: Job, spec: Spec, checkpoint: Checkpoint, quantization: Quantization, built: Built, writer: ArtifactWriter
) -> Manifest:
    """Adds all files but golden ones to `writer`, with a manifest beside them, so that the folder can be run.

    What the artifact holds under several names is there once: all but the first are hard links to it.

    Returns:
        The manifest, still without digests of files.
    """
    placed: dict[Path, Path] = {}
    for name, content in built.files.items():
        if isinstance(content, bytes):
            writer.add_bytes(name, content)
        elif content == writer.folder / name:
            writer.seal(name)
        else:
            # digests were taken when the cache entry was made; gigabytes are not read again
            known = job.cache.digests(content.parent).get(content.name)
            # not to the cache's file, which may lie on another file system and would be copied each time
            writer.add_file(name, placed.get(content, content), known)
            placed.setdefault(content, writer.folder / name)
    fields = common_fields(job, spec, checkpoint, writer)
    manifest = Manifest(**fields, **built.fields, quantization=quantization)
    (writer.folder / MANIFEST).write_text(dumps(manifest), encoding="utf-8")
    return manifest


def common_fields(job: Job, spec: Spec, checkpoint: Checkpoint, writer: ArtifactWriter) -> dict[str, Any]:
    """Adds the tokenizer's files to `writer`; returns the fields of the manifest that are the same for every target."""
    for name, content in checkpoint.tokenizer.items():
        data = content if isinstance(content, bytes) else Path(content).read_bytes()
        writer.add_bytes(f"{TOKENIZER}/{name}", data)
    template = None
    if checkpoint.chat_template is not None:
        template = f"{TOKENIZER}/{CHAT_TEMPLATE}"
        if CHAT_TEMPLATE not in checkpoint.tokenizer:
            writer.add_bytes(template, checkpoint.chat_template.encode())
    named = {name: f"{TOKENIZER}/{TEMPLATES}/{name}.jinja" for name in sorted(checkpoint.named_templates)}
    for name, path in named.items():
        writer.add_bytes(path, checkpoint.named_templates[name].encode())
    config = checkpoint.config
    stop = checkpoint.generation.stop_strings
    return {
        "name": spec.name,
        "target": spec.backend.type,
        "xamc_version": xamc.__version__,
        "spec": portable_spec(spec.to_dict() | {"source": None}),
        "model": config,
        "tokenizer": TOKENIZER,
        "generation": Generation(config.bos_token_id, config.eos_token_ids, template, named, stop),
        "inputs": _inputs(job, checkpoint),
        "tools": {tool: tool_version(tool) for tool in _TOOLS},
    }


def add_golden(writer: ArtifactWriter, golden: Golden) -> str:
    """Adds the golden files and returns their folder's name."""
    for name, content in golden_files(golden).items():
        writer.add_bytes(f"{GOLDEN_FOLDER}/{name}", content)
    return GOLDEN_FOLDER


def _inputs(job: Job, checkpoint: Checkpoint) -> tuple[InputDigest, ...]:
    """Digests of the checkpoint's files, kept beside the cache by (path, size, mtime), as they may be gigabytes."""
    memo_file = job.cache.folder / "digests.json"
    memo = _memo(memo_file)
    known = len(memo)
    digests = []
    for path in checkpoint.files:
        status = path.stat()
        key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"
        if key not in memo:
            memo[key] = sha256_of(path)
        digests.append(InputDigest(path.name, status.st_size, memo[key]))
    if len(memo) > known:
        _keep(memo_file, memo)
    return tuple(sorted(digests, key=lambda digest: digest.name))


def _memo(file: Path) -> dict[str, str]:
    """What `_keep` wrote; nothing where that is missing or damaged, which only means that files are hashed again."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _keep(file: Path, memo: Mapping[str, str]) -> None:
    try:
        with locked(file.parent):  # another compile writes it too, under the same temporary name
            partial = file.with_suffix(".tmp")
            try:
                partial.write_text(json.dumps({**_memo(file), **memo}), encoding="utf-8")
                partial.replace(file)
            finally:
                partial.unlink(missing_ok=True)
    except OSError:
        # a read-only, full or absent cache only means that the files are hashed again next time
        return
