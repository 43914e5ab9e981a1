"""The CPU target's name and its Relax passes' names, for processes that do not import tvm."""

from __future__ import annotations

NAME = "tvm_cpu"

RELAX_PASS_NAMES = (
    "dequantize_matmul",
    "linear_bias",
    "concat_projections",
    "packed_swiglu",
    "rope_cache",
    "norm_residual",
    "kv_storage",
)

LIBRARY = "model.so"
RESULT = "result.json"
PASSES_PROOF = "passes.json"
KERNELS_PROOF = "kernels.json"
