"""Every family's twin, exported and run by ONNX Runtime, against unpatched transformers in eager fp32."""

from __future__ import annotations

import pytest

from tests import twins
from tests.checkpoints import FAMILIES
from tests.golden_files import check_golden, first_layer
from xamc.compiler.export.worker import answers
from xamc.ir.text import program_text
from xamc.model.config import RopeConfig
from xamc.passes.graph.cleanup import Cleanup
from xamc.verify.proof import prove

NAMES = (*FAMILIES, "qwen2_window")


@pytest.mark.parametrize("name", NAMES)
def test_twin_equals_transformers(name: str) -> None:
    prove([Cleanup()], twins.family(name), twins.family_answers(name)).require()


@pytest.mark.parametrize("name", NAMES)
def test_golden_export(name: str) -> None:
    program = twins.family(name)
    Cleanup().run(program)
    check_golden(f"export/{name}.txt", first_layer(program_text(program)))


@pytest.mark.parametrize(
    "rope",
    [
        RopeConfig("linear", 10000.0, factor=4.0),
        RopeConfig("llama3", 500000.0, 8.0, 1.0, 4.0, original_max_position_embeddings=16),
        RopeConfig("dynamic", 10000.0, factor=2.0),
    ],
    ids=lambda rope: rope.kind,
)
def test_rope_scalings_also_across_the_trained_length(rope: RopeConfig) -> None:
    # prefills of 2, 5 and 9 tokens and three more: one run starts beyond 6 positions, one crosses, one stays below
    prove([Cleanup()], twins.family("llama", rope, 6), twins.family_answers("llama", rope, 6)).require()


def test_a_wrong_base_is_noticed() -> None:
    """Tables of the plain kind, where transformers has grown the base: the test above can fail."""
    dynamic = answers(twins.family("llama", RopeConfig("dynamic", 10000.0, factor=2.0), 6))
    plain = RopeConfig("default", 10000.0)
    tables = {(case.run, case.step): case.feeds["rope_cos"] for case in twins.family_answers("llama", plain, 6)}
    for case in dynamic:
        case.feeds["rope_cos"] = tables[case.run, case.step]
    failed = prove([], twins.family("llama", plain, 6), dynamic).failed
    assert failed is not None and failed.name == "export"
