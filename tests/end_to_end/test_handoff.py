"""One tiny InternLM2 in every form it leaves xamc in: for the CPU, for VACC in two ranks, and as the hand-off's ONNX.

The loop over the ONNX files knows nothing of xamc; what it reads was made of the VACC artifact, without the checkpoint.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.end_to_end.models import Workshop, spec
from tests.worker import Worker
from xamc.compiler.handoff.export import Handoff, HandoffOptions, export_vamc
from xamc.compiler.pipeline import Compiled, compile_spec
from xamc.errors import MisuseError
from xamc.ir.tolerances import tolerance
from xamc.runtime import Model, load

PREFILL, TOTAL = 16, 48


@pytest.fixture(scope="module")
def document(workshop: Workshop) -> dict[str, Any]:
    """Both targets' build file, but for the target."""
    document = spec(workshop.checkpoint("internlm2"), backend={"type": "tvm_vacc", "dtype": "fp16"})
    document["frontend"]["shape"] = {"input_ids": [[PREFILL], [TOTAL]]}
    document["frontend"]["model_kwargs"] = {"tp": 2, "model_arch": "vacc"}
    return document | {"name": "in-two-ranks"}


@pytest.fixture(scope="module")
def artifact(document: dict[str, Any], worker: Worker) -> Iterator[Compiled]:
    with worker.active():
        yield compile_spec(document)


@pytest.fixture(scope="module")
def vacc(artifact: Compiled) -> Model:
    return load(artifact.path, threads=1)


@pytest.fixture(scope="module")
def cpu(workshop: Workshop) -> Model:
    return workshop.model(
        workshop.checkpoint("internlm2"), "internlm2-fp16", backend={"type": "tvm_cpu", "dtype": "fp16"}
    )


@pytest.fixture(scope="module")
def handoff(artifact: Compiled, tmp_path_factory: pytest.TempPathFactory) -> Handoff:
    """Made of the artifact and of nothing else: what it was compiled from is another folder's name in its manifest."""
    options = HandoffOptions(output=tmp_path_factory.mktemp("handoff") / "out")
    return export_vamc(artifact.path, ["verify.passes=off"], options)


def require_alike(found: list[int], expected: list[int], prompt: list[int], cpu: Model) -> int:
    """Demands equal tokens up to a near-tie, which it shows; returns how many were equal.

    After a first difference the texts have nothing to do with each other. There, the two tokens' logits may differ by
    what rounding in float16 moves them.
    """
    pairs = list(zip(found, expected, strict=False))  # one that says another thing may also end earlier
    alike = next((i for i, pair in enumerate(pairs) if pair[0] != pair[1]), len(pairs))
    if alike == len(pairs):
        assert len(found) == len(expected)
    else:
        before = np.array([[*prompt, *expected[:alike]]])
        logits = cpu.logits(before, positions="last")[0, 0]
        print(f"{alike} of {len(found)}: {logits[expected[alike]]} and {logits[found[alike]]}")
        margin = abs(logits[expected[alike]] - logits[found[alike]])
        assert margin <= 2 * tolerance("vacc_fp16") * np.abs(logits).max()
    return alike


@pytest.mark.parametrize("length", [1, 9, PREFILL - 1, PREFILL, PREFILL + 3, TOTAL - 1])
def test_vacc_says_what_the_cpu_says(length: int, vacc: Model, cpu: Model) -> None:
    """Prompts of one token, some, all but one and all of the prefill, more than that; up to the last decode slot."""
    prompt = np.random.default_rng(length).integers(3, 272, length).tolist()
    answer = vacc.generate(prompt, ignore_eos=True)
    assert answer.finish_reason == "context" and len(answer.token_ids) == TOTAL - length
    expected = cpu.generate(prompt, TOTAL - length, ignore_eos=True).token_ids
    assert require_alike(answer.token_ids, expected, prompt, cpu) >= min(8, TOTAL - length)


@pytest.mark.parametrize("prompt", ["a", "some words", "x" * PREFILL])
def test_the_loop_says_what_xamc_run_says(prompt: str, handoff: Handoff, vacc: Model, cpu: Model) -> None:
    script = str(handoff.path / "onnx/run_onnx.py")
    command = [sys.executable, "-I", script, "--prompt", prompt, "--max-new-tokens", "30", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    said = json.loads(result.stdout)
    on_cpu, simulated = cpu.generate(prompt, 30), vacc.generate(prompt, 30)
    # the loop and the CPU compute in float32 on the same float16 weights
    assert (said["tokens"], said["text"]) == (on_cpu.token_ids, on_cpu.text) and said["text"]
    alike = require_alike(said["tokens"], simulated.token_ids, cpu.tokenizer.encode(prompt).tolist(), cpu)
    assert alike >= 8 and (alike < len(said["tokens"]) or said["text"] == simulated.text)


def test_the_artifact_is_enough(artifact: Compiled, handoff: Handoff, document: dict[str, Any], tmp_path: Path) -> None:
    """Its Llama checkpoint is byte by byte the one that is made of the checkpoint; the vendor's build file is, too."""
    options = HandoffOptions(output=tmp_path / "out", routes=("llama",))
    of_checkpoint = export_vamc(document, options=options).path / "llama"
    for name in ("checkpoint/model.safetensors", "checkpoint/config.json", "checkpoint/tokenizer.json"):
        assert (handoff.path / "llama" / name).read_bytes() == (of_checkpoint / name).read_bytes(), name
    mine, theirs = (yaml.safe_load((p / "build.yaml").read_text()) for p in (handoff.path / "llama", of_checkpoint))
    assert mine["frontend"]["model_kwargs"]["tp"] == 2 and mine["workspace"]["path"] == "./vacc_deploy"
    assert mine | {"workspace": None} == theirs | {"workspace": None}
    # beside the artifact, if nobody says where
    beside = export_vamc(artifact.path, options=HandoffOptions(routes=("llama",)))
    assert beside.path == artifact.path.parent / "in-two-ranks-vamc"


def test_an_artifact_of_the_cpu_needs_its_checkpoint(cpu: Model, workshop: Workshop, tmp_path: Path) -> None:
    path = workshop.compiled(workshop.checkpoint("internlm2"), "internlm2-fp16").path
    with pytest.raises(MisuseError) as caught:
        export_vamc(path, ["backend.type=tvm_vacc"])
    assert caught.value.code == "E1455" and "--checkpoint" in caught.value.fix and "internlm2" in caught.value.fix
    options = HandoffOptions(tmp_path / "out", ("llama",), checkpoint=str(workshop.checkpoint("internlm2")))
    handoff = export_vamc(path, ["backend.type=tvm_vacc", "frontend.shape.input_ids=[[16],[48]]"], options)
    assert (handoff.path / "llama/checkpoint/model.safetensors").is_file()
