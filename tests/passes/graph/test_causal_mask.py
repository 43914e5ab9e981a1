from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from tests import twins
from tests.golden_files import check_golden
from tests.passes.graph.cases import DECODE, PREFILL, golden_of
from tests.passes.graph.static_graphs import static_passes
from xamc.errors import InternalError
from xamc.model.bucket import Bucket
from xamc.passes.graph import causal_mask
from xamc.passes.graph.causal_mask import CausalMask
from xamc.passes.graph.cleanup import Cleanup
from xamc.passes.graph.phase import StaticPhase
from xamc.passes.runner import run_passes
from xamc.verify.oracle import oracle_of

WINDOW = 3


def test_golden() -> None:
    check_golden("passes/causal_mask.txt", golden_of("causal_mask", causal_mask))


def _visible(bucket: Bucket, position: int, window: int | None) -> np.ndarray:
    """Which keys a query may see, from the definition: bool [T, S]."""
    keys = np.arange(bucket.length)
    if bucket.kind == "prefill":
        queries = np.arange(bucket.length)[:, None]
        visible = keys <= queries
        return visible if window is None else visible & (queries - keys < window)
    held = np.where(keys == bucket.length - 1, position, keys)
    valid = (keys < position) | (keys == bucket.length - 1)
    return (valid if window is None else valid & (position - held < window))[None]


@pytest.mark.parametrize(
    ("bucket", "position"), [(PREFILL, 0), *((DECODE, p) for p in (0, 1, 2, 3, 5, 10, 11))], ids=lambda x: str(x)
)
def test_masks_and_what_softmax_makes_of_them(bucket: Bucket, position: int) -> None:
    """Masks are 0 or -65504, never their sum; hidden keys, however large, get a weight of exactly 0."""
    program, _ = twins.twin("windowed")
    run_passes(program, static_passes(bucket))
    weights = [node.outputs[0].name for node in twins.nodes(program, "Softmax")]
    oracle = oracle_of(program, ["mask", "mask_1", *weights])
    feeds: dict[str, np.ndarray] = {"input_ids": np.arange(bucket.length if bucket == PREFILL else 1)[None]}
    if bucket.kind == "decode":
        mask = np.zeros((1, bucket.length), np.int64)
        mask[:, :position] = mask[:, -1] = 1
        feeds |= {"attention_mask": mask, "position_ids": np.array([[position]])}
        feeds |= {str(v.name): np.full((1, 2, 11, 16), 37, np.float32) for v in program.data_inputs()[3:]}
    results = oracle.run(feeds)
    for name, softmax, window in (("mask", weights[0], None), ("mask_1", weights[1], WINDOW)):
        visible = _visible(bucket, position, window)
        np.testing.assert_array_equal(results[name][0, 0], np.where(visible, 0, -65504))
        hidden = np.broadcast_to(~visible, results[softmax].shape)
        assert (results[softmax][hidden] == 0).all() and results[softmax][~hidden].any()
        np.testing.assert_allclose(results[softmax].sum(-1), 1, rtol=1e-6)


def test_layers_share_masks() -> None:
    program, _ = twins.twin("tied")
    report = run_passes(program, [Cleanup(), StaticPhase(PREFILL), CausalMask()])[-1].report
    assert report.matched == {"mask": 1, "attention": 2}
    assert len({id(node.inputs[3]) for node in twins.nodes(program, "Attention")}) == 1


def test_two_masks_are_never_added() -> None:
    program = twins.after("tied", Cleanup(), StaticPhase(PREFILL), CausalMask())
    report = CausalMask().run(program)
    assert report.total == 0 and all("additive already" in miss.reason for miss in report.skipped)
    attention = twins.nodes(program, "Attention")[0]
    attention.attributes.add(ir.AttrInt64("is_causal", 1))
    with pytest.raises(InternalError) as error:
        CausalMask().run(program)
    assert error.value.code == "E1321" and "none can be added" in error.value.message


def test_a_dynamic_graph_is_refused() -> None:
    with pytest.raises(InternalError, match="no static shape"):
        CausalMask().run(twins.after("windowed", Cleanup()))
    with pytest.raises(InternalError, match="not that of a prefill of static length"):
        CausalMask().run(twins.after("tied", Cleanup()))
