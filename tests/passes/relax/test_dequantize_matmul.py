import pytest

from tests.golden_files import check_golden
from tests.mutation import mutated
from tests.passes.relax import cases
from xamc.ir.tolerances import tolerance
from xamc.passes.relax import dequantize_matmul
from xamc.passes.relax.dequantize_matmul import DequantizeMatmul


@pytest.mark.parametrize("stored", cases.STORED)
def test_outputs_are_kept_in_every_storage_form(stored: str) -> None:
    deviation, program, report = cases.run(DequantizeMatmul(), "tied", stored)
    assert deviation <= tolerance("reassociated")
    assert report.matched == {"linear": 15, "embedding": 1}
    script = program.module.script()
    assert "R.matmul" not in script and "xamc.dequantize" not in script


def test_golden() -> None:
    check_golden("passes/relax_dequantize_matmul.txt", cases.rewrite(DequantizeMatmul(), "tied", "w4"))


def test_a_matmul_of_two_activations_is_left_alone_with_a_reason() -> None:
    program = cases.before("tied", "dequantize_matmul")
    program.weights.clear()
    report = DequantizeMatmul().run(program)
    assert report.total == 0
    assert len(report.skipped) == 16 and "stored weight" in report.skipped[0].reason


def test_dropping_the_zero_points_is_noticed() -> None:
    wrong = mutated(
        dequantize_matmul,
        "_parameter(body, tensor) for tensor in call.tensors]",
        "_parameter(body, tensor) for tensor in (call.tensors[0], call.tensors[1], call.tensors[1])]",
    )
    with pytest.raises(Exception):  # noqa: B017 - a scale in the place of a zero point fails in the interpreter or in the numbers
        deviation, _, _ = cases.run(wrong.DequantizeMatmul(), "tied", "w4")
        assert deviation <= tolerance("reassociated")
