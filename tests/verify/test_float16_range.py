"""Values of a float16 twin that only show as infinite when they are looked at one by one."""

from __future__ import annotations

import numpy as np
import pytest

from tests import twins
from tests.passes.graph.cases import PASSES
from xamc.errors import UnsupportedError
from xamc.ir.program import Program
from xamc.ir.weights.lazy import ArrayTensor
from xamc.passes.graph.half_precision import HalfPrecision
from xamc.verify.float16_range import require_finite
from xamc.verify.oracle import oracle_of
from xamc.verify.proof import prove
from xamc.verify.scenario import Case


def _half(scale: float) -> tuple[Program, list[Case]]:
    """A prefill on cache rows in float16, with gate and up of layer 1 multiplied, and down divided by its square."""
    program, cases = twins.twin("windowed")
    for part, factor in (("gate_proj", scale), ("up_proj", scale), ("down_proj", scale**-2)):
        name = f"model.layers.1.mlp.{part}.weight"
        program.weights[name] = ArrayTensor(program.weights[name].read_rows(0, program.weights[name].shape[0]) * factor)
    # transformers' answers are not those of these weights, so the exported twin's stand for them
    oracle = oracle_of(program)
    cases = [Case(case.run, case.step, case.feeds, oracle.run(case.feeds)) for case in cases]
    report = prove([*PASSES["half_precision"].before, HalfPrecision()], program, cases)
    return program, report.cases


def test_a_twin_of_usual_values_is_finite() -> None:
    require_finite(*_half(1.0))


def test_a_graph_in_float32_is_not_looked_at() -> None:
    program, cases = twins.twin("tied")
    require_finite(program, cases)


def test_an_overflow_that_no_output_shows_is_named() -> None:
    program, cases = _half(np.float32(400.0))
    assert all(np.isfinite(oracle_of(program).run(case.feeds)["logits"]).all() for case in cases)
    with pytest.raises(UnsupportedError) as caught:
        require_finite(program, cases)
    assert caught.value.code == "E1315" and "model.layers.1.mlp" in caught.value.message
