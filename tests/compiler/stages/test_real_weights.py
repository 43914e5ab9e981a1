"""What is refused for float16 and what a cache's cost is worth a warning, from what was observed."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from xamc.compiler.stages.real_weights import (
    report,
    require_float16,
    require_float16_cache,
    warn_of_cost,
)
from xamc.errors import UnsupportedError
from xamc.ir.tolerances import tolerance
from xamc.jobs.progress import Progress
from xamc.verify.real_weights import KEYS, UNSCALED, Magnitude, Observed

SMALL = Magnitude("model.layers.0.mlp", "output", 12.0)


def _observed(*magnitudes: Magnitude, kl: float = 0.0) -> Observed:
    return Observed((SMALL, *magnitudes), 10, kl, 0.9)


def test_the_first_module_beyond_float16_is_named_and_the_others_listed() -> None:
    beyond = [Magnitude(f"model.layers.{layer}", "output", 1e5) for layer in (3, 4)]
    with pytest.raises(UnsupportedError) as caught:
        require_float16(_observed(*beyond), "tvm_vacc", False)
    assert caught.value.code == "E1315" and "the output of model.layers.3 (1e+05)" in caught.value.message
    assert caught.value.details == ("also the output of model.layers.4 (1e+05)",)
    require_float16(_observed(Magnitude("model.layers.3", "output", 65504.0)), "tvm_vacc", False)


def test_infinity_is_beyond_and_what_is_no_number_left_to_where_the_weight_is_named() -> None:
    with pytest.raises(UnsupportedError):
        require_float16(_observed(Magnitude("model.layers.3", "output", float("inf"))), "tvm_vacc", False)
    require_float16(_observed(Magnitude("model.layers.3", "output", float("nan"))), "tvm_vacc", False)


def test_scores_before_they_are_scaled_count_where_they_occur() -> None:
    """Qwen2-7B's are beyond 65504 on long texts; an attention that scales its queries never has them."""
    seen = _observed(Magnitude("model.layers.0.self_attn", UNSCALED, 1e5))
    require_float16(seen, "tvm_ascend", True)
    with pytest.raises(UnsupportedError, match="before they are scaled"):
        require_float16(seen, "tvm_vacc", False)


def test_a_float16_cache_holds_keys_and_values_alone() -> None:
    require_float16_cache(_observed(Magnitude("model.layers.3", "output", 1e9)))
    with pytest.raises(UnsupportedError, match=r"keys of model.layers.0.self_attn.*kv_dtype: bf16"):
        require_float16_cache(_observed(Magnitude("model.layers.0.self_attn", KEYS, 1e9)))


def test_only_a_cost_beyond_its_bound_is_a_warning() -> None:
    for kl, warned in ((tolerance("cache_kl"), False), (2 * tolerance("cache_kl"), True)):
        progress = Progress(Console(file=io.StringIO()))
        warn_of_cost(progress, _observed(kl=kl), "int8", "set runtime.kv_dtype: fp16")
        assert bool(progress.warnings) is warned
    assert "1.0e-02 nats" in progress.warnings[0] and "90%" in progress.warnings[0]


def test_the_report_has_the_largest_values() -> None:
    seen = report(_observed(Magnitude("a", "output", 3.0), Magnitude("b", "input", 40.0), kl=0.25))
    assert [entry["module"] for entry in seen["largest"]] == ["b", "model.layers.0.mlp", "a"]
    assert seen["kv_cache"]["mean_kl"] == 0.25
