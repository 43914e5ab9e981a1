"""One mistake is one error, all come at once in the order of the file, and none judges a value again."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.compiler.spec.specs import errors_of, with_, write
from xamc.compiler.spec import SpecErrors, load_spec


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
