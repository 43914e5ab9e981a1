"""The division of heads, columns and rows among ranks, for any model and number of ranks."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import twins
from xamc.errors import InputError
from xamc.passes.graph.shard.plan import ShardPlan

TP = (1, 2, 4, 8, 16)
plans = st.builds(
    lambda tp, kv, group, inter, vocab: ShardPlan(tp, kv * group, kv, 64, inter, vocab),
    st.sampled_from(TP),
    st.integers(1, 33),
    st.integers(1, 16),
    st.integers(1, 4000),
    st.integers(1, 4000),
)


@given(plans)
def test_everything_is_owned_and_contiguous(plan: ShardPlan) -> None:
    for kind, size in (
        ("head", plan.num_heads),
        ("intermediate", plan.intermediate_size),
        ("vocab", plan.vocab_rows),
    ):
        spans = [share.of(kind) for share in plan.shares]
        assert spans[0][0] == 0 and spans[-1][1] == size
        assert all(previous[1] == following[0] for previous, following in pairwise(spans))
        assert all(0 <= stop - start <= plan.local(kind) for start, stop in spans)
        assert plan.padding(kind) == plan.tp * plan.local(kind) - size
    owned = {head for share in plan.shares for head in range(*share.kv_heads)}
    assert owned == set(range(plan.num_kv_heads))


@given(plans)
def test_every_query_head_meets_its_own_kv_head(plan: ShardPlan) -> None:
    ratio = plan.local("group")
    assert ratio * plan.local("kv_head") == plan.local("head")
    for share in plan.shares:
        (first, last), (kv, end) = share.heads, share.kv_heads
        for place, head in enumerate(range(first, last)):
            assert kv + place // ratio == head // plan.group < end
        assert plan.group > 1 or share.heads == share.kv_heads


@given(plans)
def test_copies_of_kv_heads(plan: ShardPlan) -> None:
    copies = [sum(head in range(*share.kv_heads) for share in plan.shares) for head in range(plan.num_kv_heads)]
    assert set(copies) == {plan.replicas}
    if plan.replicas > 1:
        assert plan.local("kv_head") == 1 and plan.tp % plan.replicas == 0 and plan.group > 1
    assert plan.kv_groups % plan.tp == 0 or plan.tp % plan.kv_groups == 0


@given(plans)
def test_the_cheapest_valid_padding(plan: ShardPlan) -> None:
    """Against an independent search over all numbers of groups."""

    def cost(groups: int) -> float:
        if groups % plan.tp and (plan.tp % groups or plan.group == 1):
            return float("inf")
        ranks = max(1, plan.tp // groups)
        return max(1, groups // plan.tp) * -(-plan.group // ranks) + max(1, groups // plan.tp)

    candidates = range(plan.num_kv_heads, plan.num_kv_heads + plan.tp + 1)
    assert plan.local("head") + plan.local("kv_head") == min(map(cost, candidates))
    assert plan.kv_groups == min(candidates, key=cost)
    if plan.num_kv_heads % plan.tp == 0 or (plan.tp % plan.num_kv_heads == 0 and plan.group > 1):
        assert plan.kv_groups == plan.num_kv_heads, "no padding where none is needed"


@given(plans)
def test_widths_are_multiples(plan: ShardPlan) -> None:
    if plan.tp == 1:
        assert all(plan.padding(kind) == 0 for kind in ("head", "kv_head", "intermediate", "vocab"))
    else:
        assert plan.local("intermediate") % 16 == 0
        assert 0 <= plan.padding("intermediate") < 16 * plan.tp
    assert 0 <= plan.padding("vocab") < plan.tp


@pytest.mark.parametrize(
    ("heads", "kv", "tp", "local", "groups", "spans", "kv_spans"),
    [
        # SmolLM2-135M: align_qkv of the vendor, 3 groups become 4
        (9, 3, 2, (6, 2), 4, [(0, 6), (6, 9)], [(0, 2), (2, 3)]),
        (9, 3, 4, (3, 1), 4, [(0, 3), (3, 6), (6, 9), (9, 9)], [(0, 1), (1, 2), (2, 3), (3, 3)]),
        # four groups on two ranks each are cheaper than eight
        (9, 3, 8, (2, 1), 4, [(0, 2), (2, 3), (3, 5), (5, 6), (6, 8), (8, 9), (9, 9), (9, 9)], None),
        # chatglm2 at tp 4: KV heads 0, 0, 1, 1
        (32, 2, 4, (8, 1), 2, [(0, 8), (8, 16), (16, 24), (24, 32)], [(0, 1), (0, 1), (1, 2), (1, 2)]),
        # falcon-7b at tp 4: one KV head everywhere, 71 heads become 72
        (71, 1, 4, (18, 1), 1, [(0, 18), (18, 36), (36, 54), (54, 71)], [(0, 1)] * 4),
        # qwen2-0.5b at tp 4: 7 heads of a group on two ranks
        (14, 2, 4, (4, 1), 2, [(0, 4), (4, 7), (7, 11), (11, 14)], [(0, 1), (0, 1), (1, 2), (1, 2)]),
        (32, 8, 4, (8, 2), 8, [(0, 8), (8, 16), (16, 24), (24, 32)], [(0, 2), (2, 4), (4, 6), (6, 8)]),
    ],
)
def test_real_models(heads, kv, tp, local, groups, spans, kv_spans) -> None:  # type: ignore[no-untyped-def]
    plan = ShardPlan(tp, heads, kv, 64, 1536, 49152)
    assert (plan.local("head"), plan.local("kv_head")) == local and plan.kv_groups == groups
    assert [share.heads for share in plan.shares] == spans
    assert kv_spans is None or [share.kv_heads for share in plan.shares] == kv_spans


def test_impossible_requests() -> None:
    config = twins.config("tied")
    for wrong, tp in ((config, 0), (replace(config, num_heads=5), 2)):
        with pytest.raises(InputError) as error:
            ShardPlan.of(wrong, tp)
        assert error.value.code == "E1331"
