from tests.golden_files import check_golden
from tests.passes.graph.cases import golden_of
from xamc.passes.graph import causal_mask


def test_golden() -> None:
    check_golden("passes/causal_mask.txt", golden_of("causal_mask", causal_mask))
