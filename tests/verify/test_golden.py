"""An artifact is compared with what golden logits there are: its own, transformers', or none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.artifact.conftest import manifest as manifest  # the fixture
from xamc.artifact import Manifest, Weights, plan_layout
from xamc.artifact.golden import Golden, Sample
from xamc.errors import ToolchainError
from xamc.ir.tolerances import tolerance
from xamc.verify.golden import GoldenResult, check_golden, is_fp32

GENERATOR = np.random.default_rng(1)
IDS = [np.arange(length, dtype=np.int64) + length for length in (6, 3)]
LOGITS = [GENERATOR.normal(size=(len(ids), 11)).astype(np.float32) for ids in IDS]
LARGEST = [float(np.abs(logits).max()) for logits in LOGITS]
BOUND, FP32 = tolerance("golden"), tolerance("cpu_fp32")
OWN = Golden(tuple(Sample(ids, logits) for ids, logits in zip(IDS, LOGITS)))
# what transformers says is a little apart: weights were rounded
ROUNDED = [logits + np.float32(0.05) * GENERATOR.normal(size=logits.shape).astype(np.float32) for logits in LOGITS]
REFERENCE = Golden(tuple(Sample(ids, None, logits) for ids, logits in zip(IDS, LOGITS)), "no such CPU")


def computed(noise: float = 0.0, logits: list[NDArray[np.float32]] = LOGITS) -> Callable[..., NDArray[np.float32]]:
    """Answers the prompts; `noise` is added to one logit of the second."""

    def compute(token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        (which,) = [index for index, ids in enumerate(IDS) if np.array_equal(token_ids, ids[None])]
        answer = logits[which][None].copy()
        answer[0, 2, 5] += noise if which == 1 else 0
        return answer

    return compute


@pytest.fixture
def fp32(manifest: Manifest) -> Manifest:
    tensors, nbytes = plan_layout([("embed", "float32", (50, 16))])
    return replace(manifest, weights=Weights("weights.bin", nbytes, tensors))


def check(manifest: Manifest, golden: Golden, compute: Callable[..., NDArray[np.float32]]) -> GoldenResult:
    return check_golden(Path("artifact"), manifest, golden, compute)


def test_within_the_tolerance(manifest: Manifest) -> None:
    result = check(manifest, OWN, computed(0.9 * BOUND * LARGEST[1]))
    assert result.deviation is not None and 0.5 * BOUND < result.deviation < BOUND
    assert (result.prompts, result.same_top1, result.positions, result.distance) == (2, 9, 9, None)


@pytest.mark.parametrize(("activations", "agrees"), [("int8", True), ("float32", False)])
def test_another_level_of_one_artifact_may_round_activations_otherwise(
    manifest: Manifest, activations: str, agrees: bool
) -> None:
    of_v3 = replace(OWN, cpu_level="x86-64-v3")
    rounded = replace(manifest, quantization=replace(manifest.quantization, activations=activations))
    compute = computed(2 * BOUND * LARGEST[1])

    def run(level: str) -> None:
        check_golden(Path("artifact"), rounded, of_v3, compute, level)

    with pytest.raises(ToolchainError, match="E1511"):
        run("x86-64-v3")
    if agrees:
        run("x86-64-v4")
    else:
        with pytest.raises(ToolchainError, match="E1511"):
            run("x86-64-v4")


@pytest.mark.parametrize("noise", [1.5 * BOUND * LARGEST[1], np.nan, np.inf])
def test_beyond_the_tolerance_in_the_second_prompt(manifest: Manifest, noise: float) -> None:
    with pytest.raises(ToolchainError, match="E1511"):
        check(manifest, OWN, computed(noise))


def test_the_distance_from_transformers_is_said(manifest: Manifest) -> None:
    both = Golden(tuple(replace(own, reference=far) for own, far in zip(OWN.samples, ROUNDED)))
    result = check(manifest, both, computed())
    assert result.deviation == 0 and result.distance is not None
    assert 0 < result.distance.mean_kl < 0.01 and result.distance.relative_error > 1e-3


def test_fp32_is_what_stores_nothing_in_less(manifest: Manifest, fp32: Manifest) -> None:
    assert is_fp32(fp32) and not is_fp32(manifest)
    assert not is_fp32(replace(fp32, kv=replace(fp32.kv, dtype="float16")))
    assert not is_fp32(replace(fp32, quantization=replace(fp32.quantization, activations="bfloat16")))


def test_without_logits_of_its_own_fp32_keeps_the_bound_to_transformers(fp32: Manifest) -> None:
    result = check(fp32, REFERENCE, computed(0.9 * FP32 * LARGEST[1]))
    assert result.deviation is None and result.distance is not None
    assert 0.5 * FP32 < result.distance.relative_error < FP32
    with pytest.raises(ToolchainError, match=r"E1511.*transformers"):
        check(fp32, REFERENCE, computed(1.5 * FP32 * LARGEST[1]))


def test_without_logits_of_its_own_rounded_weights_beat_a_guess(manifest: Manifest) -> None:
    result = check(manifest, REFERENCE, computed(logits=ROUNDED))
    assert result.distance is not None and 0 < result.distance.mean_kl < 0.01
    for wrong in ([np.zeros_like(logits) for logits in LOGITS], [logits[:, ::-1] for logits in LOGITS]):
        with pytest.raises(ToolchainError, match=r"E1511.*uniform guess"):
            check(manifest, REFERENCE, computed(logits=wrong))


def test_with_token_ids_alone_logits_must_be_finite(manifest: Manifest) -> None:
    bare = Golden(tuple(Sample(ids) for ids in IDS), "no such CPU")
    result = check(manifest, bare, computed())
    assert (result.deviation, result.distance, result.positions) == (None, None, 9)
    with pytest.raises(ToolchainError, match=r"E1511.*finite"):
        check(manifest, bare, computed(np.nan))
