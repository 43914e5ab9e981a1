"""One sequence: its tokens, how many of them the KV cache has and where, and the RoPE base of its keys."""

from __future__ import annotations

import numpy as np

from xamc.errors import InputError
from xamc.model.config import ModelConfig
from xamc.runtime.executor import I64


class Group:
    """Sequences that one call opened: their prompts share a prefill chunk, and what they begin with is computed once.

    Attributes:
        size: how many they are; each gets so much of a chunk, be it for the first time or after it was displaced.
        has_shared: whether what they begin with is computed.
        computed: tokens of prompts that were computed.
        seconds: how long that took.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.has_shared = False
        self.computed = 0
        self.seconds = 0.0


class Sequence:
    """One sequence. `Slots` feeds it and keeps account; nothing here depends on other sequences.

    Attributes:
        prompt: int64[T], checked.
        tokens: the prompt's, and those that follow; all but the last may be cached.
        cached: how many of them the KV cache has.
        reused: how many of the prompt were not computed for it: cached before, or by another sequence of its group.
        slot: its row of the KV cache; None: it has none, not yet or not any more.
        displaced: how often it lost its slot to others, or by a failed step; what was lost with it is computed again.
        is_closed: whether it is never to be fed again.
        keeps: whether it begins with what is cached of its prompt, and is itself kept for later ones.
        group: what it was opened with.
    """

    def __init__(self, prompt: I64, model: ModelConfig, keeps: bool = False, group: Group | None = None) -> None:
        """A sequence that has no slot yet; without a `group` it is alone in one."""
        self.prompt = prompt
        self.tokens: list[int] = prompt.tolist()
        self.cached = self.reused = self.displaced = 0
        self.slot: int | None = None
        self.is_closed = False
        self.keeps = keeps
        self.group = group or Group(1)
        self._trained = model.max_position_embeddings if model.rope.kind == "dynamic" else None

    @property
    def rest(self) -> int:
        """How many tokens of the prompt are not cached."""
        return max(len(self.prompt) - self.cached, 0)

    @property
    def rope_base(self) -> int:
        """What decides the angles of the tokens fed next: of a prompt its whole length, then each token's own."""
        return self.rope_base_at(max(len(self.prompt), self.cached + 1))

    @property
    def foreseeable(self) -> int | None:
        """How many tokens behind the next one have its RoPE base; None: all of them."""
        if self._trained is None:
            return None
        return max(0, max(len(self.prompt), self._trained) - self.cached - 1)

    @property
    def prompt_base(self) -> int:
        """What decides the angles of the prompt's keys; they are worth the same to all prompts with an equal one."""
        return self.rope_base_at(len(self.prompt))

    def rope_base_at(self, length: int) -> int:
        """The base of a sequence that has reached `length` tokens; 0 for all where the model's RoPE is not dynamic."""
        return 0 if self._trained is None else max(length, self._trained)


def check_token_ids(token_ids: object, vocab_size: int) -> I64:
    """One sequence of token ids as int64[T].

    Raises:
        InputError: E1602, an id outside the vocabulary; E1605, empty, not one-dimensional or not integers.
    """
    array = np.asarray(token_ids)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise InputError(
            "E1605",
            f"a prompt must be a non-empty list of integer token ids; this one has shape {array.shape} "
            f"and dtype {array.dtype}",
            "give at least one token id, for example the BOS token",
        )
    wrong = np.flatnonzero((array < 0) | (array >= vocab_size))
    if wrong.size:
        raise InputError(
            "E1602",
            f"token id {array[wrong[0]]} at position {wrong[0]} is outside the vocabulary of {vocab_size}",
            f"give ids from 0 to {vocab_size - 1}, made by the artifact's own tokenizer",
        )
    return array.astype(np.int64)


def check_context(tokens: int, context_limit: int, what: str = "the sequence has") -> None:
    """Refuses a sequence that is too long for the artifact.

    Raises:
        InputError: E1603, with both numbers.
    """
    if tokens > context_limit:
        raise InputError(
            "E1603",
            f"{what} {tokens} tokens; the artifact's context limit is {context_limit}",
            "shorten the prompt or the answer, or compile with a larger second list in frontend.shape.input_ids",
        )
