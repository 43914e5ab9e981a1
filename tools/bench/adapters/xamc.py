"""xamc's artifacts, through its own Python API as its users call it: sampler and detokenizer run too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class Adapter:
    """`xamc.runtime.load` with its defaults."""

    def __init__(self, path: str, options: dict[str, Any], threads: int) -> None:
        self._path, self._threads = path, threads

    def load(self) -> None:
        from xamc.runtime import load

        self._model = load(self._path, threads=self._threads)

    def prefill(self, ids: Sequence[int]) -> None:
        self._model.logits(np.array([ids], np.int64), positions="last")

    def generate(self, ids: Sequence[int], new_tokens: int, seconds: float) -> tuple[list[int], float, float]:
        answer = self._model.generate(list(ids), max_new_tokens=new_tokens, ignore_eos=True, prefix_cache=False)
        first = answer.prompt_tokens / answer.prefill_tokens_per_s
        rest = (len(answer.token_ids) - 1) / answer.decode_tokens_per_s if answer.decode_tokens_per_s else 0.0
        return answer.token_ids, first, rest

    def logits(self, ids: Sequence[int]) -> Any:
        return self._model.logits(np.array([ids], np.int64))[0]
