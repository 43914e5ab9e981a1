"""Names of the rules by which graph passes count; `passes.expect` may hold them besides passes' names."""

from __future__ import annotations

GRAPH_RULES = frozenset(
    (
        "cache_output",
        "common_subexpression",
        "constant",
        "dead",
        "float32_island",
        "float32_mask",
        "function",
        "identity",
        "int8",
        "layer",
        "linear",
        "logits",
        "mask",
        "norm",
        "past",
        "present",
        "reduction",
        "reshape_shape",
        "rotation",
        "split",
        "uint4",
        "value",
        "weight",
        "window",
    )
)
