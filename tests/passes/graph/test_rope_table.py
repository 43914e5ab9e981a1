from tests.golden_files import check_golden
from tests.passes.graph.cases import golden_of
from xamc.passes.graph import rope_table


def test_golden() -> None:
    check_golden("passes/rope_table.txt", golden_of("rope_table", rope_table))
