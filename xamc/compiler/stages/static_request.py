"""What a spec asks of a target of static graphs: its buckets and ranks."""

from __future__ import annotations

from dataclasses import replace

from xamc.compiler.contract import Bucket, ModelConfig
from xamc.compiler.errors import InputError, UnsupportedError
from xamc.compiler.progress import Progress
from xamc.compiler.spec.model import Spec
from xamc.targets.base import TargetCaps
from xamc.targets.request import TargetRequest

RANKS = (1, 2, 4, 8, 16)


def static_request(spec: Spec, caps: TargetCaps, request: TargetRequest) -> TargetRequest:
    """`request` with buckets, ranks and whether the graphs of a rank share their parameters.

    Args:
        spec: `frontend.shape.input_ids` has the lengths, `frontend.model_kwargs.tp` the ranks.
        caps: the target's.
        request: what the target is asked for otherwise.

    Raises:
        InputError: E1413 a spec without lengths.
        UnsupportedError: E1414 a number of ranks that the target doesn't have.
    """
    if not spec.prefill_lengths or "input_ids" not in spec.frontend.shape:
        raise InputError(
            "E1413",
            f"{caps.name} compiles graphs of fixed lengths, and frontend.shape.input_ids gives none",
            fix="add frontend.shape.input_ids: [[1024], [2048]], the prefill and the total lengths in tokens",
            keys=("frontend.shape.input_ids", "frontend.shape", "frontend.type"),
        )
    if spec.tp not in RANKS or spec.tp > caps.max_tensor_parallel:
        raise UnsupportedError(
            "E1414",
            f"frontend.model_kwargs.tp is {spec.tp}; {caps.name} divides a model among 1, 2, 4, 8 or 16 ranks",
            fix="set tp to one of them",
            keys=("frontend.model_kwargs.tp",),
        )
    buckets = [Bucket("prefill", length) for length in dict.fromkeys(spec.prefill_lengths)]
    buckets += [Bucket("decode", length) for length in dict.fromkeys(spec.total_lengths)]
    return replace(request, buckets=tuple(buckets), tp=spec.tp, merge_params=bool(spec.backend.merge_params))


def warn_of_lengths(request: TargetRequest, config: ModelConfig, progress: Progress) -> None:
    """Says when a graph is longer than what the model was trained for, and what that means for its RoPE tables."""
    longest = max(bucket.length for bucket in request.buckets)
    if longest <= config.max_position_embeddings:
        return
    limit = config.max_position_embeddings
    if config.rope.kind == "dynamic":
        progress.warn(
            f"lengths up to {longest} exceed the model's max_position_embeddings {limit}: every graph has the RoPE "
            "base of its own length, so that answers differ from transformers' unless a sequence fills the graph"
        )
    else:
        progress.warn(f"lengths up to {longest} exceed the model's max_position_embeddings {limit}, its training")
