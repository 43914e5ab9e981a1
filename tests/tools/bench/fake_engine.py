"""An engine of arithmetic only, with which the tests race: a token is the sum of all before it, modulo `modulus`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any


class Adapter:
    """`options`: ``modulus``, ``seconds`` per token of a prompt, ``fail`` at a request."""

    def __init__(self, path: str, options: dict[str, Any], threads: int) -> None:
        self._options = options

    def load(self) -> None:
        print("noise on stdout must not disturb the answers")
        if self._options.get("fail"):
            raise RuntimeError("a wheel came off")

    def prefill(self, ids: Sequence[int]) -> None:
        time.sleep(self._options["seconds"] * len(ids))

    def generate(self, ids: Sequence[int], new_tokens: int, seconds: float) -> tuple[list[int], float, float]:
        self.prefill(ids)
        history = list(ids)
        for _ in range(new_tokens):
            history.append(sum(history) % self._options["modulus"])
        return history[len(ids) :], self._options["seconds"] * len(ids), 1e-3 * new_tokens

    def logits(self, ids: Sequence[int]) -> Any:
        return [[float(i) for i in ids]]
