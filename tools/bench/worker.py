"""The child's side of a benchmark: one engine in a process of its own, told what to do line by line.

Reads one JSON object per line from stdin, writes one per line to stdout. Every engine does the same four things:

- ``load``: from nothing to ready; seconds.
- ``generate``: prefill `ids`, then greedy tokens until there are `new_tokens`, or an engine far too slow for them has
  decoded for `seconds`; seconds of both phases, and the ids.
- ``prefill``: prefill `ids` up to the logits of the last token; seconds.
- ``logits``: logits of every position of the rows of `ids`, saved as float32[B, T, V] to the file `out`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Engine(Protocol):
    """What is measured."""

    def load(self) -> None:
        """Loads the model; imports count too."""

    def prefill(self, ids: Sequence[int]) -> None:
        """Runs a prompt up to the logits of its last token."""

    def generate(self, ids: Sequence[int], new_tokens: int, seconds: float) -> tuple[list[int], float, float]:
        """Greedy tokens, seconds to the first of them, seconds from there to the last."""

    def logits(self, ids: Sequence[int]) -> Any:
        """float32[T, V] of every position of one row."""

    def weight_bytes(self) -> int:
        """Bytes of weights that a decoded token has to read."""


class XamcEngine:
    """An artifact through xamc's own Python API, as its users call it: sampler and detokenizer run too."""

    def __init__(self, path: str, dtype: str, threads: int) -> None:
        self._path, self._threads = path, threads

    def load(self) -> None:
        from xamc.runtime import load

        self._model = load(self._path, threads=self._threads)

    def prefill(self, ids: Sequence[int]) -> None:
        self._model.logits(np.array([ids], np.int64), positions="last")

    def generate(self, ids: Sequence[int], new_tokens: int, seconds: float) -> tuple[list[int], float, float]:
        answer = self._model.generate(list(ids), max_new_tokens=new_tokens, ignore_eos=True)
        first = answer.prompt_tokens / answer.prefill_tokens_per_s
        rest = (len(answer.token_ids) - 1) / answer.decode_tokens_per_s if answer.decode_tokens_per_s else 0.0
        return answer.token_ids, first, rest

    def logits(self, ids: Sequence[int]) -> Any:
        return self._model.logits(np.array([ids], np.int64))[0]

    def weight_bytes(self) -> int:
        manifest = self._model.manifest
        if manifest.weights is None:
            # static graphs: the parameter files of one bucket's ranks
            first = manifest.graphs[0].length
            files = {graph.params for graph in manifest.graphs if graph.length == first}
            return sum(file.nbytes for file in manifest.files if file.path in files)
        tied = manifest.model.tie_word_embeddings
        # An untied embedding gives one row per token; a tied one is the output head too and is read as a whole.
        return sum(entry.nbytes for entry in manifest.weights.tensors if tied or "embed_tokens" not in entry.name)


class TransformersEngine:
    """transformers without torch.compile, at its best: SDPA, DynamicCache, logits of the last position only."""

    def __init__(self, path: str, dtype: str, threads: int) -> None:
        self._path, self._dtype, self._threads = path, dtype, threads

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
            cache, tokens = self._cache(config=self._model.config), self._torch.tensor([ids])
            started = time.perf_counter()
            chosen = [int(self._step(tokens, cache).argmax())]
            first = time.perf_counter()
            while len(chosen) < new_tokens and (len(chosen) < 2 or time.perf_counter() - first < seconds):
                chosen.append(int(self._step(self._torch.tensor([chosen[-1:]]), cache).argmax()))
            return chosen, first - started, time.perf_counter() - first

    def logits(self, ids: Sequence[int]) -> Any:
        with self._torch.inference_mode():
            return self._model(self._torch.tensor([ids]), use_cache=False).logits[0].float().numpy()

    def weight_bytes(self) -> int:
        tied = self._model.config.tie_word_embeddings
        return sum(
            parameter.numel() * parameter.element_size()
            for name, parameter in self._model.named_parameters()
            if tied or "embed_tokens" not in name
        )

    def _step(self, tokens: Any, cache: Any) -> Any:
        return self._model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]


ENGINES: dict[str, Callable[[str, str, int], Engine]] = {"xamc": XamcEngine, "transformers": TransformersEngine}


def answer(engine: Engine, request: dict[str, Any]) -> dict[str, Any]:
    """Does what one line asks for."""
    started = time.perf_counter()
    what = request["do"]
    if what == "load":
        engine.load()
        return {"seconds": time.perf_counter() - started, "weight_bytes": engine.weight_bytes()}
    if what == "prefill":
        engine.prefill(request["ids"])
        return {"seconds": time.perf_counter() - started}
    if what == "generate":
        ids, first, rest = engine.generate(request["ids"], request["new_tokens"], request["seconds"])
        return {"token_ids": ids, "first_seconds": first, "rest_seconds": rest}
    if what == "logits":
        rows = [np.asarray(engine.logits(row), np.float32) for row in request["ids"]]
        with Path(request["out"]).open("wb") as file:
            np.save(file, np.stack(rows))
        return {"seconds": time.perf_counter() - started}
    raise ValueError(f"unknown request {what!r}")


def main() -> None:
    """``worker.py ENGINE PATH DTYPE THREADS``; answers requests until stdin ends."""
    kind, path, dtype, threads = sys.argv[1:5]
    engine = ENGINES[kind](path, dtype, int(threads))
    # Libraries print to stdout as they like; answers go to a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(answer(engine, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
