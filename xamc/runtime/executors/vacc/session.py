"""VACC's graphs behind the runtime's executor: which graph serves which tokens, and what the host does in between."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xamc.artifact.manifest import Manifest
from xamc.artifact.read import Artifact, check_digests
from xamc.errors import InputError, UnsupportedError
from xamc.runtime.cpu_features import check_cpu
from xamc.runtime.executor import F32, I64, Step, forward_rows
from xamc.runtime.executors.vacc.cache import SequenceCache
from xamc.runtime.executors.vacc.graphs import VaccGraphs


class VaccExecutor:
    """See `xamc.runtime.executor.Executor`. Rows run one after the other, as every graph has a batch of one.

    A prompt goes through the shortest prefill graph that takes it, padded to the right (assumption `short-prompts`):
    when it is shorter than the graph, the prefill only fills the cache, and its last token runs once more through
    decode for its logits. Tokens beyond the longest prefill graph go through decode one by one, as those of an answer
    do. A decode step takes the shortest graph that has room for the sequence; the cache is copied when it grows.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, threads: int | None = None, prefault_weights: bool = False
    ) -> None:
        """Loads all graphs.

        Raises:
            UnsupportedError: E1607, this CPU lacks features of the simulator's code.
            InputError: E1502, E1505, E1512, E1611 or E1620, a damaged file.
            ToolchainError: E1609, code that TVM's runtime refuses.
        """
        if not manifest.graphs:
            raise InputError(
                "E1502", f"{folder} is for {manifest.target} and holds no static graphs", "compile it again"
            )
        check_cpu(manifest.cpu)
        # ranks' files are of the same size, and swapped ones make fluent nonsense; all of them are read anyway
        pieces = {name for graph in manifest.graphs for name in (graph.code, graph.graph, graph.params)}
        check_digests(Artifact(folder, manifest), only=pieces)
        self._width = manifest.output_width
        self._graphs = VaccGraphs(folder, manifest.graphs, threads)
        self._slots = [self._empty() for _ in range(manifest.max_batch)]

    pages = None

    @property
    def threads(self) -> int:
        return self._graphs.threads

    @property
    def simulated(self) -> bool:
        """Always true: no card has a part in this."""
        return self._graphs.simulated

    def clear(self, slot: int) -> None:
        self._slots[slot] = self._empty()

    def _empty(self) -> SequenceCache:
        return SequenceCache(self._graphs.ranks, self._graphs.past)

    def forward(self, step: Step) -> F32:
        def feed(row: int, tokens: int) -> F32:
            ids, start = step.input_ids[row, :tokens], int(step.write_index[row])
            return self._feed(self._slots[int(step.slots[row])], ids, start, step.all_positions)

        return forward_rows(step, feed)

    def _feed(self, cache: SequenceCache, ids: I64, start: int, all_positions: bool) -> F32:
        """Runs tokens from position `start` on.

        Returns:
            float32[T, V] for all positions, else float32[1, V].
        """
        tokens = len(ids)
        fitting = [length for length in self._graphs.lengths["prefill"] if length >= tokens]
        if start == 0 and fitting and (tokens > 1 or not self._graphs.lengths["decode"]):
            length = fitting[0]
            gives_all = self._graphs.description("prefill", length).outputs[0].shape[1] == length
            if gives_all or not all_positions:
                return self._prefill(cache, ids, length, gives_all, all_positions)
        if not self._graphs.lengths["decode"]:
            raise _no_decode(tokens, self._graphs.lengths["prefill"])
        steps = [self._decode(cache, int(token), start + index) for index, token in enumerate(ids)]
        return np.concatenate(steps if all_positions else steps[-1:])

    def _prefill(self, cache: SequenceCache, ids: I64, length: int, gives_all: bool, all_positions: bool) -> F32:
        tokens = len(ids)
        padded = np.zeros((1, length), np.int64)
        padded[0, :tokens] = ids
        logits, presents = self._graphs.prefill(length, padded)
        if self._graphs.lengths["decode"]:
            # of a prompt as long as the longest decode graph the last token has no slot, and nothing can follow it
            self._fit(cache, 0, room=min(tokens, self._graphs.lengths["decode"][-1] - 1))
            cache.fill(presents, tokens)
        if gives_all:
            return self._logits(logits[0, :tokens] if all_positions else logits[0, tokens - 1 : tokens])
        if tokens == length:
            return self._logits(logits[0])
        if not self._graphs.lengths["decode"]:
            raise _no_decode(tokens, self._graphs.lengths["prefill"])
        return self._decode(cache, int(ids[-1]), tokens - 1)

    def _decode(self, cache: SequenceCache, token: int, position: int) -> F32:
        """Runs one token that has `position` tokens before it; float32[1, V]."""
        length = self._fit(cache, position, room=position)
        mask = np.zeros((1, length), np.int64)
        mask[0, :position] = 1
        mask[0, -1] = 1
        logits, presents = self._graphs.decode(
            length, np.array([[token]], np.int64), mask, np.array([[position]], np.int64), cache.pasts
        )
        if position < self._graphs.lengths["decode"][-1] - 1:
            self._fit(cache, position, room=position + 1)  # the token in a graph's last slot is kept in a longer one
            cache.put(presents, position)
        return self._logits(logits[0])

    def _fit(self, cache: SequenceCache, tokens: int, room: int) -> int:
        """Gives the cache room for a past of `room` tokens, keeping `tokens` of them.

        Returns:
            The length of the shortest decode graph that takes such a past.

        Raises:
            InputError: E1603, there is none.
        """
        lengths = self._graphs.lengths["decode"]
        length = next((length for length in lengths if length > max(room, cache.slots)), None)
        if length is None:
            raise InputError(
                "E1603",
                f"the token at position {room} has no slot; the longest decode graph has {lengths[-1]}",
                "shorten the prompt or the answer, or compile with a larger second list in frontend.shape.input_ids",
            )
        cache.fit(self._graphs.description("decode", length).past, tokens)
        return length

    def _logits(self, logits: np.ndarray[tuple[int, ...], np.dtype[np.float16]]) -> F32:
        """float32 without the rows that pad the vocabulary; of an embedding model hidden states, which have none."""
        return logits[:, : self._width].astype(np.float32)


def _no_decode(tokens: int, lengths: tuple[int, ...]) -> UnsupportedError:
    return UnsupportedError(
        "E1621",
        f"{tokens} tokens need a decode graph, and the artifact has only prefill graphs of {list(lengths)}",
        "compile with a second list in frontend.shape.input_ids, or give as many tokens as a prefill graph takes",
    )
