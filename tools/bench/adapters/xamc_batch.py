"""xamc's artifacts with a batch of prompts: `ids` are rows of token ids, and times are those of the whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tools.bench.adapters import xamc


class Adapter(xamc.Adapter):
    """`generate` of a list of prompts."""

    def generate(self, ids: Sequence[Any], new_tokens: int, seconds: float) -> tuple[list[int], float, float]:
        rows = [list(row) for row in ids]
        answers = self._model.generate(rows, max_new_tokens=new_tokens, ignore_eos=True, prefix_cache=False)
        first = sum(map(len, rows)) / answers[0].prefill_tokens_per_s
        rest = max((len(a.token_ids) - 1) / a.decode_tokens_per_s for a in answers)
        return answers[0].token_ids, first, rest
