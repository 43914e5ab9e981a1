"""What a twin is asked in a proof: a prefill and three decode steps, as one batch and as rows of different length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from xamc.model.config import ModelConfig
from xamc.model.rope import LengthReached, rope_table
from xamc.passes.protocol import Arrays

DECODE_STEPS = 3
BATCH = "batch"
_ROWS = {"row0": 5, "row1": 9, "row2": 2}
_BATCH_LENGTH = 9
# lengths of the twin's static graphs: one row fills the prefill, and its last step the decode graph's last slot
TWIN_PREFILL_LENGTH = _ROWS["row1"]
TWIN_DECODE_LENGTH = TWIN_PREFILL_LENGTH + DECODE_STEPS


@dataclass
class Case:
    """One call: inputs of the exported graph and what transformers answered, by value name.

    `run` is the sequence it belongs to (`batch`, `row0`, ...), `step` counts from 0 (the prefill).
    """

    run: str
    step: int
    feeds: Arrays
    fetches: Arrays

    @property
    def name(self) -> str:
        """Shown in reports, as in "batch, decode 2"."""
        return f"{self.run}, {'prefill' if self.step == 0 else f'decode {self.step}'}"


def prompts(config: ModelConfig) -> dict[str, NDArray[np.int64]]:
    """Token ids [B, S + 3] of every run: two rows of equal length, and three rows alone of different lengths."""
    random = np.random.default_rng(config.vocab_size)
    sizes = {BATCH: (2, _BATCH_LENGTH), **{run: (1, length) for run, length in _ROWS.items()}}
    return {
        run: random.integers(0, config.vocab_size, (rows, length + DECODE_STEPS), dtype=np.int64)
        for run, (rows, length) in sizes.items()
    }


def steps(config: ModelConfig, ids: NDArray[np.int64]) -> list[Arrays]:
    """The feeds of a run's calls without its caches: tokens, positions and RoPE tables."""
    batch, total = ids.shape
    prefill = total - DECODE_STEPS
    bounds = [(0, prefill), *((i, i + 1) for i in range(prefill, total))]
    # as many rows as the longest static graph has positions
    rows = max(total, config.max_position_embeddings, TWIN_PREFILL_LENGTH, TWIN_DECODE_LENGTH)
    reached = LengthReached(config.max_position_embeddings)
    feeds: list[Arrays] = []
    for start, stop in bounds:
        cos, sin = rope_table(config, rows, reached.advance(stop))
        positions = np.broadcast_to(np.arange(start, stop, dtype=np.int64), (batch, stop - start))
        feeds.append(
            {
                "input_ids": np.ascontiguousarray(ids[:, start:stop]),
                "position_ids": np.array(positions),
                "rope_cos": cos,
                "rope_sin": sin,
            }
        )
    return feeds


def save_cases(cases: list[Case], path: Path) -> None:
    """Writes cases to a safetensors file."""
    tensors: Arrays = {}
    for case in cases:
        for kind, arrays in (("feed", case.feeds), ("fetch", case.fetches)):
            for name, array in arrays.items():
                tensors[f"{case.run}/{case.step}/{kind}/{name}"] = np.ascontiguousarray(array)
    safetensors.numpy.save_file(tensors, path)


def load_cases(path: Path) -> list[Case]:
    """Reads what `save_cases` wrote, runs in their order and steps in theirs."""
    tensors: Mapping[str, NDArray[np.generic]] = safetensors.numpy.load_file(path)
    cases: dict[tuple[str, int], Case] = {}
    for key, array in sorted(tensors.items()):
        run, step, kind, name = key.split("/", 3)
        case = cases.setdefault((run, int(step)), Case(run, int(step), {}, {}))
        (case.feeds if kind == "feed" else case.fetches)[name] = array
    return [cases[key] for key in sorted(cases)]


def several_rows(cases: Sequence[Case], most: int) -> list[Case]:
    """Calls of one token for 2 and for `most` rows: every sequence's, side by side, again and again.

    Rows are of different lengths where RoPE's tables do not depend on the length that a sequence has reached.
    """
    ones = [case for case in cases if case.feeds["input_ids"].shape[1] == 1]
    found = []
    for step in dict.fromkeys(case.step for case in ones):
        of_step = [case for case in ones if case.step == step]
        tables = of_step[-1].feeds["rope_cos"], of_step[-1].feeds["rope_sin"]
        alike = [
            case
            for case in of_step
            if all(np.array_equal(case.feeds[n], t) for n, t in zip(("rope_cos", "rope_sin"), tables, strict=True))
        ]
        for rows in (2, most):
            found.append(_side_by_side(alike, rows))
    return found


def _side_by_side(cases: Sequence[Case], rows: int) -> Case:
    """So many rows of calls, the last call's first and each as often as it takes; caches are as long as the longest."""

    def joined(name: str, arrays: list[NDArray[np.generic]]) -> NDArray[np.generic]:
        if name.startswith("rope_"):
            return arrays[0]
        if name.startswith("cache_"):
            longest = max(array.shape[2] for array in arrays)
            arrays = [np.pad(a, [(0, 0), (0, 0), (0, longest - a.shape[2]), (0, 0)]) for a in arrays]
        whole = np.concatenate(arrays)
        return whole[np.arange(rows) % len(whole)]

    turned = cases[::-1]
    feeds = {name: joined(name, [case.feeds[name] for case in turned]) for name in turned[0].feeds}
    logits = joined("logits", [case.fetches["logits"] for case in turned])
    return Case(f"{rows} rows", turned[0].step, feeds, {"logits": logits})
