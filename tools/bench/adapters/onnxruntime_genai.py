"""ONNX Runtime GenAI on the CPU, its own greedy search; every prompt has its own generator, so nothing is cached."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Sequence
from typing import Any


class Adapter:
    """`options`: none."""

    def __init__(self, path: str, options: dict[str, Any], threads: int) -> None:
        self._path, self._threads = path, threads

    def load(self) -> None:
        self._genai = genai = importlib.import_module("onnxruntime_genai")
        config = genai.Config(self._path)
        session = {"intra_op_num_threads": self._threads, "inter_op_num_threads": 1}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        self._model = genai.Model(config)

    def prefill(self, ids: Sequence[int]) -> None:
        self._generator(len(ids) + 1).append_tokens(list(ids))

    def generate(self, ids: Sequence[int], new_tokens: int, seconds: float) -> tuple[list[int], float, float]:
        started = time.perf_counter()
        generator = self._generator(len(ids) + new_tokens)
        generator.append_tokens(list(ids))
        generator.generate_next_token()
        chosen = [int(generator.get_next_tokens()[0])]
        first = time.perf_counter()
        while len(chosen) < new_tokens and (len(chosen) < 2 or time.perf_counter() - first < seconds):
            generator.generate_next_token()
            chosen.append(int(generator.get_next_tokens()[0]))
        return chosen, first - started, time.perf_counter() - first

    def _generator(self, length: int) -> Any:
        parameters = self._genai.GeneratorParams(self._model)
        # the shortest answer is the longest one: an end-of-text token does not end it
        parameters.set_search_options(do_sample=False, min_length=length, max_length=length, batch_size=1)
        return self._genai.Generator(self._model, parameters)
