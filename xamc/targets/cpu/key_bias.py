"""Which layers keep the biases of their keys out of the KV cache (`kernels/key_bias.py`), and what caches then hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xamc.ir.dialect import DialectCall, decode
from xamc.ir.relax_program import RelaxProgram
from xamc.passes.lowering.body import Body
from xamc.targets.cpu.weight_plan import stored_parts
from xamc.targets.kernels.kv_pages import KvDtype

F32 = NDArray[np.float32]


def key_bias(program: RelaxProgram, body: Body, update: DialectCall, kv_dtype: KvDtype) -> Any | None:
    """The bias of the projection before a `rope_kv_write` whose keys are cached without it, or None.

    That is done in 8 bits alone, where a large bias would leave few codes to everything else; not where a norm comes
    between bias and rotation, as the cache then holds no sum of the two; and only for RoPE tables that never change.

    Args:
        program: its config says what kind of RoPE it has.
        body: the function that `update` is part of.
        update: the call.
        kv_dtype: how keys and values are stored.
    """
    # with dynamic scaling a rotation depends on the length that was reached when its key was written
    changing = program.config.rope.kind == "dynamic"
    if kv_dtype != "int8" or changing or update.attributes["epsilon"] is not None:
        return None
    projection = decode(body.producer(update.tensors[0]))
    if projection is None or projection.name != "linear" or not projection.attributes["bias"]:
        return None
    return projection.tensors[1 + stored_parts(projection)]


def rotated_biases(program: RelaxProgram, kv_dtype: KvDtype, cos: F32, sin: F32) -> list[F32 | None]:
    """For each layer what its cached keys lack: float32 [Hkv, R, D], its rotated biases by position; or None.

    Args:
        program: with weights that can be read.
        kv_dtype: how keys and values are stored.
        cos: RoPE's table, float32 [R, D/2].
        sin: likewise.
    """
    body = Body.of(program.module["main"])
    found: dict[int, F32 | None] = {}
    for _, value in body.bindings:
        update = decode(value)
        if update is None or update.name != "rope_kv_write":
            continue
        layer = int(update.tensors[5].name.split(".")[-1])
        bias = key_bias(program, body, update, kv_dtype)
        found[layer] = None if bias is None else _rotated(program, bias.name, update.attributes, cos, sin)
    return [found[layer] for layer in sorted(found)]


def _rotated(program: RelaxProgram, name: str, sizes: Mapping[str, Any], cos: F32, sin: F32) -> F32:
    heads, kv_heads, d = (int(sizes[k]) for k in ("heads", "kv_heads", "head_dim"))
    tensor = program.weights[name]
    bias = tensor.read_rows(0, tensor.shape[0]).astype(np.float32)
    low, high = np.split(bias[heads * d : (heads + kv_heads) * d].reshape(kv_heads, 1, d), 2, axis=-1)
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], -1, dtype=np.float32)
