from __future__ import annotations

import onnx_ir as ir
import pytest

from tests import twins
from tests.golden_files import check_golden
from tests.mutation import mutated
from tests.passes.graph.cases import DECODE, PREFILL, TWIN_CACHE, golden_of
from xamc.errors import InternalError
from xamc.model.bucket import Bucket
from xamc.passes.graph import eager_attention
from xamc.passes.graph.cache_rows import CacheRows
from xamc.passes.graph.causal_mask import CausalMask
from xamc.passes.graph.cleanup import Cleanup
from xamc.passes.graph.eager_attention import EagerAttention
from xamc.passes.graph.phase import StaticPhase
from xamc.passes.graph.rope_table import RopeTables
from xamc.verify.proof import prove


def test_golden() -> None:
    check_golden("passes/eager_attention.txt", golden_of("eager_attention", eager_attention))


def test_heads_that_are_not_grouped_are_not_copied() -> None:
    """internlm has as many KV heads as query heads."""
    program = twins.family("internlm")
    for graph_pass in (Cleanup(), StaticPhase(DECODE), CausalMask(), EagerAttention()):
        graph_pass.run(program)
    assert twins.nodes(program, "Expand") == [] and len(twins.nodes(program, "Concat")) == 4


@pytest.mark.parametrize("bucket", [PREFILL, DECODE], ids=["prefill", "decode"])
def test_the_order_of_mask_and_rotation_does_not_matter(bucket: Bucket) -> None:
    """Without the table pass before it, and with the scale that Attention has by default."""
    program, cases = twins.twin("windowed")
    for node in twins.nodes(program, "Attention"):
        node.attributes.pop("scale")
    prove([Cleanup(), StaticPhase(bucket), CausalMask(), EagerAttention()], program, cases).require()


def test_attention_that_does_more_is_refused_by_name() -> None:
    with pytest.raises(InternalError) as error:
        EagerAttention().run(twins.after("tied", Cleanup(), StaticPhase(PREFILL)))
    assert error.value.code == "E1323" and "is_causal" in error.value.message and "getitem" in error.value.message
    with pytest.raises(InternalError, match="a mask of BOOL"):
        EagerAttention().run(twins.after("tied", Cleanup(), StaticPhase(DECODE)))
    program = twins.after("tied", Cleanup(), StaticPhase(PREFILL), CausalMask())
    twins.nodes(program, "Attention")[1].attributes.add(ir.AttrFloat32("softcap", 30.0))
    with pytest.raises(InternalError, match="softcap"):
        EagerAttention().run(program)
    program = twins.after("tied", Cleanup())
    for node in twins.nodes(program, "Attention"):
        node.attributes.pop("is_causal")
    query = twins.nodes(program, "Attention")[0].inputs[0]
    query.shape = ir.Shape(["batch", "heads", "seq", 16])
    with pytest.raises(InternalError, match="heads heads and 2 KV heads, which are no numbers"):
        EagerAttention().run(program)
    query.shape = ir.Shape(["batch", 6, "seq"])
    with pytest.raises(InternalError, match="not heads of one shape"):
        EagerAttention().run(program)


ON_ROWS = (Cleanup(), CacheRows("decode", *TWIN_CACHE), CausalMask(), RopeTables(12))
SYMBOLIC_MUTATIONS = {
    "[1, 1, heads // kv_heads, 1, 1]": "[1, heads // kv_heads, 1, 1, 1]",
    "[0, heads, -1, head_dim]": "[0, -1, heads, head_dim]",
    '"Mul", [q, factor.outputs[0]]': '"Add", [q, factor.outputs[0]]',
    '"MatMul", [scaled.outputs[0], turned.outputs[0]]': '"MatMul", [q, turned.outputs[0]]',
}


@pytest.mark.parametrize("edit", [None, *SYMBOLIC_MUTATIONS.items()])
@pytest.mark.parametrize("kind", twins.KINDS)
def test_symbolic_sizes_and_a_scaled_query(kind: str, edit: tuple[str, str] | None) -> None:
    """Batch and slots are symbols, and the query is scaled before it meets the keys; each edit of that is noticed."""
    module = eager_attention if edit is None else mutated(eager_attention, *edit)
    program, cases = twins.twin(kind)
    passes = (*ON_ROWS, module.EagerAttention(scale_query=True))
    if edit is None:
        assert len(prove(passes, program, cases).require().cases) == 6
        return
    with pytest.raises(InternalError):
        prove(passes, program, cases).require()
