"""The names that the generic route accepts are names that TVM's importer and ONNX have."""

from __future__ import annotations

import onnx
import pytest

from xamc.passes.lowering.onnx_operators import SUPPORTED, obstacle


def test_tvm_has_every_supported_operator() -> None:
    from tvm.relax.frontend.onnx import onnx_frontend

    from xamc.targets.onnx.importer.import_onnx import OURS

    handled_elsewhere = {"If"}
    assert set(onnx_frontend._get_convert_map()) | set(OURS) | handled_elsewhere >= SUPPORTED


def test_every_supported_operator_is_standard() -> None:
    standard = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    assert not {name for name in SUPPORTED if name not in standard}


@pytest.mark.parametrize(
    ("domain", "name", "words"),
    [
        ("", "Relu", None),
        ("ai.onnx", "Relu", None),
        ("V", "Relu", "domain V"),
        ("", "Loop", "depends on the data"),
        ("", "SequenceAt", "sequences"),
        ("", "LSTM", "no lowering"),
    ],
)
def test_obstacles(domain: str, name: str, words: str | None) -> None:
    found = obstacle(domain, name)
    assert (found is None) if words is None else (found is not None and words in found)
