"""How many tokens a sequence may have, how many one prefill call takes, and what the model was trained for."""

from __future__ import annotations

from xamc.compiler.spec.model import Spec
from xamc.model.config import ModelConfig
from xamc.targets.registry import CAPS


def context_lengths(spec: Spec, config: ModelConfig) -> tuple[int, int]:
    """(context limit, prefill chunk) in tokens: the largest lengths of `frontend.shape.input_ids`.

    The limit is the model's own `max_position_embeddings` when the spec gives none. A larger one is kept: the answers
    get worse, and that may be what is wanted; `length_warnings` says so.
    """
    limit = spec.context_limit or config.max_position_embeddings
    return limit, min(spec.prefill_chunk, limit)


def length_warnings(spec: Spec, config: ModelConfig) -> tuple[str, ...]:
    """A sentence where sequences may be longer than what the model was trained for."""
    trained, caps = config.max_position_embeddings, CAPS[spec.backend.type]
    if not caps.dynamic_shapes:
        longest = max((*spec.prefill_lengths, *spec.total_lengths))
        if longest <= trained:
            return ()
        text = f"lengths up to {longest} exceed the model's max_position_embeddings {trained}"
        if config.rope.kind != "dynamic":
            return (f"{text}, its training",)
        length = "the KV cache's length" if caps.kv_layout == "in_place" else "its own length"
        return (
            f"{text}: every graph has the RoPE base of {length}, so that answers differ from transformers' unless a "
            "sequence fills the graph",
        )
    limit, _ = context_lengths(spec, config)
    # dynamic NTK is made for `factor` times the length
    if limit <= trained * (max(1.0, config.rope.factor) if config.rope.kind == "dynamic" else 1.0):
        return ()
    return (
        f"the context limit of {limit} tokens is above the model's max_position_embeddings {trained}; it was not "
        "trained for such positions",
    )
