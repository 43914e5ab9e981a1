from tests.golden_files import check_golden
from tests.mutation import mutated
from tests.passes.relax import cases
from xamc.ir.tolerances import tolerance
from xamc.passes.relax import linear_bias
from xamc.passes.relax.linear_bias import LinearBias


def test_every_bias_is_taken_in_and_outputs_are_kept() -> None:
    deviation, program, report = cases.run(LinearBias(), "windowed")
    assert deviation <= tolerance("reassociated")
    assert report.matched == {"bias": 6}
    assert program.module.script().count('\\"bias\\": true') == 6


def test_a_model_without_biases_is_left_alone() -> None:
    deviation, _, report = cases.run(LinearBias(), "tied")
    assert (deviation, report.total) == (0.0, 0)


def test_golden() -> None:
    check_golden("passes/relax_linear_bias.txt", cases.rewrite(LinearBias(), "windowed"))


def test_a_forgotten_bias_is_noticed() -> None:
    wrong = mutated(linear_bias, "new = rebuilt(call, [*call.tensors, bias], bias=True)", "new = rebuilt(call)")
    deviation, _, _ = cases.run(wrong.LinearBias(), "windowed")
    assert deviation > tolerance("reassociated")
