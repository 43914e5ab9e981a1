"""transformers without torch.compile, at its best: SDPA, DynamicCache, logits of the last position only."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any


class Adapter:
    """`options`: ``dtype``, torch's name of the type."""

    def __init__(self, path: str, options: dict[str, Any], threads: int) -> None:
        self._path, self._dtype, self._threads = path, options["dtype"], threads

    def load(self) -> None:
        import torch
        import transformers

        torch.set_num_threads(self._threads)
        self._torch, self._cache = torch, transformers.DynamicCache
        model = transformers.AutoModelForCausalLM.from_pretrained(
            self._path, dtype=getattr(torch, self._dtype), attn_implementation="sdpa", local_files_only=True
        )
        self._model = model.eval()

    def prefill(self, ids: Sequence[int]) -> None:
        with self._torch.inference_mode():
            self._step(self._torch.tensor([ids]), self._cache(config=self._model.config))

    def generate(self, ids: Sequence[int], new_tokens: int, seconds: float) -> tuple[list[int], float, float]:
        with self._torch.inference_mode():
            started = time.perf_counter()
            cache, tokens = self._cache(config=self._model.config), self._torch.tensor([ids])
            chosen = [int(self._step(tokens, cache).argmax())]
            first = time.perf_counter()
            while len(chosen) < new_tokens and (len(chosen) < 2 or time.perf_counter() - first < seconds):
                chosen.append(int(self._step(self._torch.tensor([chosen[-1:]]), cache).argmax()))
            return chosen, first - started, time.perf_counter() - first

    def logits(self, ids: Sequence[int]) -> Any:
        with self._torch.inference_mode():
            return self._model(self._torch.tensor([ids]), use_cache=False).logits[0].float().numpy()

    def _step(self, tokens: Any, cache: Any) -> Any:
        return self._model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]
