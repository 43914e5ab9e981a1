from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from tests import twins
from tests.golden_files import check_golden
from tests.mutation import mutated
from tests.passes.graph.cases import DECODE, PREFILL, golden_of
from xamc.errors import InternalError
from xamc.ir.names import WEIGHT_ROLE
from xamc.model.config import RopeConfig
from xamc.passes.graph import rope_table
from xamc.passes.graph.causal_mask import CausalMask
from xamc.passes.graph.cleanup import Cleanup
from xamc.passes.graph.phase import StaticPhase
from xamc.passes.graph.rope_table import RopeTables
from xamc.verify.oracle import read_all
from xamc.verify.proof import prove

BEFORE = (Cleanup(), StaticPhase(DECODE), CausalMask())
DYNAMIC = RopeConfig("dynamic", 10000.0, factor=2.0)


def test_golden() -> None:
    check_golden("passes/rope_table.txt", golden_of("rope_table", rope_table))


def test_tables_are_weights_of_the_textbook_values() -> None:
    program = twins.after("tied", *BEFORE, RopeTables())
    assert [value.name for value in program.model.graph.inputs][-2:] == ["rope_cos", "rope_sin"]
    angles = np.arange(DECODE.length)[:, None] / 10000.0 ** (np.arange(0, 16, 2) / 16)
    for name, function in (("rope_cos", np.cos), ("rope_sin", np.sin)):
        expected = function(np.concatenate([angles, angles], axis=1))
        np.testing.assert_allclose(read_all(program.weights[name]), expected, atol=1e-6)
    assert "rope_cos" not in {value.name for value in program.data_inputs()}


def test_a_graph_without_weights_stays_without() -> None:
    program = twins.after("tied", *BEFORE)
    program.weights.clear()
    RopeTables().run(program)
    assert program.weights == {} and WEIGHT_ROLE in program.model.graph.inputs[-1].metadata_props


def test_graphs_of_several_lengths_share_a_table() -> None:
    tables = []
    for bucket in (PREFILL, DECODE):
        program = twins.after("tied", Cleanup(), StaticPhase(bucket), CausalMask(), RopeTables(rows=12))
        tables.append(read_all(program.weights["rope_sin"]))
    np.testing.assert_array_equal(*tables)
    assert tables[0].shape == (12, 16)


def test_a_base_that_depends_on_the_length_is_not_shared() -> None:
    shapes = []
    for bucket in (PREFILL, DECODE):
        program = twins.family("llama", DYNAMIC, 10)
        for graph_pass in (Cleanup(), StaticPhase(bucket), CausalMask(), RopeTables(rows=12)):
            graph_pass.run(program)
        shapes.append(program.weights["rope_cos"].shape[0])
    assert shapes == [9, 12]


def test_the_base_of_a_shorter_sequence_would_be_noticed() -> None:
    """Beyond the trained length a dynamic base is that of the graph's length, not of another."""
    wrong = mutated(rope_table, "length_reached=shape[0]", "length_reached=shape[0] - 1")
    program, cases = twins.family("llama", DYNAMIC, 8), twins.family_answers("llama", DYNAMIC, 8)
    failed = prove([*BEFORE, wrong.RopeTables()], program, cases).failed
    assert failed is not None and failed.name == "rope_table"


def test_other_rotations_are_refused_by_name() -> None:
    with pytest.raises(InternalError) as error:
        RopeTables().run(twins.after("tied", *BEFORE, RopeTables()))
    assert error.value.code == "E1322"
    with pytest.raises(InternalError, match="static length"):
        RopeTables().run(twins.after("tied", Cleanup()))
    program = twins.after("tied", *BEFORE)
    twins.nodes(program, "RotaryEmbedding")[0].attributes.add(ir.AttrInt64("interleaved", 1))
    with pytest.raises(InternalError, match=r"rotary_embedding is no half-split rotation .*'interleaved': 1"):
        RopeTables().run(program)
