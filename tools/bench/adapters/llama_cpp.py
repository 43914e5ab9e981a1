"""llama.cpp through the C interface of llama-cpp-python, without the cost of that package's own sampling.

Settings are llama.cpp's defaults (file mapped, weights repacked where it has kernels for that, flash attention where it
helps, KV cache in float16), with a batch as large as the longest prompt. Its cache is cleared before every prompt.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np


class Adapter:
    """`options`: ``context``, tokens of room; ``mmap`` (default true)."""

    def __init__(self, path: str, options: dict[str, Any], threads: int) -> None:
        self._path, self._threads, self._options = path, threads, options

    def load(self) -> None:
        self._llama = llama = importlib.import_module("llama_cpp")
        self._quiet = llama.llama_log_callback(lambda level, text, data: None)
        llama.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama.llama_backend_init()
        parameters = llama.llama_model_default_params()
        parameters.use_mmap = self._options.get("mmap", True)
        self._model = llama.llama_model_load_from_file(os.fsencode(self._path), parameters)
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {self._path}")
        settings = llama.llama_context_default_params()
        settings.n_ctx = settings.n_batch = self._options["context"]
        settings.n_threads = settings.n_threads_batch = self._threads
        self._context = llama.llama_init_from_model(self._model, settings)
        if not self._context:
            raise RuntimeError(f"llama.cpp has no memory for the context of {self._path}")
        vocabulary = llama.llama_model_get_vocab(self._model)
        self._size = llama.llama_vocab_n_tokens(vocabulary)

    def prefill(self, ids: Sequence[int]) -> None:
        self._llama.llama_memory_clear(self._llama.llama_get_memory(self._context), False)
        self._step(ids)

    def generate(self, ids: Sequence[int], new_tokens: int, seconds: float) -> tuple[list[int], float, float]:
        started = time.perf_counter()
        self._llama.llama_memory_clear(self._llama.llama_get_memory(self._context), False)
        chosen = [self._step(ids)]
        first = time.perf_counter()
        while len(chosen) < new_tokens and (len(chosen) < 2 or time.perf_counter() - first < seconds):
            chosen.append(self._step(chosen[-1:]))
        return chosen, first - started, time.perf_counter() - first

    def _step(self, ids: Sequence[int]) -> int:
        tokens = (self._llama.llama_token * len(ids))(*ids)
        if self._llama.llama_decode(self._context, self._llama.llama_batch_get_one(tokens, len(ids))):
            raise RuntimeError(f"llama_decode failed on {len(ids)} tokens")
        logits = np.ctypeslib.as_array(self._llama.llama_get_logits_ith(self._context, -1), shape=(self._size,))
        return int(logits.argmax())
