"""Prompts that begin alike, through compiled kernels: what is reused gives the logits of what is computed anew."""

from __future__ import annotations

import numpy as np
import pytest

from tests.end_to_end.models import F32, I64, Fed, Workshop, answers, prompts
from xamc.ir.tolerances import tolerance
from xamc.runtime import Model, load_language_model
from xamc.verify.metrics import relative_error


def logits_of(model: Model, rows: list[I64], reuse: bool) -> tuple[F32, list[int]]:
    """The logits [B, V] of each prompt's last token, and how many tokens were reused."""
    fed = Fed(model, rows, reuse)
    logits = fed.prompts()[:, 0]
    return logits, fed.reused


@pytest.mark.parametrize("kv_dtype, bound", [("fp32", "cpu_fp32"), ("int8", "kv_int8")])
def test_reused_prefixes_give_the_same_logits(workshop: Workshop, kv_dtype: str, bound: str) -> None:
    runtime = {"kv_dtype": kv_dtype}
    model = workshop.model(workshop.checkpoint("llama"), f"prefix-{kv_dtype}", runtime=runtime)
    (prompt, other), _ = prompts((100, 40))
    branch = np.concatenate([prompt[:80], other])[:100]
    fresh = {name: logits_of(model, [row], False) for name, row in (("prompt", prompt), ("branch", branch))}
    assert all(reused == [0] for _, reused in fresh.values())
    for row, name, reused in ((prompt, "prompt", 0), (prompt, "prompt", 99), (branch, "branch", 80)):
        found, kept = logits_of(model, [row], True)
        assert kept == [reused]
        assert relative_error(found, fresh[name][0]) <= tolerance(bound)
    # in a batch, where the first block is computed for both rows or cached
    found, kept = logits_of(model, [branch, prompt], True)
    assert min(kept) >= 64
    assert relative_error(found, np.concatenate([fresh["branch"][0], fresh["prompt"][0]])) <= tolerance(bound)


def test_an_int8_cache_is_near_the_exact_one(workshop: Workshop) -> None:
    rows, following = prompts((70, 9), 4)
    exact, coarse = (
        answers(
            workshop.model(workshop.checkpoint("llama"), f"prefix-{dtype}", runtime={"kv_dtype": dtype}),
            rows,
            following,
        )
        for dtype in ("fp32", "int8")
    )
    errors = [relative_error(mine, theirs) for mine, theirs in zip(coarse, exact, strict=True)]
    assert 1e-5 < max(errors) <= tolerance("kv_int8")


@pytest.mark.parametrize("kv_dtype", ["fp32", "int8"])
def test_a_filled_cache_is_a_prefix_like_any_other(workshop: Workshop, kv_dtype: str) -> None:
    model = workshop.model(workshop.checkpoint("llama"), f"prefix-{kv_dtype}", runtime={"kv_dtype": kv_dtype})
    (prompt,), _ = prompts((100,))
    plain = model.generate(prompt, 4, ignore_eos=True, prefix_cache=False)
    found = []
    for seed in (1, 1, 2):
        other = load_again(model)
        assert other.fill_cache(prompt, 90, seed) == 64  # one whole block
        fed = Fed(other, [prompt], keeps=True)
        found.append(fed.prompts()[0, 0])
        assert fed.reused == [64]
    assert np.isfinite(found).all()
    assert (found[0] == found[1]).all() and not np.allclose(found[0], found[2], rtol=1e-3)
    assert model.generate(prompt, 4, ignore_eos=True).token_ids == plain.token_ids


def load_again(model: Model) -> Model:
    return load_language_model(model.path, threads=1)
