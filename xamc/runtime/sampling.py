"""How the next token is chosen from logits: greedy, or temperature, top-k, top-p and repetition penalty.

Semantics and order are those of transformers' logits processors: repetition penalty, temperature, top-k, top-p.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xamc.errors import InternalError, MisuseError
from xamc.runtime.executor import F32, I64


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        temperature: 0 chooses the most likely token (greedy), else logits are divided by it.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the smallest set of tokens whose probability reaches it (nucleus sampling); 1 keeps all.
        repetition_penalty: logits of tokens already seen (prompt and answer) are divided by it if positive, else
            multiplied; 1 changes nothing.
        seed: makes a run reproducible; each row of a batch draws from its own stream. None takes entropy.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuses values that mean nothing.

        Raises:
            MisuseError: E1612.
        """
        for name, value, most, allowed in (
            ("temperature", self.temperature, math.inf, "0 (greedy) or a positive number"),
            ("top_p", self.top_p, 1, "above 0 and at most 1"),
            ("repetition_penalty", self.repetition_penalty, math.inf, "above 0"),
        ):
            is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
            least = 0 if name == "temperature" else math.ulp(0.0)
            if not is_number or not least <= value <= most or value == math.inf:
                raise MisuseError("E1612", f"{name} is {value!r}", f"it must be {allowed}")
        check_whole_number("top_k", self.top_k, 0, " (0 keeps all tokens)")
        if self.seed is not None:
            check_whole_number("seed", self.seed, 0)


def check_whole_number(name: str, value: object, least: int, remark: str = "") -> None:
    """Refuses an option's value that is no whole number of at least `least`.

    Raises:
        MisuseError: E1612.
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or value < least:
        raise MisuseError("E1612", f"{name} is {value!r}", f"it must be a whole number, at least {least}{remark}")


def penalize_repetition(logits: F32, seen: NDArray[np.bool_], penalty: float) -> F32:
    """Keskar et al. 2019 (CTRL), section 4.1: float32[V] logits, lowered where `seen` (bool[V])."""
    factor = np.float32(penalty)
    tokens = np.flatnonzero(seen)
    before = logits[tokens]
    result = logits.copy()
    result[tokens] = np.where(before < 0, before * factor, before / factor)
    return result


def keep_top_k(logits: F32, k: int) -> F32:
    """float32[V] with all but the k largest at minus infinity; ties with the k-th stay."""
    if k >= len(logits):
        return logits
    threshold = np.partition(logits, len(logits) - k)[len(logits) - k]
    return np.where(logits < threshold, np.float32(-np.inf), logits)


def keep_top_p(logits: F32, p: float) -> F32:
    """float32[V] with all but the nucleus at minus infinity (Holtzman et al. 2020); the most likely token stays."""
    if p >= 1:
        return logits
    possible = np.flatnonzero(logits > -np.inf)
    probabilities = softmax(logits[possible])
    # Tokens below this bound weigh at most 1 - p together, whatever their number: the rest is sorted, not all.
    candidates = np.flatnonzero(probabilities > (1 - p) / len(possible))
    order = candidates[np.argsort(-probabilities[candidates], kind="stable")]
    # A token is dropped when it and all less likely ones together weigh at most 1 - p.
    before = np.cumsum(probabilities[order]) - probabilities[order]
    kept = possible[order[before < p]]
    result = np.full_like(logits, -np.inf)
    result[kept] = logits[kept]
    return result


def softmax(logits: F32) -> NDArray[np.float64]:
    """Probabilities, float64[V], so that they sum to 1 for the generator."""
    shifted = np.exp(logits.astype(np.float64) - float(logits.max()))
    result: NDArray[np.float64] = shifted / shifted.sum()
    return result


class Sampler:
    """Chooses the tokens of one row."""

    def __init__(self, sampling: Sampling, prompt: I64, vocab_size: int, row: int = 0) -> None:
        """Starts a row.

        Args:
            sampling: how to choose.
            prompt: int64[T], counted as seen by the repetition penalty.
            vocab_size: V.
            row: index in the batch; rows with one seed draw different numbers.
        """
        self._sampling = sampling
        self._seen: NDArray[np.bool_] | None = None
        if sampling.repetition_penalty != 1:
            self._seen = np.zeros(vocab_size, np.bool_)
            self._seen[prompt] = True
        self._row = row
        self._generator: np.random.Generator | None = None

    def scores(self, logits: F32) -> F32:
        """The logits, float32[V], after every processor: minus infinity where a token can't be chosen."""
        options = self._sampling
        if self._seen is not None:
            logits = penalize_repetition(logits, self._seen, options.repetition_penalty)
        if options.temperature == 0:
            return logits
        logits = logits / np.float32(options.temperature)
        if options.top_k:
            logits = keep_top_k(logits, options.top_k)
        return keep_top_p(logits, options.top_p)

    def choose(self, logits: F32) -> int:
        """The next token for float32[V] logits; it counts as seen from now on.

        Raises:
            InternalError: E1617, the logits are not numbers.
        """
        is_greedy = self._sampling.temperature == 0
        scores = self.scores(logits)
        # a NaN counts as the largest number in both
        token = int(scores.argmax()) if is_greedy else 0
        if np.isnan(scores[token] if is_greedy else logits.max()):
            raise InternalError(
                "E1617",
                "the model's logits are not numbers (NaN)",
                "run `xamc verify` on the artifact; with fp16 weights, compile with --set backend.dtype=bf16",
            )
        if not is_greedy:
            # Only tokens that can be chosen take part, so that adding a token to a vocabulary changes no draw.
            candidates = np.flatnonzero(scores > -np.inf)
            cumulative = np.cumsum(softmax(scores[candidates]))
            drawn = np.searchsorted(cumulative, self._random() * cumulative[-1], side="right")
            token = int(candidates[min(int(drawn), len(candidates) - 1)])
        if self._seen is not None:
            self._seen[token] = True
        return token

    def _random(self) -> float:
        """The row's next random number in [0, 1)."""
        if self._generator is None:
            # here, as the import of numpy.random takes memory that greedy choices don't need
            seed = None if self._sampling.seed is None else [self._sampling.seed, self._row]
            self._generator = np.random.default_rng(seed)
        return self._generator.random()
