"""Build files that vamc gets: the vendor's keys, the lengths and tp asked for, nothing of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from xamc.compiler.handoff.vamc_file import llama_build, onnx_build, require_vamc_spec, write_vamc
from xamc.compiler.spec import load_spec
from xamc.errors import InputError, UnsupportedError

VENDOR = """
name: internlm3-8b-instruct-int8-tp4-1024-2048
frontend:
  checkpoint: /path/to/internlm3-8b-instruct
  type: huggingface
  shape:
    input_ids: [[1024], [2048]]
  model_kwargs:
    tp: 4
    b2s: true
    model_arch: vacc
  quantize:
    type: w8a16_gptq
backend:
  type: tvm_vacc
  dtype: int8
  merge_params: true
  compile:
    data_type: 0
    gather_data_vccl_dsp_enable: true
workspace:
  path: ./vacc_deploy
  workers: 4
"""


def _load(text: str, tmp_path: Path, *overrides: str) -> Any:
    path = tmp_path / "build.yaml"
    path.write_text(text)
    return load_spec(path, overrides)


def test_a_vendor_file_stays_as_it_is(tmp_path: Path) -> None:
    loaded = _load(VENDOR, tmp_path)
    require_vamc_spec(loaded)
    written = tmp_path / "out.yaml"
    write_vamc(written, llama_build(loaded, None), "made by a test")
    expected = yaml.safe_load(VENDOR)
    expected["frontend"]["checkpoint"] = "./checkpoint"
    assert yaml.safe_load(written.read_text()) == expected
    assert "input_ids: [[1024], [2048]]" in written.read_text()
    assert written.read_text().startswith("# made by a test\n")


def test_own_and_unknown_keys_stay_behind(tmp_path: Path) -> None:
    text = VENDOR + "passes: {disable: []}\nverify: {passes: 'off'}\nruntime: {max_batch: 2}\n"
    text = text.replace("  merge_params", "  alibrate_mode: kl\n  merge_params")
    loaded = _load(text, tmp_path, "frontend.quantize.group_size=64", "workspace.pyenv.peft=0.1")
    values = llama_build(loaded, "4.45.0")
    assert set(values) == {"name", "frontend", "backend", "workspace"}
    assert values["backend"].keys() == {"type", "dtype", "merge_params", "compile"}
    assert values["frontend"]["quantize"] == {"type": "w8a16_gptq"}
    assert values["workspace"]["pyenv"] == {"peft": "0.1", "transformers": "4.45.0"}


def test_a_short_spec_gets_what_every_vendor_file_says(tmp_path: Path) -> None:
    text = "name: m\nfrontend: {checkpoint: a, type: huggingface, shape: {input_ids: [[16, 32], []]}}\n"
    text += "backend: {dtype: fp16}\n"
    loaded = _load(text, tmp_path)
    require_vamc_spec(loaded)
    values = llama_build(loaded, None)
    assert values["frontend"]["shape"]["input_ids"] == [[16, 32], []]
    assert values["frontend"]["model_kwargs"] == {"tp": 1, "model_arch": "vacc"}
    assert values["backend"] == {"dtype": "fp16", "type": "tvm_vacc", "merge_params": True, "compile": {"data_type": 0}}
    assert values["workspace"] == {"path": "./vacc_deploy"}


def test_what_vamc_cannot_say(tmp_path: Path) -> None:
    for overrides, code, kind in (
        (["backend.type=tvm_cpu"], "E1452", InputError),
        (["frontend.shape.input_ids=null"], "E1452", InputError),
        (["frontend.quantize.type=w8a16_rtn"], "E1451", UnsupportedError),
        (["frontend.quantize=null", "backend.dtype=bf16"], "E1451", UnsupportedError),
        (["frontend.type=onnx", "frontend.quantize=null", "backend.dtype=fp16"], "E1451", UnsupportedError),
    ):
        with pytest.raises(kind, match=code):
            require_vamc_spec(_load(VENDOR, tmp_path, *overrides))


def test_onnx_build(tmp_path: Path) -> None:
    values = onnx_build("m-decode-32", "decode_32.onnx", {"input_ids": (1, 1), "past_key.0": (1, 2, 31, 16)}, "./out")
    write_vamc(tmp_path / "b.yaml", values, "c")
    read = yaml.safe_load((tmp_path / "b.yaml").read_text())
    assert read == values and read["frontend"]["shape"] == {"input_ids": [1, 1], "past_key.0": [1, 2, 31, 16]}
    assert load_spec(tmp_path / "b.yaml").spec.frontend.type == "onnx"
