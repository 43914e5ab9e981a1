"""An answer: a sequence that chooses its own next tokens, makes text of them and knows when it ends."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from xamc.artifact.manifest import Manifest
from xamc.errors import MisuseError
from xamc.model.config import ModelConfig
from xamc.runtime.detokenize import Decoder, Detokenizer, detokenizer
from xamc.runtime.executor import I64
from xamc.runtime.generation_words import Request
from xamc.runtime.ngram_drafts import NgramDrafts
from xamc.runtime.sampling import Sampler
from xamc.runtime.sequence import Group, Sequence, check_context
from xamc.runtime.stop_strings import StopStrings
from xamc.runtime.tokenizer import Tokenizer

FinishReason = Literal["eos", "stop", "length", "context"]
Logits = np.ndarray[tuple[int], np.dtype[np.float32]]


@dataclass(frozen=True)
class Generation:
    """A finished answer.

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
        draft_tokens: how many tokens were proposed by speculation.
        accepted_tokens: how many of these the model chose.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    prompt_tokens: int
    reused_tokens: int
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    draft_tokens: int = 0
    accepted_tokens: int = 0


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


def limits_of(
    manifest: Manifest, prompt_tokens: int, request: Request, stop: tuple[str, ...], decoder: Tokenizer | None
) -> Limits:
    """When the answer to a prompt ends.

    Args:
        manifest: the artifact's.
        prompt_tokens: the prompt's.
        request: what is asked.
        stop: strings that end it.
        decoder: the tokenizer; None where there is no text.

    Raises:
        InputError: E1603, it has no room.
        MisuseError: E1612, `max_length` leaves no token for it.
    """
    limit, options, most = manifest.context_limit, request.options, request.max_new_tokens
    if most is None and request.max_length is not None:
        most = request.max_length - prompt_tokens
        if most < 1:
            raise MisuseError(
                "E1612",
                f"max_length is {request.max_length}, and the prompt alone has {prompt_tokens} tokens",
                "max_length counts the prompt: give a larger one, or max_new_tokens",
            )
    check_context(prompt_tokens + 1, limit, f"prompt ({prompt_tokens}) and one token of an answer together are")
    if most is not None:
        check_context(prompt_tokens + most, limit, f"prompt ({prompt_tokens}) and max_new_tokens together are")
    eos = manifest.generation.eos_token_ids
    if options.eos_token_id is not None:
        eos = tuple(np.asarray(options.eos_token_id, np.int64).reshape(-1).tolist())
    vocabulary = range(manifest.model.vocab_size)
    ends = frozenset(() if options.ignore_eos else (token for token in eos if token in vocabulary))
    return Limits(
        max_new_tokens=limit if most is None else most,
        context_limit=limit,
        eos_token_ids=ends,
        stop=stop,
        hidden={} if decoder is None else decoder.hidden_in(stop, ends),
        min_new_tokens=max(options.min_new_tokens, request.min_length - prompt_tokens),
    )


class Answer(Sequence):
    """One answer in the making.

    Attributes:
        row: its number among the answers of a call.
        most_tokens: the most that prompt and answer together come to.
        logits: float32[V], copied: those of the prompt's last token, while others of the group are not as far; else
            None.
        text: what is certain of the answer's text.
        finish_reason: None until it ends.
        drafts: proposes its next tokens; None without speculation.
    """

    def __init__(
        self,
        prompt: I64,
        model: ModelConfig,
        group: Group,
        keeps: bool,
        limits: Limits,
        sampler: Sampler,
        decoder: Decoder | None,
        in_pieces: bool = True,
        row: int = 0,
        drafts: NgramDrafts | None = None,
    ) -> None:
        """Args:
        prompt: int64[T], checked.
        model: the model's config.
        group: of the call.
        keeps: see `Sequence`.
        limits: when it ends.
        sampler: chooses its tokens.
        decoder: makes text of tokens; None leaves it empty.
        in_pieces: whether text is wanted as it becomes certain; otherwise it comes as one piece.
        row: its number.
        drafts: proposes its next tokens.
        """
        super().__init__(prompt, model, keeps, group)
        self._limits = limits
        self._sampler = sampler
        self._decoder = decoder
        # a text that nobody reads before its end is decoded there, at once
        self._detokenizer = detokenizer(decoder) if decoder is not None and (in_pieces or limits.stop) else None
        self._stops = StopStrings(limits.stop)
        self.row = row
        self.drafts = drafts
        self.most_tokens = min(limits.context_limit, len(prompt) + limits.max_new_tokens)
        self.logits: Logits | None = None
        self.text = ""
        self.finish_reason: FinishReason | None = None
        self._first = self._last = 0.0

    @property
    def token_ids(self) -> list[int]:
        """The tokens chosen so far."""
        return self.tokens[len(self.prompt) :]

    def take(self, logits: Logits) -> str:
        """Chooses the next token; returns the text that became certain."""
        if len(self.tokens) - len(self.prompt) < self._limits.min_new_tokens and self._limits.eos_token_ids:
            logits = logits.copy()
            logits[list(self._limits.eos_token_ids)] = -np.inf
        token = self._sampler.choose(logits)
        self.tokens.append(token)
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
        if len(self.tokens) - len(self.prompt) >= self._limits.max_new_tokens:
            return "length"
        if len(self.tokens) >= self._limits.context_limit:
            return "context"
        return None

    @property
    def generation(self) -> Generation:
        """All of it and how fast it came; of one that was closed before its end what there was."""
        seconds, tokens = self._last - self._first, len(self.token_ids) - 1
        return Generation(
            text=self.text,
            token_ids=self.token_ids,
            finish_reason=self.finish_reason or "length",
            prompt_tokens=len(self.prompt),
            reused_tokens=self.reused,
            prefill_tokens_per_s=self.group.computed / self.group.seconds if self.group.seconds else 0.0,
            decode_tokens_per_s=tokens / seconds if tokens > 0 and seconds > 0 else 0.0,
            draft_tokens=0 if self.drafts is None else self.drafts.proposed,
            accepted_tokens=0 if self.drafts is None else self.drafts.accepted,
        )
