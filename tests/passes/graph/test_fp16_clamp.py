from tests.golden_files import check_golden
from tests.passes.graph.cases import golden_of
from xamc.passes.graph import fp16_clamp


def test_golden() -> None:
    check_golden("passes/fp16_clamp.txt", golden_of("fp16_clamp", fp16_clamp))
