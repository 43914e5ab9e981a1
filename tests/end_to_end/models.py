"""Compiled tiny models, one compile each per test session, and the runtime's logits over a prefill and decode steps."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import xamc.compiler
from tests.checkpoints import write_tiny
from tests.worker import Worker
from xamc.compiler.pipeline import Compiled
from xamc.runtime import Model, load, sequence
from xamc.runtime.prefill import feed_prompts
from xamc.runtime.sequence import Group

I64 = NDArray[np.int64]
F32 = NDArray[np.float32]

# A prompt of more than 24 tokens takes several calls, and so does a batch of three with more than 8.
CHUNK, CONTEXT = 24, 120


def spec(checkpoint: Path, **sections: Mapping[str, Any]) -> dict[str, Any]:
    """A build spec for the CPU in float32 without proofs; `sections` replace whole sections of it."""
    return {
        "name": checkpoint.name,
        "frontend": {
            "checkpoint": str(checkpoint),
            "type": "huggingface",
            "shape": {"input_ids": [[CHUNK], [CONTEXT]]},
        },
        "backend": {"type": "tvm_cpu", "dtype": "fp32"},
        "workspace": {"path": str(checkpoint.parent / "artifacts")},
        "verify": {"passes": "off"},
        **sections,
    }


class Workshop:
    """Makes checkpoints and artifacts when they are first asked for; one process does the work of all children."""

    def __init__(self, folder: Path, worker: Worker) -> None:
        self._folder = folder
        self._worker = worker
        self._compiled: dict[str, Compiled] = {}

    def checkpoint(self, kind: str, name: str | None = None, **changes: Any) -> Path:
        """The folder of the tiny checkpoint `kind`, with `changes` to its config.json under a `name` of its own."""
        folder = self._folder / (name or kind)
        return folder if folder.is_dir() else write_tiny(folder, kind, **changes)

    def compiled(self, checkpoint: Path, name: str | None = None, **sections: Mapping[str, Any]) -> Compiled:
        """The artifact of `checkpoint` called `name`."""
        name = name or checkpoint.name
        if name not in self._compiled:
            with self._worker.active():
                self._compiled[name] = xamc.compiler.compile(spec(checkpoint, **sections) | {"name": name})
        return self._compiled[name]

    def model(self, checkpoint: Path, name: str | None = None, **sections: Mapping[str, Any]) -> Model:
        """The loaded artifact."""
        return load(self.compiled(checkpoint, name, **sections).path, threads=1)


def states(compiled: Compiled) -> dict[str, str]:
    """Stage → its state: ok, cached, ..."""
    return {stage["name"]: stage["state"] for stage in compiled.report["stages"]}


def prompts(lengths: Sequence[int], steps: int = 0, vocab_size: int = 272, seed: int = 7) -> tuple[list[I64], I64]:
    """Random prompts of `lengths`, and the tokens [B, steps] that follow them, whatever the model would say."""
    generator = np.random.default_rng(seed)
    rows = [generator.integers(3, vocab_size, length) for length in lengths]
    return rows, generator.integers(3, vocab_size, (len(lengths), steps))


class Fed:
    """Sequences that are fed given tokens, whatever a model would choose."""

    def __init__(self, model: Model, rows: Sequence[I64], keeps: bool = False) -> None:
        self._slots = model.engine._slots
        group = Group(len(rows))
        self.sequences = [sequence.Sequence(row, model.manifest.model, keeps, group) for row in rows]
        self._slots.seat(self.sequences)

    def prompts(self, all_positions: bool = False) -> F32:
        """Logits [B, T, V], or of each row's last token [B, 1, V]."""
        return feed_prompts(self._slots, self.sequences, all_positions)

    def next(self, tokens: I64) -> F32:
        """Logits [B, V] of one more token of each row."""
        for row, token in zip(self.sequences, tokens.tolist(), strict=True):
            row.tokens.append(token)
        return self._slots.feed_next(self.sequences).copy()

    def close(self) -> None:
        self._slots.release(self.sequences)

    @property
    def reused(self) -> list[int]:
        return [row.reused for row in self.sequences]


def answers(model: Model, rows: Sequence[I64], following: I64) -> list[F32]:
    """Per row the logits [length + steps, V] of its prompt and of each following token."""
    fed = Fed(model, rows)
    first = fed.prompts(all_positions=True)
    logits = [[first[row, : len(tokens)]] for row, tokens in enumerate(rows)]
    for step in range(following.shape[1]):
        result = fed.next(following[:, step])
        for row, parts in enumerate(logits):
            parts.append(result[row : row + 1])
    return [np.concatenate(parts) for parts in logits]


def wrong_answers_of_many_callers(model: Model, rows: Sequence[I64], steps: int) -> list[Any]:
    """What differs from each prompt's answer alone, in streams side by side in one thread and in threads at once."""
    alone = [model.generate(row, steps, ignore_eos=True).token_ids for row in rows]
    streams = [model.stream(row, steps, ignore_eos=True) for row in rows]
    events = [iter(stream._events) for stream in streams]  # pieces, without a tokenizer too
    found: dict[Any, list[int]] = {}
    for _ in range(steps + 2):
        for row, several in enumerate(events):
            event = next(several, None)
            if isinstance(event, list):
                found["stream", row] = event[0].token_ids

    def work(number: int) -> None:
        for row in range(len(rows)):
            at = (row + number) % len(rows)
            found["thread", number, at] = model.generate(rows[at], steps, ignore_eos=True).token_ids

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 * len(rows)
    return [(key, tokens, alone[key[-1]]) for key, tokens in found.items() if tokens != alone[key[-1]]]
