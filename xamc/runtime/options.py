"""What may be asked of an answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from xamc.errors import MisuseError
from xamc.runtime.sampling import Sampling, check_whole_number


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
        speculate: "ngram": check what followed the last tokens where they stood before, several in one step, which
            costs less than a step for each; the answer is the same. None: a step for each token.
    """

    ignore_eos: bool = False
    stop: str | Sequence[str] = ()
    prefix_cache: bool = True
    eos_token_id: int | Sequence[int] | None = None
    min_new_tokens: int = 0
    speculate: str | None = None

    def __post_init__(self) -> None:
        """As `Sampling`'s."""
        super().__post_init__()
        check_whole_number("min_new_tokens", self.min_new_tokens, 0)
        for name, value in (("ignore_eos", self.ignore_eos), ("prefix_cache", self.prefix_cache)):
            if not isinstance(value, (bool, np.bool_)):
                raise MisuseError("E1612", f"{name} is {value!r}", "it must be True or False")
        if self.speculate not in (None, "ngram"):
            raise MisuseError("E1612", f"speculate is {self.speculate!r}", 'it must be "ngram", or None')
        if self.eos_token_id is not None and np.asarray(self.eos_token_id).dtype.kind not in "iu":
            raise MisuseError("E1612", f"eos_token_id is {self.eos_token_id!r}", "it must be a token id or several")
        stops = (self.stop,) if isinstance(self.stop, str) else self.stop
        if not isinstance(stops, Iterable) or not all(isinstance(stop, str) for stop in stops):
            raise MisuseError("E1612", f"stop is {self.stop!r}", "it must be a string or several")
