"""What a session hands to its executor: everything inside the cache, rows in step, nothing overwritten too early."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xamc.artifact.manifest import Cpu, Generation, KvCache, Manifest, Quantization, Weights
from xamc.errors import InputError
from xamc.runtime.executor import F32, Step
from xamc.runtime.rope_table import RopeTable
from xamc.runtime.session import Session

CAPACITY, CHUNK, VOCAB = 24, 6, 50


class Recorder:
    """An executor whose cache holds token ids, and whose logits name the token they belong to."""

    threads = 1
    pages = None

    def __init__(self, table: RopeTable) -> None:
        self._table = table
        self.cache = np.zeros((0, 0), np.int64)
        self.widths: list[int] = []

    def allocate(self, batch: int) -> None:
        self.cache = np.full((batch, CAPACITY), -1)

    def forward(self, step: Step) -> F32:
        batch, width = step.input_ids.shape
        self.widths.append(batch * width)
        assert (step.write_index >= 0).all() and (step.write_index + width <= CAPACITY).all()
        assert (step.table_rows < CAPACITY).all() and (step.lengths >= 0).all() and (step.lengths <= width).all()
        assert step.lengths.any() and (step.last_index < width).all()
        logits = np.zeros((batch, width, VOCAB), np.float32)
        for row, start in enumerate(step.write_index.tolist()):
            self.cache[row, start : start + width] = step.input_ids[row]
            for index in range(int(step.lengths[row])):
                position = int(step.table_rows[row, index])
                assert position == start + index
                assert (step.rope_cos[position] ** 2 + step.rope_sin[position] ** 2).min() > 0.99
            logits[row, np.arange(width), step.input_ids[row]] = 1
        if step.all_positions:
            return logits
        return logits[np.arange(batch), step.last_index][:, None]


@pytest.fixture(scope="module")
def manifest(toy: Any) -> Manifest:
    return Manifest(
        name="toy",
        target="tvm_cpu",
        xamc_version="0",
        spec={},
        model=toy.config(VOCAB),
        context_limit=CAPACITY,
        prefill_chunk=CHUNK,
        max_batch=4,
        kv=KvCache("float32"),
        functions=(),
        phases=(),
        code_file="code/model.so",
        weights=Weights("weights.bin", 0, ()),
        cpu=Cpu("x86-64-v2", ()),
        quantization=Quantization(),
        tokenizer="tokenizer",
        generation=Generation(None, ()),
    )


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_sequence_of_steps_keeps_every_row(manifest: Manifest, data: st.DataObject) -> None:
    table = RopeTable(manifest.model, CAPACITY)
    recorder = Recorder(table)
    batch = data.draw(st.integers(1, 4))
    session = Session(recorder, manifest, table, batch, CAPACITY)
    rows: list[list[int]] = [[] for _ in range(batch)]
    for _ in range(data.draw(st.integers(1, 6))):
        room = [CAPACITY - len(row) for row in rows]
        if min(room) > 0 and data.draw(st.booleans()):
            parts = [data.draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=most)) for most in room]
            every = data.draw(st.booleans())
            logits = session.prefill([np.array(part) for part in parts], all_positions=every)
            for row, part in enumerate(parts):
                got = logits[row].argmax(-1)
                assert got[: len(part)].tolist() == part if every else got.tolist() == part[-1:]
                rows[row] += part
        else:
            active = np.array([data.draw(st.booleans()) and len(row) < CAPACITY for row in rows])
            if not active.any():
                continue
            tokens = np.array([data.draw(st.integers(0, VOCAB - 1)) for _ in rows])
            logits = session.decode(tokens, active)
            for row in np.flatnonzero(active).tolist():
                assert logits[row].argmax() == tokens[row]
                rows[row].append(int(tokens[row]))
    full = [len(row) == CAPACITY for row in rows]
    for row, tokens in enumerate(rows):
        # A full row is finished: the padding of later steps may lie on its last entries.
        kept = tokens if not full[row] else tokens[: -max(1, CHUNK)]
        assert recorder.cache[row, : len(kept)].tolist() == kept
    assert session.lengths.tolist() == [len(row) for row in rows]
    assert max(recorder.widths, default=0) <= max(CHUNK, batch)


def test_more_tokens_than_the_cache_has_are_refused(manifest: Manifest) -> None:
    table = RopeTable(manifest.model, CAPACITY)
    session = Session(Recorder(table), manifest, table, 2, CAPACITY)
    session.prefill([np.arange(CAPACITY), np.arange(3)])
    session.decode(np.array([1, 2]), np.array([False, True]))
    with pytest.raises(InputError, match=r"E1603.*25 tokens.*limit is 24"):
        session.decode(np.array([1, 2]), np.array([True, True]))
    with pytest.raises(InputError, match="E1603"):
        session.prefill([np.array([1]), np.array([2])])
    assert session.lengths.tolist() == [24, 4]


def test_padding_never_reaches_beyond_the_cache(manifest: Manifest) -> None:
    """A long row next to a short one: the chunk is as narrow as the long row's room."""
    recorder = Recorder(RopeTable(manifest.model, CAPACITY))
    session = Session(recorder, manifest, RopeTable(manifest.model, CAPACITY), 2, CAPACITY)
    long, short = np.arange(22), np.arange(3)
    session.prefill([long, short])
    session.prefill([np.array([40]), np.array([41, 42, 43, 44])])
    assert recorder.cache[0, :23].tolist() == [*long, 40]
    assert recorder.cache[1, :7].tolist() == [*short, 41, 42, 43, 44]
