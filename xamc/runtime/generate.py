"""The generation loop: prompts in, tokens out, one row of a batch like the next."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from xamc.errors import MisuseError
from xamc.runtime.detokenize import Decoder, Detokenizer, detokenizer
from xamc.runtime.executor import I64
from xamc.runtime.sampling import Sampler, Sampling, check_whole_number
from xamc.runtime.session import Session
from xamc.runtime.stop_strings import StopStrings

FinishReason = Literal["eos", "stop", "length", "context"]


@dataclass(frozen=True)
class Generation:
    """An answer.

    Attributes:
        text: the answer without special tokens, cut before a stop string.
        token_ids: every token generated, the one that ended the answer included.
        finish_reason: "eos" an end-of-sequence token, "stop" a stop string, "length" max_new_tokens reached,
            "context" the artifact's context limit reached.
        prompt_tokens: tokens of this prompt.
        reused_tokens: how many of them were not computed for this answer, because the KV cache had them.
        prefill_tokens_per_s: prompt tokens of the whole batch that were not cached, per second of prefill.
        decode_tokens_per_s: tokens of this answer after its first per second, with sampling, and with text where it is
            wanted in pieces; 0 if there was only one.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    prompt_tokens: int
    reused_tokens: int
    prefill_tokens_per_s: float
    decode_tokens_per_s: float


@dataclass(frozen=True)
class Options(Sampling):
    """What `Model.generate`, `stream` and `chat` take besides a prompt: `Sampling`'s fields and these.

    Attributes:
        ignore_eos: whether to go on after an end-of-sequence token.
        stop: string or strings that end an answer and are left out of its text.
        prefix_cache: don't compute again what the KV cache still holds of earlier calls, as far as a prompt begins
            with the same tokens: a system prompt, the turns before of a chat. Saves time, but sums are then made in
            another order, so an answer may differ where two tokens are equally likely to the last digits.
        eos_token_id: the token, or tokens, that end an answer; None: those of the checkpoint.
        min_new_tokens: before so many tokens none of those can be chosen.
    """

    ignore_eos: bool = False
    stop: str | Sequence[str] = ()
    prefix_cache: bool = True
    eos_token_id: int | Sequence[int] | None = None
    min_new_tokens: int = 0

    def __post_init__(self) -> None:
        """As `Sampling`'s."""
        super().__post_init__()
        check_whole_number("min_new_tokens", self.min_new_tokens, 0)
        for name, value in (("ignore_eos", self.ignore_eos), ("prefix_cache", self.prefix_cache)):
            if not isinstance(value, (bool, np.bool_)):
                raise MisuseError("E1612", f"{name} is {value!r}", "it must be True or False")
        if self.eos_token_id is not None and np.asarray(self.eos_token_id).dtype.kind not in "iu":
            raise MisuseError("E1612", f"eos_token_id is {self.eos_token_id!r}", "it must be a token id or several")
        stops = (self.stop,) if isinstance(self.stop, str) else self.stop
        if not isinstance(stops, Iterable) or not all(isinstance(stop, str) for stop in stops):
            raise MisuseError("E1612", f"stop is {self.stop!r}", "it must be a string or several")


@dataclass(frozen=True)
class Limits:
    """When an answer ends.

    Attributes:
        max_new_tokens: most tokens of an answer.
        context_limit: most tokens of prompt and answer.
        eos_token_ids: ids that end it; empty to ignore them.
        stop: strings that end it and are left out.
        min_new_tokens: before so many tokens none of `eos_token_ids` can be chosen.
        hidden: ids of tokens that no text shows → their own text, which a stop string may name.
    """

    max_new_tokens: int
    context_limit: int
    eos_token_ids: frozenset[int] = frozenset()
    stop: tuple[str, ...] = ()
    min_new_tokens: int = 0
    hidden: Mapping[int, str] = field(default_factory=dict)


class _Row:
    """One answer in the making."""

    def __init__(self, prompt: I64, limits: Limits, sampler: Sampler, decoder: Decoder | None, in_pieces: bool) -> None:
        self._limits = limits
        self._sampler = sampler
        self._decoder = decoder
        # a text that nobody reads before its end is decoded there, at once
        self._detokenizer = detokenizer(decoder) if decoder is not None and (in_pieces or limits.stop) else None
        self._stops = StopStrings(limits.stop)
        self.prompt_tokens = len(prompt)
        self.token_ids: list[int] = []
        self.text = ""
        self.finish_reason: FinishReason | None = None
        self._first = self._last = 0.0

    def take(self, logits: np.ndarray[tuple[int], np.dtype[np.float32]]) -> str:
        """Chooses the next token; returns the text that became certain."""
        if len(self.token_ids) < self._limits.min_new_tokens and self._limits.eos_token_ids:
            logits = logits.copy()
            logits[list(self._limits.eos_token_ids)] = -np.inf
        token = self._sampler.choose(logits)
        self.token_ids.append(token)
        self._last = time.perf_counter()
        self._first = self._first or self._last
        piece = "" if self._detokenizer is None else self._text_of(token, self._detokenizer)
        self.finish_reason = self._finished(token)
        if self.finish_reason is not None and self._detokenizer is not None:
            piece += self._stops.push(self._detokenizer.flush()) + self._stops.flush()
            if self._stops.found:
                self.finish_reason = "stop"
        elif self.finish_reason is not None and self._decoder is not None:
            shown = self.token_ids[:-1] if self.finish_reason == "eos" else self.token_ids
            piece = self._decoder.decode(shown)
        self.text += piece
        return piece

    def _text_of(self, token: int, source: Detokenizer) -> str:
        """The text that `token` makes certain; what ends an answer is no part of it, special token or not."""
        piece = "" if token in self._limits.eos_token_ids else self._stops.push(source.push(token))
        if token in self._limits.hidden:
            # behind all the text before it
            piece += self._stops.push(source.flush()) + self._stops.push(self._limits.hidden[token], shown=False)
        return piece

    def _finished(self, token: int) -> FinishReason | None:
        if self._stops.found:
            return "stop"
        if token in self._limits.eos_token_ids:
            return "eos"
        if len(self.token_ids) >= self._limits.max_new_tokens:
            return "length"
        if self.prompt_tokens + len(self.token_ids) >= self._limits.context_limit:
            return "context"
        return None

    def result(self, reused_tokens: int, prefill_tokens_per_s: float) -> Generation:
        seconds, tokens = self._last - self._first, len(self.token_ids) - 1
        return Generation(
            text=self.text,
            token_ids=self.token_ids,
            finish_reason=self.finish_reason or "length",
            prompt_tokens=self.prompt_tokens,
            reused_tokens=reused_tokens,
            prefill_tokens_per_s=prefill_tokens_per_s,
            decode_tokens_per_s=tokens / seconds if tokens and seconds > 0 else 0.0,
        )


def run(
    session: Session,
    prompts: Sequence[I64],
    limits: Sequence[Limits],
    sampling: Sampling,
    vocab_size: int,
    decoder: Decoder | None,
    in_pieces: bool = True,
    first_row: int = 0,
) -> Iterator[tuple[int, str] | list[Generation]]:
    """Generates answers to a batch of prompts.

    Args:
        session: of as many rows as there are prompts, and begun with them.
        prompts: token ids; lengths may differ.
        limits: when each answer ends.
        sampling: how tokens are chosen.
        vocab_size: V.
        decoder: makes text of tokens; None leaves texts empty.
        in_pieces: whether text is wanted as it becomes certain; otherwise it comes as one piece.
        first_row: the number of the first prompt, where others of the same call ran before.

    Yields:
        (row, piece of text) as it becomes certain, and at last the finished answers.
    """
    rows = [
        _Row(prompt, limit, Sampler(sampling, prompt, vocab_size, first_row + index), decoder, in_pieces)
        for index, (prompt, limit) in enumerate(zip(prompts, limits, strict=True))
    ]
    started = time.perf_counter()
    logits = session.prefill_prompts()[:, 0]
    computed = sum(map(len, prompts)) - int(session.reused.sum())
    prefill_tokens_per_s = computed / (time.perf_counter() - started)
    active = np.ones(len(rows), np.bool_)
    tokens = np.zeros(len(rows), np.int64)
    while True:
        pieces: list[tuple[int, str]] = []
        for index in np.flatnonzero(active).tolist():
            piece = rows[index].take(logits[index])
            tokens[index] = rows[index].token_ids[-1]
            active[index] = rows[index].finish_reason is None
            if piece:
                pieces.append((first_row + index, piece))
        # Yielded after the whole step, so that a slow reader delays every row alike and sees the rows in step.
        yield from pieces
        if not active.any():
            break
        logits = session.decode(tokens, active)
    yield [row.result(reused, prefill_tokens_per_s) for row, reused in zip(rows, session.reused.tolist())]


def collect(
    events: Iterator[tuple[int, str] | list[Generation]], on_text: Callable[[int, str], None] | None
) -> list[Generation]:
    """Runs a generation to its end; `on_text` is called with (row, piece) as text becomes certain."""
    result: list[Generation] = []
    for event in events:
        if isinstance(event, list):
            result = event
        elif on_text is not None:
            on_text(*event)
    return result


class Stream:
    """The pieces of one answer as they are generated: iterate over it, then read `generation`."""

    def __init__(self, events: Iterator[tuple[int, str] | list[Generation]]) -> None:
        self._events = events
        self._generation: Generation | None = None

    def __iter__(self) -> Iterator[str]:
        for event in self._events:
            if isinstance(event, list):
                (self._generation,) = event
            else:
                yield event[1]

    @property
    def generation(self) -> Generation:
        """The finished answer; reads the stream to its end first."""
        for _ in self:
            pass
        assert self._generation is not None
        return self._generation
