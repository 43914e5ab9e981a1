"""The checkpoint inside a VACC artifact: float16 weights of all ranks, put together again without their padding."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xamc.artifact import Artifact
from xamc.artifact.digests import sha256_of
from xamc.artifact.params_index import ParamEntry, read_params_index
from xamc.compiler.frontends.checkpoint import Checkpoint, GenerationDefaults
from xamc.errors import InputError, MisuseError
from xamc.ir.weights.files import FileTensor
from xamc.ir.weights.lazy import Array, ConcatRows, LazyTensor, RowRanges, require
from xamc.ir.weights.transforms import ColumnSlice
from xamc.model.layer import HEAD_WEIGHT
from xamc.model.parameters import layer_of, parameter_shapes
from xamc.passes.graph.shard.plan import ShardPlan
from xamc.passes.graph.shard.roles import Axes, role_of
from xamc.targets.vacc.caps import CAPS
from xamc.targets.vacc.names import VOCAB_MULTIPLE


@dataclass(frozen=True)
class ConcatColumns:
    """Matrices of as many rows, one beside the other."""

    sources: tuple[LazyTensor, ...]

    def __post_init__(self) -> None:
        kinds = {(source.dtype, source.shape[0], len(source.shape)) for source in self.sources}
        require(len(kinds) == 1 and len(self.sources[0].shape) == 2, f"columns of {sorted(map(str, kinds))}")

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.sources[0].shape[0], sum(source.shape[1] for source in self.sources))

    @property
    def dtype(self) -> str:
        return self.sources[0].dtype

    def read_rows(self, start: int, stop: int) -> Array:
        return np.concatenate([source.read_rows(start, stop) for source in self.sources], axis=1)


def why_not_whole(artifact: Artifact) -> str | None:
    """Why the model can't be had from the artifact alone; None when it can."""
    manifest = artifact.manifest
    if manifest.target != CAPS.name:
        return f"its weights are in the form that {manifest.target}'s code reads"
    used = manifest.quantization.used
    if used is not None and used != "w16kv8":
        return f"its weights are rounded to int8 ({used})"
    if all(graph.kind == "prefill" for graph in manifest.graphs) and not manifest.model.tie_word_embeddings:
        return "it is an embedding model's, without lm_head"
    return None


def checkpoint_of(artifact: Artifact) -> Checkpoint:
    """The model of a VACC artifact with float16 weights, as a checkpoint whose tensors are read block by block.

    Padded heads, MLP columns and vocabulary rows are left out, replicated KV heads are taken once.

    Raises:
        MisuseError: E1455, see `why_not_whole`.
        InputError: E1456 a parameter file is not the one that was compiled; E1512 it is damaged.
    """
    reason = why_not_whole(artifact)
    if reason is not None:
        raise MisuseError("E1455", f"{artifact.path} does not hold the model: {reason}", fix="add --checkpoint FOLDER")
    manifest = artifact.manifest
    config = manifest.model
    files = [next(graph.params for graph in manifest.graphs if graph.rank == rank) for rank in range(manifest.ranks)]
    _require_intact(artifact, files)
    indices = [(artifact.file(file), read_params_index(artifact.file(file))) for file in files]
    vocab_rows = -(-config.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
    plan = ShardPlan.of(config, manifest.ranks, vocab_rows)
    tensors: dict[str, LazyTensor] = {}
    for name, shape in parameter_shapes(config).items():
        parts = [_tensor(path, index, name) for path, index in indices]
        stored = (vocab_rows, *shape[1:]) if name == HEAD_WEIGHT else shape
        tensor = _whole(name, parts, role_of(name, stored, layer_of(config), plan).axes, plan)
        tensors[name] = tensor if tensor.shape == shape else RowRanges(tensor, ((0, shape[0]),))
    template = manifest.generation.chat_template
    return Checkpoint(
        path=artifact.path,
        config=config,
        tensors=tensors,
        tokenizer=_tokenizer(artifact),
        chat_template=None if template is None else artifact.file(template).read_text(encoding="utf-8"),
        named_templates={
            name: artifact.file(path).read_text(encoding="utf-8")
            for name, path in manifest.generation.named_templates.items()
        },
        generation=GenerationDefaults(),
        files=tuple(path for path, _ in indices),
    )


def _tokenizer(artifact: Artifact) -> dict[str, Path]:
    """The tokenizer's files, less the copy of a chat template that tokenizer_config.json has as well."""
    folder = artifact.file(artifact.manifest.tokenizer)
    if not folder.is_dir():  # compiled from a checkpoint without one
        return {}
    files = {f.name: f for f in sorted(folder.iterdir()) if f.is_file()}
    config, template = files.get("tokenizer_config.json"), artifact.manifest.generation.chat_template
    if config is not None and template is not None and "chat_template" in json.loads(config.read_text("utf-8")):
        files.pop(Path(template).name, None)
    return files


def _whole(name: str, parts: Sequence[LazyTensor], axes: Axes, plan: ShardPlan) -> LazyTensor:
    """One tensor of all ranks' parts; rank 0 has what is not shared out, biases after an all-reduce among them."""
    axis = next((axis for axis, cut in enumerate(axes) if cut is not None), None)
    if axis is None or plan.tp == 1:
        return parts[0]
    cut = axes[axis]
    assert cut is not None
    pieces: list[LazyTensor] = []
    done = 0
    for share, part in zip(plan.shares, parts, strict=True):
        start, stop = share.of(cut.kind)
        if stop <= done:  # nothing but padding, or KV heads that an earlier rank has as well
            continue
        require(start == done, f"{name}: rank {share.rank} begins at {start}, not {done}")
        width = (stop - start) * cut.unit
        pieces.append(RowRanges(part, ((0, width),)) if axis == 0 else ColumnSlice(part, 0, width))
        done = stop
    return ConcatRows(tuple(pieces)) if axis == 0 else ConcatColumns(tuple(pieces))


def _tensor(path: Path, index: dict[str, ParamEntry], name: str) -> FileTensor:
    entry = index.get(name)
    if entry is None:
        raise InputError("E1456", f"{path} has no tensor {name}", fix="add --checkpoint FOLDER, or compile again")
    return FileTensor(path, entry.offset, entry.shape, entry.dtype)


def _require_intact(artifact: Artifact, files: Sequence[str]) -> None:
    """A swapped or damaged file would be compiled by the vendor's toolchain without anybody noticing."""
    wanted = {file.path: file.sha256 for file in artifact.manifest.files}
    for file in dict.fromkeys(files):
        if sha256_of(artifact.file(file)) != wanted.get(file):
            raise InputError(
                "E1456",
                f"{artifact.file(file)} is not what the manifest says",
                fix="run `xamc verify` to see what is damaged, and compile again; or add --checkpoint FOLDER",
            )
