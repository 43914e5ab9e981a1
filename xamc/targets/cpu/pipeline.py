"""The CPU target's passes, in order."""

from __future__ import annotations

from collections.abc import Sequence

from xamc.passes.relax.concat_projections import ConcatProjections
from xamc.passes.relax.dequantize_matmul import DequantizeMatmul
from xamc.passes.relax.kv_storage import KvStorage
from xamc.passes.relax.linear_bias import LinearBias
from xamc.passes.relax.norm_residual import NormResidual
from xamc.passes.relax.packed_swiglu import PackedSwiGLU
from xamc.passes.relax.protocol import RelaxPass
from xamc.passes.relax.rope_cache import RopeCache


def relax_passes(kv_dtype: str) -> Sequence[RelaxPass]:
    """From weights as they are stored, over merged projections, to fused attention and norms.

    An int8 cache is the kernels' matter, as its blocks are: the program's own caches stay float32.
    """
    return (
        DequantizeMatmul(),
        LinearBias(),
        ConcatProjections(),
        PackedSwiGLU(),
        RopeCache(),
        NormResidual(),
        KvStorage("float32" if kv_dtype == "int8" else kv_dtype),
    )
