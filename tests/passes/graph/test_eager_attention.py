from tests.golden_files import check_golden
from tests.passes.graph.cases import golden_of
from xamc.passes.graph import eager_attention


def test_golden() -> None:
    check_golden("passes/eager_attention.txt", golden_of("eager_attention", eager_attention))
