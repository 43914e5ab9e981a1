"""Tests of the registry: every key of the field is known, suggestions, and uses per target."""

from __future__ import annotations

from pathlib import Path

import pytest

from xamc.compiler.spec import KeyUse, key_uses, load_spec
from xamc.compiler.spec.keys import SECTIONS
from xamc.compiler.spec.registry import find, registry, suggest
from xamc.errors import MisuseError
from xamc.targets.registry import CAPS, spec_keys

VENDOR = Path(__file__).parent / "vendor"

#: Keys that language-model build files for VACC use, by section.
IN_THE_FIELD = {
    "": "name",
    "frontend": "checkpoint dtype type",
    "frontend.model_kwargs": "b2s build_visual model_arch tp align_qkv",
    "frontend.quantize": "device type",
    "frontend.quantize.calib_args": "true_sequential",
    "frontend.shape": "attention_mask cos image input_ids pixel_values sin text",
    "backend": "dtype merge_params remove_params type",
    "backend.compile": "attention_split_num data_transport_mode data_type enable_dense_to_matmul ffn_split_num "
    "fullatt_block_indexes gather_data_vccl_dsp_enable llm_build output_layout",
    "dataset": "name nsamples path seqlen type",
    "workspace": "env_recheck path pyenv workers",
}


@pytest.mark.parametrize("section", IN_THE_FIELD)
def test_keys_of_the_field_are_known(section: str) -> None:
    parents = section.split(".") if section else []
    assert all(find((*parents, name)) for name in IN_THE_FIELD[section].split())


def test_registry_is_complete() -> None:
    for path, key in registry().items():
        parent = path.rpartition(".")[0]
        assert not parent or parent in SECTIONS
        assert path not in SECTIONS
        assert key.meaning.endswith((".", "`."))
        assert all(spec_keys(target).use_of(key)[1] for target in CAPS)
    for target in CAPS:
        assert set(spec_keys(target).uses) <= set(registry()), f"{target} says what it does with a key that is none"


@pytest.mark.parametrize(
    ("path", "suggestion"),
    [
        ("backend.quantize.alibrate_mode", "backend.quantize.calibrate_mode"),
        ("backend.quantize.stream_mode", "backend.compile.stream_mode"),
        ("backend.tp", "frontend.model_kwargs.tp"),
        ("model_kwargs", "frontend.model_kwargs"),
        ("quantize", "frontend.quantize"),
        ("backends", "backend"),
        ("verify.promts", "verify.prompts"),
        ("backend.dype", "backend.dtype"),
        ("dytpe", "frontend.dtype"),
        ("backend.DType", "backend.dtype"),
        ("backend.TYPE", "backend.type"),
        ("Backend", "backend"),
        ("backend.mergeParams", "backend.merge_params"),
        ("frontend.quantize.group-size", "frontend.quantize.group_size"),
        ("runtime.maxBatch", "runtime.max_batch"),
        ("backend.inptu_ids", "frontend.shape.input_ids"),
        ("frontend.qzzq", None),
    ],
)
def test_suggestions(path: str, suggestion: str | None) -> None:
    assert suggest(tuple(path.split("."))) == suggestion


def test_of_several_places_the_one_that_takes_the_value_is_suggested() -> None:
    assert suggest(("type",), "tvm_cpu") == "backend.type"
    assert suggest(("type",), "gguf") == "frontend.type"
    assert suggest(("type",), "w4a16_rtn") == "frontend.quantize.type"
    assert suggest(("dytpe",), "fp32") == "backend.dtype"


def uses(file: str, target: str) -> dict[str, KeyUse]:
    return {use.path: use for use in key_uses(load_spec(VENDOR / f"{file}.yaml"), target)}


def test_uses_on_the_cpu() -> None:
    by_path = uses("vlm_language", "tvm_cpu")
    assert {path: use.use for path, use in by_path.items()} == {
        "name": "used",
        "frontend.checkpoint": "used",
        "frontend.type": "used",
        "frontend.shape.input_ids": "used",
        "frontend.model_kwargs.tp": "no effect",
        "frontend.model_kwargs.model_arch": "recorded",
        "backend.type": "used",
        "backend.dtype": "used",
        "backend.merge_params": "no effect",
        "backend.remove_params": "no effect",
        "backend.compile.data_type": "no effect",
        "backend.compile.gather_data_vccl_dsp_enable": "no effect",
        "backend.compile.attention_split_num": "no effect",
        "backend.compile.ffn_split_num": "no effect",
        "workspace.path": "used",
        "workspace.workers": "used",
        "workspace.env_recheck": "no effect",
        "workspace.pyenv": "recorded",
    }
    assert "tp becomes 1" in by_path["frontend.model_kwargs.tp"].reason
    assert by_path["workspace.pyenv"].value == {"transformers": "4.51.3", "huggingface-hub": 0.3}


def test_uses_on_vacc() -> None:
    by_path = uses("llm_int8", "tvm_vacc")
    assert by_path["frontend.model_kwargs.tp"].use == "used"
    assert by_path["frontend.model_kwargs.b2s"].use == "recorded"
    assert by_path["backend.compile.gather_data_vccl_dsp_enable"].use == "recorded"


def test_uses_of_unknown_empty_and_superseded_keys() -> None:
    by_path = uses("cnn_misspelt", "tvm_cpu")
    reason = by_path["backend.quantize.alibrate_mode"].reason
    assert reason == "not a key that xamc knows; did you mean backend.quantize.calibrate_mode?"
    assert by_path["graph.extra_ops.extra_ops"].use == "no effect"
    assert by_path["workspace.work_dir"].use == "used"
    both = load_spec(
        {"frontend": {"checkpoint": "/m"}, "name": "a", "model": "b", "workspace": {"path": "x", "work_dir": "y"}}
    )
    assert {use.path: use.use for use in key_uses(both, "tvm_cpu")} == {
        "frontend.checkpoint": "used",
        "name": "used",
        "model": "no effect",
        "workspace.path": "used",
        "workspace.work_dir": "no effect",
    }
    cnn = uses("cnn_int8", "tvm_cpu")
    assert cnn['frontend.shape."input.1"'].use == "used"
    assert cnn["graph.extra_ops.type"].use == cnn["backend.quantize.calibrate_mode"].use == "recorded"
    assert uses("cnn_misspelt", "tvm_cpu")["frontend.shape.images"].use == "recorded"


def test_unknown_target() -> None:
    with pytest.raises(MisuseError) as caught:
        key_uses(load_spec(VENDOR / "llm_int8.yaml"), "cpu")
    assert caught.value.code == "E1071"
    assert "tvm_cpu" in caught.value.fix
