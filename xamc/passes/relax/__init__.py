"""Rewrites of the Relax program, one file and one class each: fusions, merged projections, the cache's storage."""

from __future__ import annotations

# in the usual order; by name, so that this package stays free of tvm until a pass is used
RELAX_PASSES = (
    "dequantize_matmul",
    "linear_bias",
    "concat_projections",
    "packed_swiglu",
    "rope_cache",
    "norm_residual",
    "kv_storage",
)
