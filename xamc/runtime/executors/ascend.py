"""Runs an Ascend artifact's ONNX files in ONNX Runtime, the way a host would drive the .om files made of them.

It is a functional check of graphs, gears and host protocol; no NPU has a part in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xamc.artifact.gears import GEARS, GearEntry, GraphEntry, read_gears
from xamc.artifact.manifest import Manifest
from xamc.artifact.read import Artifact, check_digests
from xamc.errors import InputError, InternalError
from xamc.runtime.executor import F32, I64, Step
from xamc.runtime.executors.reference import onnxruntime_module, open_session
from xamc.runtime.threads import check_threads


@dataclass(frozen=True)
class _Drive:
    """A gear and the session of the graph that has it."""

    gear: GearEntry
    graph: GraphEntry
    session: Any


class AscendExecutor:
    """See `xamc.runtime.executor.Executor`. Slot r is row r of the KV cache, whose tensors all graphs share.

    A prompt goes through the smallest prefill gear that takes it, one sequence a call and padded to the right. All
    other tokens go through decode, one of each sequence at a time: the gear is the one with the fewest batch times
    slots that has room for the sequences, or for as many as the largest batch takes, and for the longest of them. What
    a gear's batch has more rows for than there are sequences is filled with other rows of the cache: a call writes
    behind their tokens, where the next one writes anyway. Every call returns new caches, which take the place of the
    old ones.
    """

    pages = None

    def __init__(
        self, folder: Path, manifest: Manifest, threads: int | None = None, prefault_weights: bool = False
    ) -> None:
        """Loads all graphs.

        Raises:
            InputError: E1502, gears.json is none; E1505, it or a graph has changed.
            ToolchainError: E1609, ONNX Runtime is missing or refuses a graph.
        """
        self._ort = onnxruntime_module()
        self._threads = check_threads(threads)
        artifact = Artifact(folder, manifest)
        check_digests(artifact, only={GEARS})
        gears = read_gears(folder / GEARS)
        check_digests(artifact, only={graph.file for graph in gears.graphs})
        self._rows, self._capacity = gears.rows, gears.capacity
        self._drives: dict[str, list[_Drive]] = {"prefill": [], "decode": []}
        for graph in gears.graphs:
            session = open_session(folder / graph.file, self._threads)
            self._drives[graph.kind] += [_Drive(gear, graph, session) for gear in graph.gears]
        for drives in self._drives.values():
            drives.sort(key=lambda drive: (drive.gear.batch * drive.gear.length, drive.gear.length))
        model = manifest.model
        layers = range(model.num_layers)
        self._caches = [f"cache_{part}.{layer}" for layer in layers for part in ("key", "value")]
        self._updated = [name.replace("cache_", "updated_") for name in self._caches]
        self._shape = (gears.rows, gears.capacity, model.num_kv_heads, model.head_dim)
        self._values: dict[str, Any] = {}
        self._lengths: I64 = np.zeros(gears.rows, np.int64)

    @property
    def threads(self) -> int:
        return self._threads

    @property
    def gears(self) -> dict[str, list[GearEntry]]:
        """The gears of each phase, smallest first."""
        return {kind: [drive.gear for drive in drives] for kind, drives in self._drives.items()}

    def clear(self, slot: int) -> None:
        self._lengths[slot] = 0

    def forward(self, step: Step) -> F32:
        if not self._values:
            self._values = {name: self._value(np.zeros(self._shape, np.float16)) for name in self._caches}
        batch, longest = step.input_ids.shape
        results: list[list[F32]] = [[] for _ in range(batch)]
        self._lengths[step.slots] = step.write_index
        waiting, slots = [], step.slots.tolist()
        for row, tokens in enumerate(step.lengths.tolist()):
            if step.write_index[row] == 0 and tokens > 1 and not step.all_positions and self._prefill_gear(tokens):
                results[row].append(self._prefill(slots[row], step.input_ids[row, :tokens]))
            else:
                waiting.append(row)
        for index in range(max((int(step.lengths[row]) for row in waiting), default=0)):
            active = {slots[row]: row for row in waiting if index < step.lengths[row]}
            tokens_of = {slot: int(step.input_ids[row, index]) for slot, row in active.items()}
            for slot, logits in self._decode(list(active), tokens_of):
                results[active[slot]].append(logits)
        logits = np.zeros((batch, longest if step.all_positions else 1, results[0][0].shape[-1]), np.float32)
        for row, found in enumerate(results):
            if step.all_positions:
                logits[row, : len(found)] = np.stack(found)
            else:
                logits[row, 0] = found[-1]
        return logits

    def _prefill_gear(self, tokens: int) -> _Drive | None:
        return next((drive for drive in self._drives["prefill"] if drive.gear.length >= tokens), None)

    def _prefill(self, slot: int, ids: I64) -> F32:
        """Runs a prompt of a new sequence; the logits of its last token [V]."""
        drive = self._prefill_gear(len(ids))
        assert drive is not None
        tokens = np.zeros((1, drive.gear.length), np.int64)
        tokens[0, : len(ids)] = ids
        logits = self._run(drive, tokens, np.array([slot]), np.array([len(ids)]))
        self._lengths[slot] = len(ids)
        result: F32 = logits[0]
        return result

    def _decode(self, slots: list[int], tokens: dict[int, int]) -> list[tuple[int, F32]]:
        """Runs the token of each slot, in as few calls as the gears' batches allow; (slot, logits [V])."""
        most = max(drive.gear.batch for drive in self._drives["decode"])
        found: list[tuple[int, F32]] = []
        for start in range(0, len(slots), most):
            mine = slots[start : start + most]
            drive = self._decode_gear(len(mine), int(self._lengths[mine].max()))
            part = mine[: drive.gear.batch]
            others = [slot for slot in range(self._rows) if slot not in part]
            # a full row can't be written behind; there is one only where its sequence can't go on
            others.sort(key=lambda slot: (self._lengths[slot], slot))
            index = np.array([*part, *others[: drive.gear.batch - len(part)]], np.int64)
            ids = np.array([*(tokens[slot] for slot in part), *[0] * (drive.gear.batch - len(part))], np.int64)
            valid = np.minimum(self._lengths[index], self._capacity - 1)
            logits = self._run(drive, ids[:, None], index, valid)
            self._lengths[part] += 1
            found += zip(part, logits)
            if len(part) < len(mine):
                found += self._decode(mine[len(part) :], tokens)
        return found

    def _decode_gear(self, batch: int, position: int) -> _Drive:
        """The smallest gear for a token at `position`, with room for `batch` sequences or for as many as any has.

        Raises:
            InputError: E1603, none looks at so many slots.
        """
        fitting = [drive for drive in self._drives["decode"] if drive.gear.length > position]
        if not fitting:
            raise InputError(
                "E1603",
                f"the token at position {position} has no slot; the KV cache has {self._capacity}",
                "shorten the prompt or the answer, or compile with a larger second list in frontend.shape.input_ids",
            )
        return next(
            (drive for drive in fitting if drive.gear.batch >= batch), max(fitting, key=lambda drive: drive.gear.batch)
        )

    def _run(self, drive: _Drive, tokens: I64, index: I64, valid: I64) -> F32:
        """One call; takes the new caches over and returns the logits [B, V]."""
        feeds = {"tokens": tokens, "batch_index": index, "batch_valid_length": valid}
        if "zactivate_len" in drive.graph.inputs:
            feeds["zactivate_len"] = np.zeros(drive.gear.length, np.int64)
        values = {name: self._value(array) for name, array in feeds.items()} | self._values
        try:
            logits, *updated = drive.session.run_with_ort_values(["logits", *self._updated], values)
        except Exception as error:  # ONNX Runtime's errors share no base class but this
            raise InternalError(
                "E1646",
                f"{drive.graph.file} failed in the gear of batch {drive.gear.batch} and length {drive.gear.length}",
                "report it with the artifact's manifest.json and gears.json",
                details=tuple(str(error).strip().splitlines()[-5:]),
            ) from error
        self._values = dict(zip(self._caches, updated, strict=True))
        found: F32 = logits.numpy()[:, 0].astype(np.float32)
        return found

    def _value(self, array: Any) -> Any:
        return self._ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
