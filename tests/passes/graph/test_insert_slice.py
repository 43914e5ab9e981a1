from tests.golden_files import check_golden
from tests.passes.graph.cases import golden_of
from xamc.passes.graph import insert_slice


def test_golden() -> None:
    check_golden("passes/insert_slice.txt", golden_of("insert_slice", insert_slice))
