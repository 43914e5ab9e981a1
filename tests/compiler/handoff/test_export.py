"""The whole folder of tiny models, as a user gets it: what is in it, and that its ONNX files give the right text."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
import yaml

from tests.checkpoints import write_tiny
from tests.end_to_end import references
from tests.worker import Worker
from xamc.cli.main import run
from xamc.compiler.handoff.export import Handoff, HandoffOptions, export_vamc
from xamc.compiler.handoff.folder import MARKER
from xamc.compiler.spec import load_spec
from xamc.errors import InputError, MisuseError, UnsupportedError

PREFILL, TOTAL = 16, 32
# what onnx 1.14 with opset 14 knows, and what standard tools of that time fold and fuse
OPERATORS = {
    "Add", "Concat", "Constant", "Div", "Expand", "Gather", "Greater", "MatMul", "Mul", "Neg", "Pow", "ReduceMean",
    "Reshape", "Sigmoid", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip


def spec(checkpoint: Path, **frontend: Any) -> dict[str, Any]:
    """A vendor-like spec of the tiny checkpoint, for tp 2."""
    return {
        "name": checkpoint.name,
        "frontend": {
            "checkpoint": str(checkpoint),
            "type": "huggingface",
            "shape": {"input_ids": [[PREFILL], [TOTAL]]},
            "model_kwargs": {"tp": 2, "b2s": True, "model_arch": "vacc"},
            **frontend,
        },
        "backend": {"type": "tvm_vacc", "dtype": "fp16", "merge_params": True},
        "workspace": {"path": str(checkpoint.parent / "deploy")},
    }


@pytest.fixture(scope="module", autouse=True)
def _one_worker(worker: Worker) -> Iterator[None]:
    """Two exports, one process; what is in processes of its own here is the loop."""
    with worker.active():
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Handoff]:
    """An InternLM2 checkpoint and its hand-off, with every pass proven."""
    checkpoint = write_tiny(tmp_path_factory.mktemp("handoff") / "internlm2-tiny", "internlm2")
    return checkpoint, export_vamc(spec(checkpoint), options=HandoffOptions(dtype="source"))


def greedy(model: Any, prompt: list[int], steps: int) -> list[int]:
    """The likeliest tokens after `prompt`, the whole sequence anew at every step: no cache that could be wrong."""
    ids = list(prompt)
    for _ in range(steps):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == 2:
            break
    return ids[len(prompt) :]


def loop(folder: Path, text: str, steps: int) -> dict[str, Any]:
    """What run_onnx.py prints, run as a user does, without xamc on its path."""
    command = [sys.executable, "-I", str(folder / "run_onnx.py"), "--prompt", text, "--max-new-tokens", str(steps)]
    result = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=120, check=True)
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def test_files_of_both_routes(made: tuple[Path, Handoff]) -> None:
    checkpoint, handoff = made
    assert handoff.path == checkpoint.parent / "deploy" / "internlm2-tiny-vamc"
    files = {str(path.relative_to(handoff.path)) for path in handoff.path.rglob("*") if path.is_file()}
    assert files == {*handoff.files, MARKER}
    assert {"llama/build.yaml", "llama/checkpoint/config.json", "llama/checkpoint/model.safetensors"} <= files
    assert {"onnx/prefill_16.onnx", "onnx/decode_32.onnx", "onnx/weights.bin", "README.md", "README.zh.md"} <= files
    assert {name for name in files if name.startswith("llama/") and name.endswith(".py")} == set()
    marker = json.loads((handoff.path / MARKER).read_text())
    assert str(checkpoint.parent) not in json.dumps(marker)
    assert all(proof["deviation"] <= 1e-5 for proof in handoff.report["proofs"]) and len(handoff.report["proofs"]) > 15


def test_build_files_are_vendor_files(made: tuple[Path, Handoff]) -> None:
    _, handoff = made
    build = yaml.safe_load((handoff.path / "llama" / "build.yaml").read_text())
    assert build["frontend"]["model_kwargs"] == {"tp": 2, "model_arch": "vacc", "b2s": True}
    assert build["frontend"]["shape"] == {"input_ids": [[PREFILL], [TOTAL]]}
    loaded = load_spec(handoff.path / "llama" / "build.yaml")
    assert not loaded.warnings and Path(loaded.spec.frontend.checkpoint) == handoff.path / "llama" / "checkpoint"
    decode = yaml.safe_load((handoff.path / "onnx" / "build_decode_32.yaml").read_text())
    assert decode["frontend"]["type"] == "onnx" and decode["frontend"]["checkpoint"] == "./decode_32.onnx"
    assert decode["frontend"]["shape"]["past_value.1"] == [1, 2, TOTAL - 1, 8]
    assert decode["frontend"]["shape"]["attention_mask"] == [1, TOTAL]


def test_llama_road_loads_in_transformers(made: tuple[Path, Handoff]) -> None:
    """Config, weights and tokenizer through the public loaders, equal to the original spelled out by hand."""
    checkpoint, handoff = made
    folder = handoff.path / "llama" / "checkpoint"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert type(model).__name__ == "LlamaForCausalLM"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer("many words of text").input_ids
    assert greedy(model, prompt, 8) == greedy(references.as_llama(checkpoint), prompt, 8)


@pytest.mark.parametrize(
    ("text", "steps"), [("x", 20), ("a few words", 40), ("p" * PREFILL, 40), ("p" * (PREFILL - 1), 5)]
)
def test_loop_gives_transformers_text(made: tuple[Path, Handoff], text: str, steps: int) -> None:
    """Prompts of one token, some, all but one and all of the prefill, and generation up to the last slot."""
    checkpoint, handoff = made
    prompt = transformers.AutoTokenizer.from_pretrained(handoff.path / "llama" / "checkpoint")(text).input_ids
    expected = greedy(references.as_llama(checkpoint), prompt, min(steps, TOTAL - len(prompt) + 1))
    assert loop(handoff.path / "onnx", text, steps)["tokens"] == expected


def test_onnx_files_need_nothing_new(made: tuple[Path, Handoff]) -> None:
    _, handoff = made
    for name in ("prefill_16", "decode_32"):
        path = handoff.path / "onnx" / f"{name}.onnx"
        onnx.checker.check_model(str(path), full_check=True)
        model = onnx.load(str(path), load_external_data=False)
        assert model.ir_version == 8 and [(e.domain, e.version) for e in model.opset_import] == [("", 14)]
        assert {node.op_type for node in model.graph.node} <= OPERATORS and not model.functions
        assert {node.domain for node in model.graph.node} == {""}
        for value in (*model.graph.input, *model.graph.output):
            assert all(dim.dim_value > 0 for dim in value.type.tensor_type.shape.dim)
    size = (handoff.path / "onnx" / "weights.bin").stat().st_size
    inline = sum(int(e.value) for t in model.graph.initializer for e in t.external_data if e.key == "length")
    assert size < 1.5 * inline, "prefill and decode share their weights"


def _options(path: Path, **values: Any) -> HandoffOptions:
    return HandoffOptions(output=path, **values)


def test_half_precision_weights(made: tuple[Path, Handoff], tmp_path: Path) -> None:
    checkpoint, handoff = made
    half = export_vamc(spec(checkpoint), options=_options(tmp_path / "half", routes=("onnx",), onnx_dtype="float16"))
    sizes = [(h.path / "onnx" / "weights.bin").stat().st_size for h in (half, handoff)]
    assert sizes[0] < 0.8 * sizes[1] and not (half.path / "llama").exists()
    import onnxruntime as ort

    feeds = {"input_ids": np.random.default_rng(1).integers(3, 272, (1, PREFILL))}
    logits = [
        ort.InferenceSession(h.path / "onnx" / "prefill_16.onnx").run(["logits"], feeds)[0] for h in (half, handoff)
    ]
    assert 0 < np.abs(logits[0] - logits[1]).max() < 0.01 * np.abs(logits[1]).max()


def test_embedding_model_has_no_loop(made: tuple[Path, Handoff], tmp_path: Path) -> None:
    document = spec(made[0], shape={"input_ids": [[PREFILL], []]})
    handoff = export_vamc(document, options=_options(tmp_path / "out"))
    files = {path.name for path in (handoff.path / "onnx").iterdir()}
    assert "run_onnx.py" not in files and "prefill_16.onnx" in files and not any("decode" in name for name in files)
    assert "hidden states" in (handoff.path / "README.md").read_text()


def test_readmes_tell_the_same(made: tuple[Path, Handoff]) -> None:
    _, handoff = made
    english, chinese = ((handoff.path / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md"))
    marker = json.loads((handoff.path / MARKER).read_text())
    for text in (english, chinese):
        assert (
            all(f"**{identifier}**" in text for identifier in marker["assumptions"]) and len(marker["assumptions"]) > 8
        )
        assert "vamc compile build.yaml" in text and "vamc compile build_decode_32.yaml" in text
        assert '--llm_devices "[0,1]"' in text and "onnxsim==0.4.35" in text
        assert "`tp: 2`" in text, "the graphs are of one rank, and the build file asks for two"
    assert sum("\u4e00" <= letter <= "\u9fff" for letter in chinese) > 500


def test_qwen3_exits_3_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = write_tiny(tmp_path / "qwen3", "qwen3")
    file = tmp_path / "build.yaml"
    file.write_text(yaml.safe_dump(spec(checkpoint)))
    assert run(["export-vamc", str(file), "-o", str(tmp_path / "out")]) == 3
    assert "E1450" in capsys.readouterr().err and not (tmp_path / "out").exists()
    handoff = export_vamc(
        spec(checkpoint) | {"verify": {"passes": "off"}}, options=_options(tmp_path / "out", routes=("onnx",))
    )
    model = references.own_loading(checkpoint)
    prompt = transformers.AutoTokenizer.from_pretrained(checkpoint)("Qwen").input_ids
    assert loop(handoff.path / "onnx", "Qwen", 6)["tokens"] == greedy(model, prompt, 6)


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code"),
    [
        (["--route", "tensorrt"], "E1459", 2),
        (["--road", "tensorrt"], "E1459", 2),
        (["--dtype", "fp8"], "E1459", 2),
        (["--set", "backend.type=tvm_cpu"], "E1452", 1),
        (["--set", "frontend.quantize.type=w8a16_rtn", "--set", "backend.dtype=int8"], "E1451", 3),
    ],
)
def test_refused(
    arguments: list[str], code: str, exit_code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "build.yaml"
    file.write_text(yaml.safe_dump(spec(tmp_path / "nothing")))
    assert run(["export-vamc", str(file), *arguments]) == exit_code
    assert code in capsys.readouterr().err


def test_json_is_one_document(made: tuple[Path, Handoff], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "build.yaml"
    file.write_text(yaml.safe_dump(spec(made[0])))
    arguments = ["export-vamc", str(file), "-o", str(tmp_path / "out"), "--route", "llama", "--json"]
    assert run(arguments) == 0
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert Path(answer["path"]) == tmp_path / "out" and "llama/build.yaml" in answer["files"]
    assert [stage["name"] for stage in answer["report"]["stages"]] == ["spec", "frontend", "llama", "publish"]
    assert "hand-off for vamc" in printed.err
    arguments[arguments.index("--route")] = "--road"
    assert run(arguments) == 0, "a hand-off is replaced by the next one, whatever the option was called"
    printed = capsys.readouterr()
    former = json.loads(printed.out)
    assert former["files"] == answer["files"] and "--road is called --route now" in printed.err
    assert former["report"]["warnings"] == ["--road is called --route now", *answer["report"]["warnings"]]


def test_a_foreign_folder_is_not_replaced(tmp_path: Path) -> None:
    checkpoint = write_tiny(tmp_path / "llama", "llama")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(InputError, match="E1453"):
        export_vamc(spec(checkpoint), options=_options(tmp_path / "out", routes=("llama",)))
    assert (tmp_path / "out" / "mine").read_text() == "x"


def test_of_an_artifact(made: tuple[Path, Handoff], tmp_path: Path) -> None:
    """An artifact's spec, with the checkpoint it was made from and no other."""
    import xamc.compiler

    checkpoint = made[0]
    artifact = xamc.compiler.compile(spec(checkpoint) | {"backend": {"type": "reference", "dtype": "fp16"}}).path
    overrides = ["backend.type=tvm_vacc"]
    with pytest.raises(MisuseError, match="E1455"):
        export_vamc(artifact, overrides)
    options = _options(tmp_path / "out", routes=("llama",), checkpoint=str(checkpoint))
    handoff = export_vamc(artifact, overrides, options)
    build = yaml.safe_load((handoff.path / "llama" / "build.yaml").read_text())
    assert build["frontend"]["model_kwargs"] == {"tp": 2, "model_arch": "vacc", "b2s": True}
    other = write_tiny(tmp_path / "other", "internlm2", seed=1)
    with pytest.raises(InputError, match="E1456"):
        export_vamc(artifact, overrides, _options(tmp_path / "out", routes=("llama",), checkpoint=str(other)))


def test_onnx_checkpoints_need_no_handoff(tmp_path: Path) -> None:
    document = spec(tmp_path / "model.onnx") | {"frontend": {"checkpoint": "model.onnx", "shape": {"x": [1, 3]}}}
    with pytest.raises(UnsupportedError, match="E1451"):
        export_vamc(document)
