import numpy as np

from tests import twins
from tests.golden_files import check_golden
from tests.passes.graph.cases import PASSES, golden_text
from xamc.passes.graph import byte_codes
from xamc.passes.graph.byte_codes import ByteCodes
from xamc.passes.graph.quantize_weights import QuantizeWeights
from xamc.verify.oracle import materialize
from xamc.verify.proof import prove


def test_golden() -> None:
    check_golden("passes/byte_codes.txt", golden_text("byte_codes", PASSES["byte_codes"].make(byte_codes)))


def test_the_same_numbers_in_another_type() -> None:
    program, cases = twins.twin("tied")
    quantize = QuantizeWeights.to_bits(4, 32)
    prove([quantize], program, cases).require()
    before = materialize(program.weights)
    report = ByteCodes().run(program)
    after = materialize(program.weights)
    assert report.matched == {"weight": 14}  # the codes; scales and zero points are float16
    for name, array in before.items():
        assert after[name].dtype == (np.uint8 if array.dtype.name == "uint4" else array.dtype)
        np.testing.assert_array_equal(after[name].astype(np.float32), array.astype(np.float32))
