"""OpenVINO GenAI's LLMPipeline on token ids, prefix cache off.

The other settings are its defaults: they choose the KV cache's type, activation quantization and the compute type.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np


class Adapter:
    """`options`: ``backend``, PA (paged attention) or SDPA (the stateful model)."""

    def __init__(self, path: str, options: dict[str, Any], threads: int) -> None:
        self._path, self._threads, self._options = path, threads, options

    def load(self) -> None:
        openvino: Any = importlib.import_module("openvino")
        genai: Any = importlib.import_module("openvino_genai")
        properties: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": self._threads,
            "PERFORMANCE_HINT": "LATENCY",
            "ATTENTION_BACKEND": self._options["backend"],
        }
        if self._options["backend"] == "PA":
            scheduler = genai.SchedulerConfig()
            scheduler.enable_prefix_caching = False
            scheduler.max_num_batched_tokens = self._options["context"]
            properties["scheduler_config"] = scheduler
        self._pipeline = genai.LLMPipeline(self._path, "CPU", **properties)
        self._genai, self._tensor = genai, openvino.Tensor

        class Clock(genai.StreamerBase):
            """Notes when each token came, and stops an answer that takes too long."""

            def __init__(self, seconds: float) -> None:
                super().__init__()
                self.times: list[float] = []
                self._seconds = seconds

            def write(self, token: Any) -> Any:
                now = time.perf_counter()
                self.times.append(now)
                late = len(self.times) > 1 and now - self.times[0] > self._seconds
                return genai.StreamingStatus.STOP if late else genai.StreamingStatus.RUNNING

            def end(self) -> None:
                pass

        self._clock = Clock

    def prefill(self, ids: Sequence[int]) -> None:
        self._pipeline.generate(self._inputs(ids), self._config(1))

    def generate(self, ids: Sequence[int], new_tokens: int, seconds: float) -> tuple[list[int], float, float]:
        clock = self._clock(seconds)
        started = time.perf_counter()
        answer = self._pipeline.generate(self._inputs(ids), self._config(new_tokens), clock)
        return list(answer.tokens[0]), clock.times[0] - started, clock.times[-1] - clock.times[0]

    def _inputs(self, ids: Sequence[int]) -> Any:
        row = np.array([ids], np.int64)
        return self._genai.TokenizedInputs(self._tensor(row), self._tensor(np.ones_like(row)))

    def _config(self, new_tokens: int) -> Any:
        config = self._genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = new_tokens, True, False
        return config
