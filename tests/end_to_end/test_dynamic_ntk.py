"""Dynamic NTK: every sequence has the RoPE base of its own length, whatever else is in the batch or in the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.end_to_end import references
from tests.end_to_end.models import CHUNK, F32, I64, Workshop, prompts
from xamc.ir.tolerances import tolerance
from xamc.runtime import Model
from xamc.verify.metrics import relative_error

BOUND = tolerance("cpu_fp32")
TRAINED = 64
LENGTHS = (20, 90, 70, 50)  # of which the last crosses the limit while it decodes
STEPS = 24


@pytest.fixture(scope="module")
def folder(workshop: Workshop) -> Path:
    return workshop.checkpoint("internlm3", "internlm3")


@pytest.fixture(params=["tvm_cpu", "reference"])
def model(request: pytest.FixtureRequest, folder: Path, workshop: Workshop) -> Model:
    backend = {"type": request.param, "dtype": "fp32"}
    return workshop.model(folder, f"{request.param}-ntk", backend=backend, runtime={"max_batch": 4})


@pytest.fixture(scope="module")
def rows() -> list[I64]:
    return prompts(LENGTHS)[0]


@pytest.fixture(scope="module")
def alone(folder: Path, rows: list[I64]) -> list[F32]:
    """transformers' logits of each prompt and its greedy answer, one sequence after the other."""
    found = []
    for row in rows:
        tokens, reference = list(row), references.as_llama(folder)
        import torch

        with torch.no_grad():
            past, ids = None, torch.tensor([tokens])
            logits = []
            for _ in range(STEPS):
                output = reference(input_ids=ids, past_key_values=past, use_cache=True)
                past = output.past_key_values
                logits.append(output.logits[0].numpy())
                ids = output.logits[:, -1].argmax(-1, keepdim=True)
        found.append(np.concatenate(logits))
    return found


def greedy(row: I64, logits: F32) -> list[int]:
    return [int(token) for token in logits[len(row) - 1 :].argmax(-1)]


@pytest.mark.parametrize("prefix_cache", [False, True])
def test_rows_of_a_batch_answer_as_alone(model: Model, rows: list[I64], alone: list[F32], prefix_cache: bool) -> None:
    expected = [greedy(row, logits) for row, logits in zip(rows, alone)]
    options: dict[str, Any] = {"ignore_eos": True, "prefix_cache": prefix_cache}
    assert [model.generate(row, STEPS, **options).token_ids for row in rows] == expected
    for _ in range(2):  # the second time from the prefix cache
        answers = model.generate(rows, STEPS, **options)
        assert [answer.token_ids for answer in answers] == expected
    for pair in ([0, 3], [0, 1], [3, 2], [1, 0]):  # in the first one crosses the limit, and one doesn't
        answers = model.generate([rows[row] for row in pair], STEPS, **options)
        assert [answer.token_ids for answer in answers] == [expected[row] for row in pair]


def test_logits_of_padded_rows_are_those_alone(model: Model, rows: list[I64], alone: list[F32]) -> None:
    """Prompts of more than one prefill chunk, in a batch that divides it."""
    assert max(LENGTHS) > CHUNK
    padded = np.zeros((len(rows), max(LENGTHS)), np.int64)
    for at, row in enumerate(rows):
        padded[at, : len(row)] = row
    found = model.logits(padded, lengths=LENGTHS)
    last = model.logits(padded, lengths=LENGTHS, positions="last")
    for at, (row, logits) in enumerate(zip(rows, alone)):
        assert relative_error(found[at, : len(row)], logits[: len(row)]) <= BOUND
        assert relative_error(last[at], logits[len(row) - 1 : len(row)]) <= BOUND


def test_streams_that_take_turns_keep_their_bases(model: Model, rows: list[I64], alone: list[F32]) -> None:
    for prefix_cache in (True, False):
        streams = [model.stream(row, STEPS, ignore_eos=True, prefix_cache=prefix_cache) for row in rows[1:]]
        running = [iter(stream._events) for stream in streams]
        ended: list[list[int]] = [[] for _ in running]
        for _ in range(STEPS + 2):
            for at, events in enumerate(running):
                for event in events:
                    if isinstance(event, list):
                        ended[at] = event[0].token_ids
                    break
        assert ended == [greedy(row, logits) for row, logits in zip(rows[1:], alone[1:])]


def test_sequences_that_join_and_leave_keep_their_bases(model: Model, rows: list[I64], alone: list[F32]) -> None:
    engine = model.engine
    opened = []
    for row in (3, 0, 2):
        opened.append((row, engine.open(rows[row], STEPS, ignore_eos=True)))
        for _ in range(8):
            engine.step()
    engine.close(opened.pop(1)[1])  # midway
    joined = engine.open(rows[1], STEPS, ignore_eos=True)
    opened.append((1, joined))
    while joined.finish_reason is None:
        engine.step()
    assert [answer.token_ids for _, answer in opened] == [greedy(rows[row], alone[row]) for row, _ in opened]


def test_a_beginning_is_shared_by_rows_of_one_base_only(workshop: Workshop, folder: Path, rows: list[I64]) -> None:
    """A system prompt before two short prompts and a long one."""
    import torch

    model = workshop.model(folder, "tvm_cpu-ntk-block", runtime={"max_batch": 4})
    system = np.concatenate([rows[1][:20], rows[2][:4]])
    batch = [np.concatenate([system, more]) for more in (rows[0][:9], rows[3][:30], rows[1][:75], rows[2][:75])]
    answers = model.generate(batch, 4, ignore_eos=True)
    for row, answer in zip(batch, answers):
        reference, tokens = references.as_llama(folder), row.tolist()
        with torch.no_grad():
            first = int(reference(input_ids=torch.tensor([tokens])).logits[0, -1].argmax())
        assert answer.token_ids[0] == first
        assert answer.token_ids == model.generate(row, 4, ignore_eos=True, prefix_cache=False).token_ids
