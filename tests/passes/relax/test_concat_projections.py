import numpy as np

from tests.golden_files import check_golden
from tests.mutation import mutated
from tests.passes.relax import cases
from xamc.ir.tolerances import tolerance
from xamc.passes.relax import concat_projections
from xamc.passes.relax.concat_projections import ConcatProjections


def test_projections_of_one_input_are_merged_and_outputs_are_kept() -> None:
    for kind in ("tied", "windowed"):
        deviation, program, report = cases.run(ConcatProjections(), kind)
        assert deviation <= tolerance("reassociated")
        assert report.matched == {"qkv": 2, "gate_up": 2}
        assert not any("q_proj.weight" in name for name in program.weights)


def test_the_merged_weight_reads_its_sources_in_order() -> None:
    first = cases.before("tied", "concat_projections")
    parts = [f"model.layers.1.self_attn.{p}_proj.weight" for p in "qkv"]
    rows = [first.weights[name].read_rows(0, first.weights[name].shape[0]) for name in parts]
    ConcatProjections().run(first)
    merged = first.weights["model.layers.1.self_attn.q_proj+k_proj+v_proj.weight"]
    np.testing.assert_array_equal(merged.read_rows(0, merged.shape[0]), np.concatenate(rows))
    # a block that begins in one source and ends in the next
    np.testing.assert_array_equal(merged.read_rows(90, 110), np.concatenate(rows)[90:110])


def test_different_formats_are_not_merged_and_the_report_says_why() -> None:
    program = cases.before("tied", "concat_projections")
    from xamc.ir.dialect import decode
    from xamc.passes.lowering.body import Body
    from xamc.passes.relax.matching import rebuilt

    body = Body.of(program.module["main"])
    for number, (var, value) in enumerate(body.bindings):
        call = decode(value)
        if call is not None and call.name == "linear" and "q_proj" in call.tensors[1].name:
            body.bindings[number] = (var, rebuilt(call, format={"kind": "float16", "group": None}))
    body.emit(program.module, "main")
    report = ConcatProjections().run(program)
    assert report.matched == {"gate_up": 2}
    assert [s.reason for s in report.skipped] == ["stored in different formats, or only some have a bias"] * 2


def test_golden() -> None:
    check_golden("passes/relax_concat_projections.txt", cases.rewrite(ConcatProjections(), "tied"))


def test_a_wrong_column_range_is_noticed() -> None:
    wrong = mutated(concat_projections, "            start += width\n", "            start += width if start else 0\n")
    deviation, _, _ = cases.run(wrong.ConcatProjections(), "tied")
    assert deviation > tolerance("reassociated")
