"""How many tokens a sequence may have, and how many one prefill call takes."""

from __future__ import annotations

from xamc.compiler.contract import ModelConfig
from xamc.compiler.progress import Progress
from xamc.compiler.spec.model import Spec


def context_lengths(spec: Spec, config: ModelConfig, progress: Progress) -> tuple[int, int]:
    """(context limit, prefill chunk) in tokens: the largest lengths of `frontend.shape.input_ids`.

    The limit is the model's own `max_position_embeddings` when the spec gives none. A larger one is kept, with a
    warning unless the model's RoPE grows with the length: the answers get worse, and that may be what is wanted.
    """
    limit = spec.context_limit or config.max_position_embeddings
    if limit > config.max_position_embeddings and config.rope.kind != "dynamic":
        progress.warn(
            f"the context limit of {limit} tokens is above the model's max_position_embeddings "
            f"{config.max_position_embeddings}; it was not trained for such positions"
        )
    return limit, min(spec.prefill_chunk, limit)
