"""One position per row of a batch: the hidden state whose logits are wanted."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T


def gather_position(width: int) -> Any:
    """PrimFunc (x [B, S, width] f32, index int64 [B], y [B, width] f32): y[b] = x[b, index[b]]."""

    @T.prim_func(s_tir=True)
    def kernel(x: T.handle, index: T.handle, y: T.handle) -> None:
        T.func_attr({"tirx.noalias": True})
        batch, seq = T.int64(), T.int64()
        X = T.match_buffer(x, (batch, seq, width), "float32")
        P = T.match_buffer(index, (batch,), "int64")
        Y = T.match_buffer(y, (batch, width), "float32")
        for b, c in T.grid(batch, width):
            with T.sblock("gather"):
                vb, vc = T.axis.remap("SS", [b, c])
                Y[vb, vc] = X[vb, P[vb], vc]

    return kernel
