from tests.golden_files import check_golden
from tests.passes.graph.cases import golden_of
from xamc.passes.graph import phase


def test_golden() -> None:
    check_golden("passes/phase.txt", golden_of("phase", phase))
