"""The hand-off's loop over two ONNX files, which knows nothing of xamc, says what `xamc run` says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.models import Workshop, spec
from xamc.compiler.handoff.export import HandoffOptions, export_vamc

PREFILL, TOTAL = 16, 48


@pytest.fixture(scope="module")
def onnx_folder(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The static graphs of the tiny InternLM2 model that the CPU artifact is made of."""
    wish = spec(workshop.checkpoint("internlm2"), backend={"type": "tvm_vacc", "dtype": "fp16"})
    wish["frontend"]["shape"] = {"input_ids": [[PREFILL], [TOTAL]]}
    options = HandoffOptions(output=tmp_path_factory.mktemp("handoff") / "out", roads=("onnx",))
    return export_vamc(wish, options=options).path / "onnx"


@pytest.mark.parametrize("prompt", ["a", "some words", "x" * PREFILL])
def test_the_loop_says_what_xamc_run_says(prompt: str, workshop: Workshop, onnx_folder: Path) -> None:
    model = workshop.model(workshop.checkpoint("internlm2"))
    command = [sys.executable, "-I", str(onnx_folder / "run_onnx.py"), "--prompt", prompt, "--max-new-tokens", "30"]
    result = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(result.stdout)["text"] == model.generate(prompt, 30).text
