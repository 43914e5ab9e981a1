"""Runs every gear of a graph on cache rows, on the twin, against the exported program it was made from.

The twin's graph has the real graph's cache, batch and lengths, and goes through the real graph's passes, so that every
size that a gear can take is run once before an NPU sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from xamc.artifact.gears import GearEntry
from xamc.errors import InternalError
from xamc.ir.program import Program
from xamc.ir.tolerances import tolerance
from xamc.model.kv_cache import past_key, past_value
from xamc.model.rope import rope_table
from xamc.passes.protocol import GraphPass
from xamc.passes.runner import run_passes
from xamc.verify.metrics import Array, relative_error
from xamc.verify.oracle import Oracle, materialize

TOLERANCE = "gears_float16"


@dataclass(frozen=True)
class GearProof:
    """What one gear showed.

    Attributes:
        graph: its file, without .onnx.
        gear: the sizes.
        deviation: largest relative error of logits and of what was written to the caches; None when it was not run.
        not_run: why not.
    """

    graph: str
    gear: GearEntry
    deviation: float | None
    not_run: str = ""


def prove_gears(
    name: str,
    kind: Literal["prefill", "decode"],
    gears: Sequence[GearEntry],
    original: Program,
    make: Callable[[], Sequence[GraphPass]],
    cache: tuple[int, int],
    most_bytes: int,
) -> list[GearProof]:
    """Runs every gear of one graph.

    Args:
        name: of the graph, for messages.
        kind: the phase.
        gears: what to run.
        original: the exported twin; it is not changed.
        make: makes the passes of the real graph, those before the fork included.
        cache: rows and slots of the real graph's cache.
        most_bytes: a gear that would take more memory than this is not run, and its proof says so.

    Raises:
        InternalError: E1328, a gear answers otherwise than the exported program.
    """
    rewritten = Program(original.model.clone(), dict(original.weights), original.config)
    run_passes(rewritten, list(make()))
    graph = Oracle(rewritten.model, materialize(rewritten.weights))
    names = {str(value.name) for value in rewritten.data_inputs()}
    # the graph's weights are float16, which is not what a gear is judged for
    reference = Oracle(original.model, _rounded(materialize(original.weights)))
    proofs = []
    for gear in gears:
        needed = _bytes(original, kind, gear, cache)
        if needed > most_bytes:
            proofs.append(GearProof(name, gear, None, f"it would take {needed / 2**30:.0f} GiB of memory here"))
            continue
        worst = _Call(original, kind, gear, cache).deviation(graph, reference, names)
        bound = tolerance(TOLERANCE)
        if not worst <= bound:
            raise InternalError(
                "E1328",
                f"{name} in the gear of batch {gear.batch} and length {gear.length} differs from the exported model by "
                f"{worst:.2g}, allowed is {bound:.2g} ({TOLERANCE})",
                fix="leave the gear out, and report this model with its spec",
            )
        proofs.append(GearProof(name, gear, worst))
    return proofs


def _bytes(program: Program, kind: str, gear: GearEntry, cache: tuple[int, int]) -> int:
    """Roughly what a run takes: four copies of the scores, and of the caches."""
    config = program.config
    tokens = gear.length if kind == "prefill" else 1
    scores = gear.batch * config.num_heads * tokens * gear.length
    caches = 2 * config.num_layers * cache[0] * cache[1] * config.num_kv_heads * config.head_dim
    return 4 * 4 * (scores + caches)


def _rounded(weights: Mapping[str, Array]) -> dict[str, Array]:
    return {name: array.astype(np.float16).astype(np.float32) for name, array in weights.items()}


class _Call:
    """One call: sequences of different lengths, the first as long as the gear takes, on shuffled rows of the cache."""

    def __init__(self, program: Program, kind: str, gear: GearEntry, cache: tuple[int, int]) -> None:
        self._config, self._kind, self._gear = program.config, kind, gear
        self._rows, self._slots = cache
        random = np.random.default_rng([gear.batch, gear.length])
        is_decode = kind == "decode"
        longest = gear.length - 1 if is_decode else gear.length
        self._valid = random.integers(0 if is_decode else 1, longest + 1, gear.batch)
        self._valid[0] = longest
        self._index = random.permutation(self._rows)[: gear.batch]
        self._tokens = random.integers(0, self._config.vocab_size, (gear.batch, 1 if is_decode else gear.length))
        shape = (self._rows, self._slots, self._config.num_kv_heads, self._config.head_dim)
        # what lies behind a sequence's tokens is as large as they are, so that reading it shows
        self._caches = {
            f"{part}.{layer}": random.standard_normal(shape).astype(np.float16)
            for layer in range(self._config.num_layers)
            for part in ("key", "value")
        }
        self._tables = rope_table(self._config, self._slots, length_reached=self._slots)

    def deviation(self, graph: Oracle, reference: Oracle, names: set[str]) -> float:
        feeds: dict[str, Array] = {
            "tokens": self._tokens,
            "batch_index": self._index,
            "batch_valid_length": self._valid,
            "zactivate_len": np.zeros(self._gear.length, np.int64),
            **{f"cache_{name}": array for name, array in self._caches.items()},
        }
        found = graph.run({name: array for name, array in feeds.items() if name in names})
        worst = 0.0
        for row, valid in enumerate(self._valid.tolist()):
            start, stop = (valid, valid + 1) if self._kind == "decode" else (0, valid)
            expected = reference.run(self._feeds_of(row, start, stop))
            worst = max(worst, relative_error(found["logits"][row, 0], expected["logits"][0, -1]))
            for layer in range(self._config.num_layers):
                for part in ("key", "value"):
                    mine = found[f"updated_{part}.{layer}"][self._index[row], :stop]
                    worst = max(worst, relative_error(mine, expected[f"present_{part}.{layer}"][0].transpose(1, 0, 2)))
        return max(worst, self._touched(found))

    def _feeds_of(self, row: int, start: int, stop: int) -> dict[str, Array]:
        """The exported program's feeds for one sequence alone."""
        past = {
            name: np.ascontiguousarray(
                self._caches[f"{part}.{layer}"][self._index[row], None, :start].transpose(0, 2, 1, 3), np.float32
            )
            for layer in range(self._config.num_layers)
            for part, name in (("key", past_key(layer)), ("value", past_value(layer)))
        }
        return {
            "input_ids": self._tokens[row : row + 1, : stop - start],
            "position_ids": np.arange(start, stop, dtype=np.int64)[None],
            "rope_cos": self._tables[0],
            "rope_sin": self._tables[1],
            **past,
        }

    def _touched(self, found: Mapping[str, Array]) -> float:
        """Infinite when a row or a slot changed that the call had no business with."""
        others = np.ones((self._rows, self._slots), bool)
        for row, valid in zip(self._index, self._valid):
            if self._kind == "decode":
                others[row, valid] = False
            else:
                others[row, : self._gear.length] = False
        same = all(
            np.array_equal(found[f"updated_{name}"][others], before[others]) for name, before in self._caches.items()
        )
        return 0.0 if same else float("inf")
