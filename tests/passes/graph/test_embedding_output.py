from __future__ import annotations

import numpy as np
import pytest

from tests import twins
from tests.golden_files import check_golden
from tests.passes.graph.cases import PASSES, PREFILL, golden_of
from xamc.errors import InternalError
from xamc.ir.onnx_graph import dims
from xamc.ir.program import Program
from xamc.ir.tolerances import tolerance
from xamc.passes.graph import embedding_output
from xamc.passes.graph.cleanup import Cleanup
from xamc.passes.graph.embedding_output import EmbeddingOutput
from xamc.passes.graph.phase import StaticPhase
from xamc.verify.metrics import relative_error
from xamc.verify.oracle import oracle_of, read_all
from xamc.verify.proof import prove


def _prefill(kind: str) -> Program:
    return twins.after(kind, Cleanup(), StaticPhase(PREFILL))


def test_golden() -> None:
    check_golden("passes/embedding_output.txt", golden_of("embedding_output", embedding_output))


@pytest.mark.parametrize("kind", twins.KINDS)
def test_hidden_states_are_what_lm_head_read(kind: str) -> None:
    """The old logits are the new output times lm_head, for every call that the graph takes."""
    program, cases = twins.twin(kind)
    static = prove([Cleanup(), StaticPhase(PREFILL)], program, cases).require()
    tied = "lm_head.weight" not in program.weights
    head = read_all(program.weights["model.embed_tokens.weight" if tied else "lm_head.weight"])
    report = EmbeddingOutput().run(program)
    assert report.matched["cache_output"] == 2 * program.config.num_layers
    oracle = oracle_of(program)
    compared = 0
    for case in static.cases:
        states = oracle.run(case.feeds)["logits"]
        assert states.shape == (1, PREFILL.length, program.config.hidden_size)
        known = np.isfinite(case.fetches["logits"]).all(axis=-1)
        logits = (states @ head.T)[known]
        assert relative_error(logits, case.fetches["logits"][known]) <= tolerance("export_fp32")
        compared += int(known.sum())
    assert compared > 0


def test_nothing_of_the_head_is_left() -> None:
    program = _prefill("windowed")
    assert "lm_head.weight" in program.weights
    report = EmbeddingOutput().run(program)
    assert report.matched["weight"] == 1
    graph = program.model.graph
    assert [value.name for value in graph.outputs] == ["logits"] and dims(graph.outputs[0]) == (1, 9, 64)
    assert "lm_head.weight" not in program.weights
    assert set(program.weights) == {str(value.name) for value in program.weight_inputs()}


def test_a_tied_embedding_stays() -> None:
    program = _prefill("tied")
    before = set(program.weights)
    assert "weight" not in EmbeddingOutput().run(program).matched
    assert set(program.weights) == before


def test_adapt_expects_hidden_states_alone() -> None:
    states = np.ones((1, 2, 3))
    feeds, expected = EmbeddingOutput().adapt({"input_ids": states}, {"logits": states, "present_key.0": states})
    assert set(feeds) == {"input_ids"} and set(expected) == {"logits"}


def test_hidden_states_that_nothing_computes_are_refused() -> None:
    program = _prefill("tied")
    head = program.model.graph.outputs[0].producer()
    assert head is not None
    head.replace_input_with(0, program.model.graph.inputs[0])
    with pytest.raises(InternalError, match="reads no hidden state"):
        EmbeddingOutput().run(program)


def test_the_case_is_a_prefill() -> None:
    """A decode graph has no embedding form; the target lists the pass for prefill alone."""
    assert PASSES["embedding_output"].also is None
