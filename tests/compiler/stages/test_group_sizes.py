"""A group size that doesn't fit is said of the model's own matrices, by plan and compile, before the export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.checkpoints import CONFIGS
from tools.make_checkpoint import write_checkpoint
from xamc.cli import main as cli

SIZES = {"hidden_size": 96, "intermediate_size": 320}  # 96 = 3 groups of 32, and the twin has other widths


@pytest.mark.parametrize("command", ["plan", "compile"])
@pytest.mark.parametrize("target", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("sizes", "group", "columns", "fix"),
    [
        (SIZES, 64, 96, "set group_size to 32"),
        ({**SIZES, "hidden_size": 80}, 32, 80, "use w8a16_rtn with group_size: -1"),
        ({**SIZES, "intermediate_size": 336}, 32, 336, "use w8a16_rtn with group_size: -1"),
    ],
)
def test_the_message_names_a_tensor_of_the_model(
    sizes: dict[str, int],
    group: int,
    columns: int,
    fix: str,
    command: str,
    target: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_checkpoint(tmp_path / "odd", {**CONFIGS["llama"], **sizes})
    spec = {
        "frontend": {"checkpoint": "odd", "quantize": {"type": "w4a16_rtn", "group_size": group}},
        "backend": {"type": "tvm_cpu", "dtype": "int4"},
        "workspace": {"path": str(tmp_path / "out")},
    }
    (tmp_path / "build.yaml").write_text(json.dumps(spec, indent=1))
    assert cli.run([command, str(tmp_path / "build.yaml"), "--target", target]) == 3
    captured = capsys.readouterr()
    assert f"E1150  group_size {group} doesn't divide the {columns} columns of model." in captured.err
    assert fix in captured.err and "build.yaml:6:" in captured.err
    assert " export " not in captured.out.split("stages")[0]


def test_a_size_that_fits_is_none_of_this(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(tmp_path / "odd", {**CONFIGS["llama"], **SIZES})
    (tmp_path / "build.yaml").write_text(
        "frontend: {checkpoint: odd, quantize: {type: w4a16_rtn, group_size: 32}}\n"
        "backend: {type: tvm_cpu, dtype: int4}\n"
    )
    assert cli.run(["plan", str(tmp_path / "build.yaml")]) == 0
