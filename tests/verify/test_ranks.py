"""All ranks as one graph: what is joined, what stays apart, and calls that are divided and put together again."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import twins
from xamc.errors import InternalError
from xamc.ir.names import WEIGHT_ROLE
from xamc.ir.onnx_graph import add_function, new_node
from xamc.ir.program import Program
from xamc.ir.tolerances import tolerance
from xamc.ir.weights.lazy import ArrayTensor
from xamc.passes.graph.cleanup import Cleanup
from xamc.passes.graph.shard import Shard, ShardPlan, Share
from xamc.passes.graph.shard.collectives import all_gather_function, all_reduce_function
from xamc.passes.protocol import Arrays, Tensors
from xamc.verify.metrics import relative_error
from xamc.verify.oracle import Oracle
from xamc.verify.ranks import merge_ranks, rank_name, split_call

F32 = ir.TensorType(ir.DataType.FLOAT)


def join_caches(plan: ShardPlan, fetches: Tensors) -> Arrays:
    """Outputs of the merged graph as those of the whole one: KV heads of all ranks one after the other.

    Of what several ranks hold, the first rank's is taken.
    """
    prefixes = ("present_key.", "present_value.")
    joined: Arrays = {}
    for name, array in fetches.items():
        owner, _, whole = name.partition(".")
        if not owner.startswith("rank"):
            joined[name] = np.asarray(array)[..., : plan.vocab_rows] if name == "logits" else np.asarray(array)
        elif owner == "rank0" and whole.startswith(prefixes):
            parts = [(share, fetches[rank_name(share.rank, whole)]) for share in _owners(plan)]
            heads = [np.asarray(part)[:, : share.kv_heads[1] - share.kv_heads[0]] for share, part in parts]
            joined[whole] = np.concatenate(heads, axis=1)
        elif owner == "rank0":
            joined[whole] = np.asarray(array)
    return joined


def _owners(plan: ShardPlan) -> list[Share]:
    """The ranks whose KV heads together are all of them, each once."""
    return [share for share in plan.shares if share.rank % plan.replicas == 0]


def _rank(weight: float, ranks: int, name: str = "w") -> Program:
    """x [2, 3] -> reduced = AllReduce(x * w), gathered = AllGather(x * w) along the last axis."""
    x, w = (ir.val(n, dtype=ir.DataType.FLOAT, shape=s) for n, s in (("x", [2, 3]), (name, [1])))
    w.metadata_props[WEIGHT_ROLE] = "float32"
    product = new_node("Mul", [x, w], ["product"])
    reduced = new_node("AllReduce", [product.outputs[0]], ["reduced"], domain="xamc")
    gathered = new_node("AllGather", [product.outputs[0]], ["gathered"], domain="xamc", axis=-1)
    negative = new_node("Neg", [reduced.outputs[0]], ["negative"])
    for node, columns in ((product, 3), (reduced, 3), (gathered, 3 * ranks), (negative, 3)):
        node.outputs[0].type, node.outputs[0].shape = F32, ir.Shape([2, columns])
    graph = ir.Graph(
        [x, w],
        [negative.outputs[0], gathered.outputs[0]],
        nodes=[product, reduced, gathered, negative],
        opset_imports={"": 24},
        name="rank",
    )
    model = ir.Model(graph, ir_version=11)
    add_function(model, all_reduce_function())
    add_function(model, all_gather_function(ranks))
    return Program(model, {name: ArrayTensor(np.array([weight], np.float32))}, twins.config("tied"))


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_collectives_are_sums_and_concatenations_over_ranks(ranks: int) -> None:
    merged = merge_ranks([_rank(10.0**rank, ranks) for rank in range(ranks)])
    weights = {name: tensor.read_rows(0, 1) for name, tensor in merged.weights.items()}
    assert set(weights) == {f"rank{rank}.w" for rank in range(ranks)}
    x = twins.seeded((2, 3))
    found = Oracle(merged.model, weights).run({"x": x})
    factors = [np.float32(10.0**rank) for rank in range(ranks)]
    np.testing.assert_array_equal(found["gathered"], np.concatenate([x * factor for factor in factors], axis=1))
    expected = -np.sum([(x * factor).astype(np.float64) for factor in factors], axis=0)
    for rank in range(ranks):
        assert relative_error(found[f"rank{rank}.negative"], expected) <= tolerance("reassociated")


def test_a_rank_alone_runs_with_right_shapes() -> None:
    """The collectives' bodies: what an executor that knows no ranks makes of them."""
    x = twins.seeded((2, 3))
    found = Oracle(_rank(2.0, 4).model, {"w": np.array([2.0], np.float32)}).run({"x": x})
    assert found["gathered"].shape == (2, 12)
    np.testing.assert_array_equal(found["negative"], -2 * x)


def test_ranks_of_different_structure_are_refused() -> None:
    for other in (_rank(1.0, 2, name="v"), _rank(1.0, 3)):
        with pytest.raises(InternalError) as error:
            merge_ranks([_rank(1.0, 2), other])
        assert error.value.code == "E1334"


def test_data_inputs_are_shared_and_caches_are_not() -> None:
    program, _ = twins.twin("windowed")
    Cleanup().run(program)
    merged = merge_ranks(Shard(2).split(program))
    names = [str(value.name) for value in merged.data_inputs()]
    shared = ["input_ids", "position_ids", "rope_cos", "rope_sin"]
    caches = [f"past_{kind}.{layer}" for layer in range(2) for kind in ("key", "value")]
    assert names == [*shared, *(rank_name(0, name) for name in caches), *(rank_name(1, name) for name in caches)]
    outputs = [str(value.name) for value in merged.model.graph.outputs]
    assert outputs[0] == "logits" and outputs.count("logits") == 1 and len(outputs) == 9


plans = st.builds(
    lambda tp, kv, group, vocab: ShardPlan(tp, kv * group, kv, 4, 64, vocab),
    st.sampled_from([1, 2, 4, 8, 16]),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(5, 40),
)


@given(plans)
def test_a_divided_call_can_be_put_together_again(plan: ShardPlan) -> None:
    cache = np.random.default_rng(0).standard_normal((1, plan.num_kv_heads, 3, 4)).astype(np.float32)
    logits = np.arange(1, plan.vocab_rows + 1, dtype=np.float32)[None, None]
    feeds: Arrays = {"input_ids": np.ones((1, 1), np.int64), "past_key.0": cache, "past_value.0": -cache}
    fetches: Arrays = {"logits": logits, "present_key.0": cache, "present_value.0": 2 * cache}
    divided, expected = split_call(plan, feeds, fetches)
    assert divided["input_ids"] is feeds["input_ids"] and len(divided) == 1 + 2 * plan.tp
    for share in plan.shares:
        part = divided[f"rank{share.rank}.past_key.0"]
        assert part.shape == (1, plan.local("kv_head"), 3, 4)
        start, stop = share.kv_heads
        np.testing.assert_array_equal(part[:, : stop - start], cache[:, start:stop])
        assert not part[:, stop - start :].any(), "a padded KV head's cache holds zeros"
    joined = join_caches(plan, expected)
    assert set(joined) == set(fetches)
    for name, array in fetches.items():
        np.testing.assert_array_equal(joined[name], array)


def test_codes_stay_codes_and_hidden_states_are_expected_of_every_rank() -> None:
    plan = ShardPlan(2, 9, 3, 4, 64, 32)
    codes = np.arange(-6, 6, dtype=np.int8).reshape(1, 3, 1, 4)
    hidden = np.ones((1, 2, 20), np.float32)
    divided, expected = split_call(plan, {"past_key.0": codes}, {"logits": hidden})
    assert divided["rank1.past_key.0"].dtype == np.int8 and divided["rank1.past_key.0"].shape == (1, 2, 1, 4)
    assert set(expected) == {"rank0.logits", "rank1.logits"}
    np.testing.assert_array_equal(join_caches(plan, expected)["logits"], hidden)
