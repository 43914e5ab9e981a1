from tests.golden_files import check_golden
from tests.mutation import mutated
from tests.passes.relax import cases
from xamc.ir.tolerances import tolerance
from xamc.passes.relax import packed_swiglu
from xamc.passes.relax.packed_swiglu import PackedSwiGLU


def test_every_swiglu_reads_the_merged_row_and_outputs_are_kept() -> None:
    deviation, program, report = cases.run(PackedSwiGLU(), "windowed")
    assert deviation <= tolerance("exact")
    assert report.matched == {"swiglu": 2}
    assert '"xamc.swiglu"' not in program.module.script()


def test_without_merged_projections_the_reason_is_reported() -> None:
    program = cases.before("tied", "concat_projections")
    report = PackedSwiGLU().run(program)
    assert report.total == 0
    assert [s.reason for s in report.skipped] == ["gate and up are not columns of one value"] * 2


def test_golden() -> None:
    check_golden("passes/relax_packed_swiglu.txt", cases.rewrite(PackedSwiGLU(), "tied"))


def test_reading_another_row_is_noticed() -> None:
    """Gate twice instead of gate and up: what the check of the columns' order prevents."""
    wrong = mutated(
        packed_swiglu,
        'dialect_call("swiglu_packed", [gate.tensors[0]], [var.ty])',
        'dialect_call("swiglu", [call.tensors[0], call.tensors[0]], [var.ty])',
    )
    deviation, _, _ = cases.run(wrong.PackedSwiGLU(), "tied")
    assert deviation > tolerance("reassociated")
