import numpy as np
import pytest

from tests import twins
from tests.golden_files import check_golden
from tests.passes.graph.cases import PASSES, golden_text
from xamc.errors import InternalError
from xamc.ir.tolerances import tolerance
from xamc.passes.graph import last_position
from xamc.passes.graph.last_position import LastPosition
from xamc.verify.metrics import relative_error
from xamc.verify.oracle import oracle_of


def test_golden() -> None:
    check_golden("passes/last_position.txt", golden_text("last_position", PASSES["last_position"].make(last_position)))


def test_every_position_of_every_row_against_transformers() -> None:
    program, cases = twins.twin("tied")
    LastPosition().run(program)
    oracle = oracle_of(program)
    prefill = next(case for case in cases if case.run == "batch" and case.step == 0)
    for index in ([0, 8], [8, 0], [3, 5]):
        logits = oracle.run({**prefill.feeds, "last_index": np.array(index, np.int64)})["logits"]
        assert logits.shape == (2, 1, 100)
        expected = np.stack([prefill.fetches["logits"][row, position] for row, position in enumerate(index)])
        assert relative_error(logits[:, 0], expected) <= tolerance("export_fp32")


def test_adapt_asks_rows_for_different_positions() -> None:
    feeds = {"input_ids": np.zeros((2, 4), np.int64)}
    logits = np.arange(2 * 4 * 3, dtype=np.float32).reshape(2, 4, 3)
    new, expected = LastPosition().adapt(feeds, {"logits": logits})
    assert new["last_index"].tolist() == [3, 2]
    np.testing.assert_array_equal(expected["logits"], logits[[0, 1], [3, 2]][:, None])


def test_another_head_is_refused_by_name() -> None:
    program, _ = twins.twin("tied")
    twins.nodes(program, "MatMul")[-1].outputs[0].name = "product"
    twins.nodes(program, "RMSNormalization")[-1].outputs[0].name = "logits"
    program.model.graph.outputs[0] = twins.nodes(program, "RMSNormalization")[-1].outputs[0]
    with pytest.raises(InternalError) as error:
        LastPosition().run(program)
    assert error.value.code == "E1301" and "RMSNormalization" in error.value.message
