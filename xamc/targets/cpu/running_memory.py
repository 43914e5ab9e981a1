"""What running an artifact of the CPU target takes, before the fact.

The weights are mapped and count once they are read, the KV cache as it is written, and activations are bounded by the
prefill chunk, however long a prompt is. Compared with what a process really takes by `make bench-long`.
"""

from __future__ import annotations

from xamc.model.config import ModelConfig
from xamc.model.kv_cache import KV_BLOCK, kv_bytes_per_token, resident_blocks
from xamc.model.parameters import merged_linears
from xamc.targets.planned import MIB, RunningMemory

# Python, NumPy, the tokenizer and TVM's runtime library, measured by tests/runtime/test_process.py, and what glibc and
# TVM's pools keep beside what is in use
BASE_BYTES = 110 * MIB
# what prefill attention and the matrix products keep per thread: tiles of queries, keys, values, scores, activations
_THREAD_BYTES = 4 * MIB
_THREADS = 2


def running_memory(config: ModelConfig, weights: int, context: int, chunk: int, kv_dtype: str) -> RunningMemory:
    """What one sequence of `context` tokens takes at run time.

    Args:
        config: the model.
        weights: bytes of its packed weights.
        context: tokens of the sequence, prompt and answer.
        chunk: most tokens of a prefill call.
        kv_dtype: of the KV cache, a long name (float16).
    """
    # what a layer's linears read and write, and the GEMM's copy
    row = 4 * (sum(columns + rows for rows, columns in merged_linears(config)) + config.intermediate_size)
    tables = 2 * 4 * context * (config.head_dim // 2)
    logits = 2 * 4 * config.vocab_size
    return RunningMemory(
        weights=weights,
        kv_sequence=cached_tokens(config, context, chunk) * kv_bytes_per_token(config, kv_dtype),
        activations=min(chunk, context) * row + tables + logits + _THREADS * _THREAD_BYTES,
        base=BASE_BYTES,
        kv_dtype=kv_dtype,
        context=context,
    )


def cached_tokens(config: ModelConfig, context: int, chunk: int) -> int:
    """Tokens of a sequence of `context` whose keys and values are in memory at once: fewer where layers have windows.

    Args:
        config: the model.
        context: tokens of the sequence.
        chunk: most tokens of a prefill call.
    """
    if config.window is None:
        return context
    return min(context, KV_BLOCK * resident_blocks(context, KV_BLOCK, config.window, chunk))
