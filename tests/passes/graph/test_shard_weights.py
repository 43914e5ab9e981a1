"""Each rank's weights, against slices of whole arrays, and how they are read."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import twins
from xamc.errors import InternalError
from xamc.ir.weights.lazy import Array, ArrayTensor, LazyTensor
from xamc.model.dtypes import DTYPE_BYTES
from xamc.model.families.llama import LLAMA
from xamc.model.parameters import layer_name
from xamc.passes.graph.cleanup import Cleanup
from xamc.passes.graph.shard import Shard, ShardPlan
from xamc.passes.graph.shard.roles import rank_part, role_of
from xamc.passes.graph.weight_storage import WeightStorage

HEAD_DIM, HIDDEN = 2, 5
LAYER = layer_name(3)
ATTENTION = f"{LAYER}.self_attn"
plans = st.builds(
    lambda tp, kv, group, inter, vocab: ShardPlan(tp, kv * group, kv, HEAD_DIM, inter, vocab),
    st.sampled_from([2, 4, 8, 16]),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(1, 70),
    st.integers(1, 40),
)


def _numbered(*shape: int) -> Array:
    """An array without zeros whose every element is another."""
    return np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)


def _parts(name: str, array: Array, plan: ShardPlan) -> list[Array]:
    role = role_of(name, array.shape, LLAMA.layer, plan)
    parts = [rank_part(ArrayTensor(array), role, plan, share) for share in plan.shares]
    arrays = [part.read_rows(0, part.shape[0]) for part in parts]
    assert all(a.shape == p.shape and a.dtype.name == p.dtype for a, p in zip(arrays, parts, strict=True))
    return arrays


@given(plans)
def test_rows_of_heads(plan: ShardPlan) -> None:
    for layer, kind, count in (("q_proj", "head", plan.num_heads), ("v_proj", "kv_head", plan.num_kv_heads)):
        weight, bias = _numbered(count * HEAD_DIM, HIDDEN), _numbered(count * HEAD_DIM)
        for name, whole in ((f"{ATTENTION}.{layer}.weight", weight), (f"{ATTENTION}.{layer}.bias", bias)):
            by_head = whole.reshape(count, HEAD_DIM, *whole.shape[1:])
            for share, part in zip(plan.shares, _parts(name, whole, plan), strict=True):
                start, stop = share.heads if kind == "head" else share.kv_heads
                local = part.reshape(-1, HEAD_DIM, *whole.shape[1:])
                assert len(local) == plan.local("head" if kind == "head" else "kv_head")
                np.testing.assert_array_equal(local[: stop - start], by_head[start:stop])
                assert not local[stop - start :].any()


@given(plans)
def test_row_parallel_layers_sum_to_the_whole(plan: ShardPlan) -> None:
    """x W^T of the whole model is the sum over ranks, with x divided as the rows before it are."""
    for narrow, wide, count in (
        ("self_attn.o_proj.weight", "self_attn.q_proj.weight", plan.num_heads * HEAD_DIM),
        ("mlp.down_proj.weight", "mlp.up_proj.weight", plan.intermediate_size),
    ):
        weight, x = _numbered(HIDDEN, count), _numbered(count, 1)
        parts = zip(_parts(f"{LAYER}.{narrow}", weight, plan), _parts(f"{LAYER}.{wide}", x, plan), strict=True)
        total = np.sum([np.matmul(w.astype(np.int64), part.astype(np.int64)) for w, part in parts], axis=0)
        np.testing.assert_array_equal(total, np.matmul(weight.astype(np.int64), x.astype(np.int64)))


@given(plans)
def test_vocabulary_rows_are_gathered_in_order(plan: ShardPlan) -> None:
    head = _numbered(plan.vocab_rows, HIDDEN)
    gathered = np.concatenate(_parts("lm_head.weight", head, plan))
    np.testing.assert_array_equal(gathered[: plan.vocab_rows], head)
    assert not gathered[plan.vocab_rows :].any()


@given(plans)
def test_a_bias_after_a_sum_is_on_the_first_rank_only(plan: ShardPlan) -> None:
    for name in ("self_attn.o_proj.bias", "mlp.down_proj.bias"):
        first, *others = _parts(f"{LAYER}.{name}", _numbered(HIDDEN), plan)
        np.testing.assert_array_equal(first, _numbered(HIDDEN))
        assert not any(other.any() for other in others)


@given(plans)
def test_scales_follow_rows_and_stay_with_columns(plan: ShardPlan) -> None:
    rows = plan.num_heads * HEAD_DIM
    for share, part in zip(
        plan.shares, _parts(f"{ATTENTION}.q_proj.weight.scales", _numbered(rows), plan), strict=True
    ):
        real = (share.heads[1] - share.heads[0]) * HEAD_DIM
        np.testing.assert_array_equal(part[:real], _numbered(rows)[share.heads[0] * HEAD_DIM :][:real])
        assert np.all(part[real:] == 1), "a row of zeros has scale 1, as everywhere"
    for part in _parts(f"{ATTENTION}.o_proj.weight.scales", _numbered(HIDDEN), plan):
        np.testing.assert_array_equal(part, _numbered(HIDDEN))
    codes = np.full((HIDDEN, rows), -7, np.int8)
    assert {part.dtype.name for part in _parts(f"{ATTENTION}.o_proj.weight.codes", codes, plan)} == {"int8"}


@given(plans)
def test_parameters_of_an_int8_cache_follow_its_heads(plan: ShardPlan) -> None:
    whole = _numbered(plan.num_kv_heads, HEAD_DIM)
    for part, fill in (("scales", 1.0), ("zeros", 0.0)):
        for share, found in zip(plan.shares, _parts(f"past_key.7.{part}", whole, plan), strict=True):
            real = share.kv_heads[1] - share.kv_heads[0]
            np.testing.assert_array_equal(found[:real], whole[share.kv_heads[0] : share.kv_heads[1]])
            assert np.all(found[real:] == fill), "a scale of 0 would divide by zero"


def test_everything_else_is_on_every_rank() -> None:
    plan = ShardPlan(4, 9, 3, HEAD_DIM, 64, 32)
    for name in ("model.norm.weight", "model.embed_tokens.weight", f"{ATTENTION}.q_norm.weight", "rope_cos"):
        tensor = ArrayTensor(_numbered(32, HIDDEN))
        assert all(
            rank_part(tensor, role_of(name, (32, HIDDEN), LLAMA.layer, plan), plan, s) is tensor for s in plan.shares
        )


@dataclass
class Watched:
    """A tensor that notes what is read of it."""

    array: Array
    reads: list[tuple[int, int]] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def dtype(self) -> str:
        return self.array.dtype.name

    def read_rows(self, start: int, stop: int) -> Array:
        self.reads.append((start, stop))
        return self.array[start:stop].copy()


@pytest.mark.parametrize("name", ["q_proj.weight", "o_proj.weight"])
def test_parts_are_read_in_blocks_no_larger_than_asked_for(name: str) -> None:
    plan = ShardPlan(2, 9, 3, 16, 64, 32)
    source = Watched(_numbered(144, 144))
    role = role_of(f"{ATTENTION}.{name}", source.shape, LLAMA.layer, plan)
    assert source.reads == [], "nothing is read to divide"
    for share in plan.shares:
        part = rank_part(source, role, plan, share)
        for at in range(0, part.shape[0], 10):
            part.read_rows(at, min(at + 10, part.shape[0]))
    assert max(stop - start for start, stop in source.reads) <= 10
    rows = sorted(row for start, stop in source.reads for row in range(start, stop))
    # columns are cut out of rows, which every rank reads
    assert rows == sorted([*range(144)] * (1 if name == "q_proj.weight" else 2))


def test_a_tied_head_becomes_a_weight_of_its_own_beside_the_whole_embedding() -> None:
    program = twins.after(twins.THREE_GROUPS, Cleanup(), WeightStorage("float16"))
    embedding = program.weights["model.embed_tokens.weight"]
    ranks = Shard(2).split(program)
    assert all(rank.weights["model.embed_tokens.weight"] is embedding for rank in ranks)
    heads = [rank.weights["lm_head.weight"] for rank in ranks]
    whole = np.concatenate([head.read_rows(0, head.shape[0]) for head in heads])
    np.testing.assert_array_equal(whole, embedding.read_rows(0, 100))
    assert {head.dtype for head in heads} == {"float16"}


def _bytes(weights: dict[str, LazyTensor]) -> dict[str, int]:
    return {name: int(np.prod(t.shape) * DTYPE_BYTES[t.dtype]) for name, t in weights.items()}


@pytest.mark.parametrize("tp", [2, 4, 8, 16])
def test_bytes_add_up(tp: int) -> None:
    """All ranks' bytes are the whole's, plus padding, plus copies of what lies on every rank."""
    program = twins.after(twins.THREE_GROUPS, Cleanup(), WeightStorage("float16"))
    shard = Shard(tp)
    plan, ranks = shard.plan(program), shard.split(program)
    per_rank = [_bytes(rank.weights) for rank in ranks]
    assert all(other == per_rank[0] for other in per_rank)
    for name, size in _bytes(program.weights).items():
        layer = name.split(".")[-2]
        copies = tp * per_rank[0][name]
        if name.endswith((".o_proj.bias", ".down_proj.bias")):
            assert copies == tp * size
        elif layer in ("q_proj", "o_proj"):
            assert copies * plan.num_heads == size * (plan.num_heads + plan.padding("head"))
        elif layer in ("k_proj", "v_proj"):
            kv_heads = tp * plan.local("kv_head")
            assert copies * plan.num_kv_heads == size * kv_heads
        elif layer in ("gate_proj", "up_proj", "down_proj"):
            assert copies * plan.intermediate_size == size * (plan.intermediate_size + plan.padding("intermediate"))
        else:
            assert copies == tp * size


def test_groups_of_columns_are_not_cut() -> None:
    with pytest.raises(InternalError) as error:
        role_of(f"{ATTENTION}.o_proj.weight.scales", (8, 2), LLAMA.layer, ShardPlan(2, 4, 2, 2, 64, 32))
    assert error.value.code == "E1332" and "2 groups of columns" in error.value.message
