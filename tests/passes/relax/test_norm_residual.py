from tests.golden_files import check_golden
from tests.mutation import mutated
from tests.passes.relax import cases
from xamc.ir.tolerances import tolerance
from xamc.passes.relax import norm_residual
from xamc.passes.relax.norm_residual import NormResidual


def test_additions_join_their_norms_and_outputs_are_kept() -> None:
    deviation, program, report = cases.run(NormResidual(), "windowed")
    assert deviation <= tolerance("reassociated")
    assert report.matched == {"rms_norm": 1, "add_rms_norm": 4}
    assert "R.add" not in program.module.script()


def test_golden() -> None:
    check_golden("passes/relax_norm_residual.txt", cases.rewrite(NormResidual(), "tied"))


def test_a_wrong_residual_is_noticed() -> None:
    wrong = mutated(norm_residual, "relax.TupleGetItem(pair, 1)", "relax.TupleGetItem(pair, 0)")
    deviation, _, _ = cases.run(wrong.NormResidual(), "tied")
    assert deviation > tolerance("reassociated")
