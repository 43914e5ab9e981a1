"""Answers that a team has recorded of its own model, and how far an artifact's answers are from them now.

The file is JSON, made to be committed: per prompt its token ids, the greedy answer, and for each token of the answer
the likeliest tokens with their log-probabilities. The check feeds the recorded answer, whatever the artifact would say
by now, so that one token that differs does not hide what comes after it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xamc.artifact.records import RecordError, from_json, to_json
from xamc.errors import InputError
from xamc.verify.metrics import log_softmax

FORMAT = 1
LIKELIEST = 5
DECIMALS = 5

I64 = NDArray[np.int64]
F32 = NDArray[np.float32]
Compute = Callable[[I64], F32]
"""Token ids int64[1, T] → logits float32[1, T, V]."""


@dataclass(frozen=True)
class Likeliest:
    """The likeliest tokens at one place of an answer, falling, and their natural log-probabilities."""

    ids: tuple[int, ...]
    log_probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.ids or len(self.ids) != len(self.log_probabilities):
            raise RecordError("ids", f"{len(self.ids)} tokens and {len(self.log_probabilities)} log-probabilities")


@dataclass(frozen=True)
class Answer:
    """A prompt and its recorded greedy answer; `places` has an entry per token of the answer."""

    prompt: str
    token_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    answer: str
    places: tuple[Likeliest, ...]

    def __post_init__(self) -> None:
        if not self.token_ids or not self.answer_ids or len(self.answer_ids) != len(self.places):
            raise RecordError("answer_ids", f"{len(self.answer_ids)} tokens and {len(self.places)} places")


@dataclass(frozen=True)
class Recorded:
    """A file of answers, and what they were recorded of."""

    name: str
    xamc_version: str
    answers: tuple[Answer, ...]
    format: int = FORMAT


@dataclass(frozen=True)
class Difference:
    """How an artifact's answer to one prompt differs from the recorded one.

    Attributes:
        prompt: the prompt.
        error: the largest |log-probability now - recorded| of the recorded likeliest tokens, in nats.
        first: place in the answer of the first token that is not the likeliest any more; None: all are.
        lines: what a person should read; empty when the answers agree.
    """

    prompt: str
    error: float
    first: int | None
    lines: tuple[str, ...] = field(default=())


def record_answer(
    prompt: str, token_ids: Sequence[int], answer_ids: Sequence[int], answer: str, compute: Compute
) -> Answer:
    """What `compute` says of an answer that was generated greedily."""
    places = []
    for row in _log_probabilities(token_ids, answer_ids, compute):
        ids = np.argsort(-row, kind="stable")[:LIKELIEST]
        places.append(Likeliest(tuple(map(int, ids)), tuple(round(float(row[i]), DECIMALS) for i in ids)))
    return Answer(prompt, tuple(token_ids), tuple(answer_ids), answer, tuple(places))


def compare(
    recorded: Answer, token_ids: Sequence[int], compute: Compute, text: Callable[[int], str], bound: float
) -> Difference:
    """Compares an artifact with a recorded answer.

    Args:
        recorded: the answer.
        token_ids: of the prompt, by the artifact's tokenizer.
        compute: the artifact.
        text: what a token stands for, for the report.
        bound: how far log-probabilities of recorded tokens may move, in nats. A token that is another one's equal
            within twice that is not called different.
    """
    if tuple(token_ids) != recorded.token_ids:
        begin = next(
            (i for i, (a, b) in enumerate(zip(token_ids, recorded.token_ids)) if a != b),
            min(len(token_ids), len(recorded.token_ids)),
        )
        counts = f"{len(token_ids)} tokens, recorded {len(recorded.token_ids)}"
        line = f"the tokenizer changed: {counts}, differing from {begin}"
        return Difference(recorded.prompt, float("inf"), 0, (line,))
    rows = _log_probabilities(token_ids, recorded.answer_ids, compute)
    lines: list[str] = []
    first: int | None = None
    worst, where = 0.0, 0
    for place, (row, then, token) in enumerate(zip(rows, recorded.places, recorded.answer_ids)):
        moved = float(np.abs(row[list(then.ids)] - np.array(then.log_probabilities)).max())
        if not moved <= worst:
            worst, where = moved, place
        best = int(row.argmax())
        if best != token and not row[best] - row[token] <= 2 * bound and first is None:
            first = place
            was = dict(zip(then.ids, then.log_probabilities)).get(token, float("nan"))
            lines.append(
                f"token {place}: recorded {text(token)!r} ({np.exp(was):.3f}), now {text(best)!r} "
                f"({np.exp(row[best]):.3f}); {text(token)!r} has {np.exp(row[token]):.3f}"
            )
    if not worst <= bound:
        lines.append(f"log-probabilities moved by up to {worst:.3g} nats (allowed {bound:.3g}), most at token {where}")
    return Difference(recorded.prompt, worst, first, tuple(lines))


def _log_probabilities(token_ids: Sequence[int], answer_ids: Sequence[int], compute: Compute) -> NDArray[np.float64]:
    """float64[A, V]: the distribution that each token of an answer was taken from."""
    logits = compute(np.array([[*token_ids, *answer_ids[:-1]]], np.int64))[0]
    return log_softmax(logits[len(token_ids) - 1 :])


def dumps(recorded: Recorded) -> str:
    """The file's text; one answer's place per line, so that a diff shows which moved."""
    value = to_json(recorded)
    answers = value.pop("answers")
    head = json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True)[:-2]
    blocks = []
    for answer in answers:
        places = answer.pop("places")
        body = json.dumps(answer, ensure_ascii=False, sort_keys=True)[:-1]
        lines = ",\n   ".join(json.dumps(place, sort_keys=True) for place in places)
        blocks.append(f'  {body}, "places": [\n   {lines}]}}')
    return f'{head},\n "answers": [\n' + ",\n".join(blocks) + "]\n}\n"


def read(path: Path) -> Recorded:
    """The recorded answers in a file.

    Raises:
        InputError: E1735, it can't be read or is no such file.
    """
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, Mapping) or value.get("format") != FORMAT:
            raise RecordError("format", f"not format {FORMAT}")
        recorded = from_json(Recorded, value)
        if not recorded.answers:
            raise RecordError("answers", "none")
    except (OSError, ValueError, RecordError) as error:
        raise InputError(
            "E1735", f"{path} holds no recorded answers: {error}", fix="make it with xamc golden record"
        ) from None
    return recorded
