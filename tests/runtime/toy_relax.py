"""The toy of `toy.py` as a TVM library with the functions a CPU artifact has. Run as a script: it imports TVM."""

from __future__ import annotations

import sys

from toy import BLOCK, DIM, HEADS

from xamc.jobs.hidden_imports import hidden

with hidden("torch"):
    import tvm

import tvm.tirx as tirx
from tvm import relax
from tvm.script import relax as R
from tvm.script import tirx as T

WIDTH, HALF = HEADS * DIM, DIM // 2


@T.prim_func(s_tir=True)
def write(  # type: ignore[no-untyped-def]
    ids: T.handle, index: T.handle, table: T.handle, emb: T.handle, cache: T.handle
):
    b, s, v, n, m = T.int64(), T.int64(), T.int64(), T.int64(), T.int64()
    table_ = T.match_buffer(table, (b, m), "int32")
    ids_ = T.match_buffer(ids, (b, s), "int64")
    index_ = T.match_buffer(index, (b,), "int64")
    emb_ = T.match_buffer(emb, (v, WIDTH), "float32")
    cache_ = T.match_buffer(cache, (n, HEADS, DIM, BLOCK), "float32")
    for i, j, h, d in T.grid(b, s, HEADS, DIM):
        with T.sblock("write"):
            vi, vj, vh, vd = T.axis.remap("SSSS", [i, j, h, d])
            cache_[
                T.Cast("int64", table_[vi, (index_[vi] + vj) // T.int64(BLOCK)]),
                vh,
                vd,
                (index_[vi] + vj) % T.int64(BLOCK),
            ] = emb_[ids_[vi, vj], vh * DIM + vd]


@T.prim_func(s_tir=True)
def head(  # type: ignore[no-untyped-def]
    cache: T.handle,
    table: T.handle,
    index: T.handle,
    positions: T.handle,
    cos: T.handle,
    sin: T.handle,
    weight: T.handle,
    out: T.handle,
):
    b, s, v, n, m, r = T.int64(), T.int64(), T.int64(), T.int64(), T.int64(), T.int64()
    cache_ = T.match_buffer(cache, (n, HEADS, DIM, BLOCK), "float32")
    table_ = T.match_buffer(table, (b, m), "int32")
    index_ = T.match_buffer(index, (b,), "int64")
    positions_ = T.match_buffer(positions, (b, s), "int64")
    cos_ = T.match_buffer(cos, (r, HALF), "float32")
    sin_ = T.match_buffer(sin, (r, HALF), "float32")
    weight_ = T.match_buffer(weight, (v, WIDTH), "float32")
    out_ = T.match_buffer(out, (b, s, v), "float32")
    for i, j in T.grid(b, s):
        for n in T.parallel(v):
            with T.sblock("head"):
                vi, vj, vn = T.axis.remap("SSS", [i, j, n])
                out_[vi, vj, vn] = T.float32(0)
                for p, k in T.grid(index_[vi] + vj + T.int64(1), WIDTH):
                    out_[vi, vj, vn] = (
                        out_[vi, vj, vn]
                        + cache_[
                            T.Cast("int64", table_[vi, p // T.int64(BLOCK)]), k // DIM, k % DIM, p % T.int64(BLOCK)
                        ]
                        * weight_[vn, k]
                    )
                out_[vi, vj, vn] = out_[vi, vj, vn] * (
                    cos_[positions_[vi, vj], 0]
                    + cos_[positions_[vi, vj], 1]
                    + sin_[positions_[vi, vj], 0]
                    + sin_[positions_[vi, vj], 1]
                )


@T.prim_func(s_tir=True)
def pick(every: T.handle, last: T.handle, out: T.handle):  # type: ignore[no-untyped-def]
    b, s, v = T.int64(), T.int64(), T.int64()
    every_ = T.match_buffer(every, (b, s, v), "float32")
    last_ = T.match_buffer(last, (b,), "int64")
    out_ = T.match_buffer(out, (b, 1, v), "float32")
    for i, n in T.grid(b, v):
        with T.sblock("pick"):
            vi, vn = T.axis.remap("SS", [i, n])
            out_[vi, 0, vn] = every_[vi, last_[vi], vn]


def build(path: str, vocab_size: int) -> None:
    builder = relax.BlockBuilder()
    for name in ("decode", "prefill_last", "prefill_all"):
        n, m, r = tirx.Var("n", "int64"), tirx.Var("m", "int64"), tirx.Var("r", "int64")
        b, s = (1, 1) if name == "decode" else (tirx.Var("b", "int64"), tirx.Var("s", "int64"))

        def tensor(label: str, shape: tuple[object, ...], dtype: str = "int64") -> object:
            return relax.Var(label, R.Tensor(shape, dtype))

        ids, positions = tensor("input_ids", (b, s)), tensor("position_ids", (b, s))
        index, last = tensor("write_index", (b,)), tensor("last_index", (b,))
        cos, sin = tensor("rope_cos", (r, HALF), "float32"), tensor("rope_sin", (r, HALF), "float32")
        table = tensor("block_table", (b, m), "int32")
        cache_type = R.Tensor((n, HEADS, DIM, BLOCK), "float32")
        kv = relax.Var("kv", R.Tuple([cache_type, R.Tensor((n, HEADS, BLOCK, DIM), "float32")]))
        weight_type = R.Tensor((vocab_size, WIDTH), "float32")
        weights = relax.Var("weights", R.Tuple([weight_type, weight_type]))
        with builder.function(name, [ids, positions, index, last, table, cos, sin, kv, weights]):
            with builder.dataflow():
                written = builder.emit(
                    relax.call_tir_inplace(
                        builder.add_func(write, "write"), [ids, index, table, weights[0], kv[0]], [4], cache_type
                    )
                )
                every = builder.emit(
                    relax.call_tir(
                        builder.add_func(head, "head"),
                        (written, table, index, positions, cos, sin, weights[1]),
                        R.Tensor((b, s, vocab_size), "float32"),
                    )
                )
                if name == "prefill_last":
                    every = builder.emit(
                        relax.call_tir(
                            builder.add_func(pick, "pick"), (every, last), R.Tensor((b, 1, vocab_size), "float32")
                        )
                    )
                output = builder.emit_output(every)
            builder.emit_func_output(output)
    target = tvm.target.Target({"kind": "llvm", "mcpu": "x86-64-v2"})
    tvm.compile(builder.get(), target=target).export_library(path)


if __name__ == "__main__":
    build(sys.argv[1], int(sys.argv[2]))
