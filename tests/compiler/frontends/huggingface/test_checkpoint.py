"""Checkpoint folders: what they hold is found, what is wrong with them is named, nothing in them is run."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from tests.checkpoints import CONFIGS, write_tiny
from xamc.compiler.frontends import Checkpoint, open_checkpoint
from xamc.compiler.frontends.config_reader import ConfigReader
from xamc.compiler.frontends.families import find_family, model_types
from xamc.compiler.frontends.safetensors import read_header
from xamc.errors import InputError, UnsupportedError, XamcError


def open_folder(folder: Path) -> Checkpoint:
    return open_checkpoint(folder, "huggingface")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "model", "llama")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "model", "llama", shards=True)


def edit_json(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    for key, value in changes.items():
        if value is ...:
            del content[key]
        else:
            content[key] = value
    path.write_text(json.dumps(content))


def edit_header(path: Path, change: Any) -> None:
    """Rewrites the header of a safetensors file; `change` gets the parsed one."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])


def refused(folder: Path, code: str, *words: str, error: type[XamcError] = InputError) -> XamcError:
    with pytest.raises(error) as caught:
        open_folder(folder)
    assert caught.value.code == code
    for word in words:
        assert word in caught.value.message, caught.value.message
    assert caught.value.fix
    return caught.value


# --- what an intact folder gives


def test_an_embedding_model_saved_without_its_head_has_the_names_of_the_whole_model(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", "qwen3")
    whole = open_folder(folder)
    name = "model.layers.0.self_attn.q_proj.weight"
    expected = whole.tensors[name].read_rows(0, 4)

    def shorten(header: dict[str, Any]) -> None:
        for name in list(header):
            header[name.removeprefix("model.")] = header.pop(name)

    edit_header(folder / "model.safetensors", shorten)
    bare = open_folder(folder)
    assert bare.tensors.keys() == whole.tensors.keys()
    assert np.array_equal(bare.tensors[name].read_rows(0, 4), expected)


def test_a_folder_tells_its_files_config_and_tokenizer(shards: Path) -> None:
    (shards / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [2, 9], "temperature": 0.7, "top_k": 40, "do_sample": True})
    )
    edit_json(
        shards / "tokenizer_config.json", chat_template="{{ messages }}", auto_map={"AutoTokenizer": ["evil.Evil"]}
    )
    checkpoint = open_folder(shards)
    names = {path.name for path in checkpoint.files}
    assert {"config.json", "generation_config.json", "model.safetensors.index.json", "tokenizer.json"} <= names
    assert all(path.is_absolute() and path.exists() for path in checkpoint.files)
    assert sum(name.startswith("model-0") for name in names) == len(list(shards.glob("model-0*")))
    assert checkpoint.config.eos_token_ids == (2, 9)
    assert (checkpoint.generation.temperature, checkpoint.generation.top_k, checkpoint.generation.top_p) == (
        0.7,
        40,
        None,
    )
    assert checkpoint.chat_template == "{{ messages }}"
    settings = json.loads(bytes(checkpoint.tokenizer["tokenizer_config.json"]))
    assert settings["chat_template"] == "{{ messages }}" and "auto_map" not in settings
    assert checkpoint.tokenizer["tokenizer.json"] == shards / "tokenizer.json"


def test_a_template_file_wins_over_tokenizer_config(folder: Path) -> None:
    edit_json(
        folder / "tokenizer_config.json",
        chat_template=[{"name": "default", "template": "one"}, {"name": "tool_use", "template": "two"}],
    )
    assert open_folder(folder).chat_template == "one"
    (folder / "chat_template.jinja").write_text("three")
    assert open_folder(folder).chat_template == "three"


def test_unknown_keys_are_reported_and_neutral_ones_are_not(folder: Path) -> None:
    edit_json(folder / "config.json", wibble=2.0, transformers_version="4.40.0", _name_or_path="x", use_cache=True)
    assert open_folder(folder).ignored_keys == ("wibble",)


def test_the_head_of_a_tied_model_and_rotary_tables_may_stay_unused(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "tied", "llama")
    edit_json(folder / "config.json", tie_word_embeddings=True)
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}, folder / "model.safetensors")
    checkpoint = open_folder(folder)
    assert checkpoint.unused_tensors == ("lm_head.weight",) and "lm_head.weight" not in checkpoint.tensors
    assert len(open_folder(write_tiny(tmp_path / "v1", "internlm")).unused_tensors) == 2


def test_shards_may_be_symbolic_links(shards: Path, tmp_path: Path) -> None:
    """Hugging Face's cache is made of links to blobs outside of the folder."""
    shard = next(shards.glob("model-00001*"))
    shutil.move(shard, tmp_path / "blob")
    shard.symlink_to(tmp_path / "blob")
    tensor = open_folder(shards).tensors["model.embed_tokens.weight"]
    assert np.isfinite(tensor.read_rows(0, 4)).all()


# --- code is never run


def test_python_files_and_auto_map_are_never_imported(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = f"open({str(tmp_path / 'sprung')!r}, 'w').close()\nraise SystemExit('sprung')\n"
    for name in (
        "modeling_llama",
        "configuration_llama",
        "tokenization_llama",
        "__init__",
        "llama",
        "tokenizers",
        "sitecustomize",
    ):
        (folder / f"{name}.py").write_text(trap)
    for file in ("config.json", "tokenizer_config.json"):
        edit_json(
            folder / file,
            auto_map={
                "AutoConfig": "configuration_llama.C",
                "AutoModelForCausalLM": "modeling_llama.M",
                "AutoTokenizer": ["tokenization_llama.T"],
            },
            trust_remote_code=True,
            _attn_implementation="modeling_llama.attention",
            _attn_implementation_internal="org/kernel",
        )
    monkeypatch.chdir(folder)
    before = set(sys.modules)
    checkpoint = open_folder(folder)
    config = checkpoint.config.hf_config
    assert not (tmp_path / "sprung").exists()
    assert not [
        name for name in set(sys.modules) - before if str(folder) in str(getattr(sys.modules[name], "__file__", ""))
    ]
    assert not [key for key in config if key.startswith("_") or key in ("auto_map", "trust_remote_code")]
    assert b"tokenization_llama" not in bytes(checkpoint.tokenizer["tokenizer_config.json"])


def test_hf_config_is_an_allow_list(folder: Path) -> None:
    """Nothing of config.json reaches transformers by its own name unless a family asked for it by type."""
    plain = open_folder(folder).config.hf_config
    edit_json(
        folder / "config.json", **{f"surprise_{i}": {"a": i} for i in range(3)}, torch_dtype="bfloat16", dtype="float64"
    )
    assert open_folder(folder).config.hf_config == plain


# --- bad folders


def test_wrong_places(tmp_path: Path, folder: Path) -> None:
    refused(tmp_path / "nowhere", "E1101", "nowhere")
    refused(folder / "config.json", "E1101", "not a folder")
    (folder / "config.json").unlink()
    refused(folder, "E1103", "config.json")
    (folder / "m.Q4_0.gguf").touch()
    assert "frontend.type: gguf" in refused(folder, "E1101", "GGUF files").fix


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1, "a": 2}', '{"a": 1e999}x', "\ud800"])
def test_damaged_config(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    refused(folder, "E1103", "config.json")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": ...}, "hidden_size"),
        ({"hidden_size": "48"}, "hidden_size"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"num_attention_heads": True}, "num_attention_heads"),
        ({"num_key_value_heads": 4}, "num_key_value_heads"),
        ({"head_dim": 15}, "head_dim"),
        ({"head_dim": None, "hidden_size": 49}, "hidden_size"),
        ({"rms_norm_eps": -1}, "rms_norm_eps"),
        ({"vocab_size": 1.5}, "vocab_size"),
        ({"eos_token_id": 300}, "eos_token_id"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"rope_theta": "big"}, "rope_theta"),
        ({"rope_scaling": []}, "rope_scaling"),
        ({"rope_scaling": {"type": "linear"}}, "factor"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "low_freq_factor"),
    ],
)
def test_wrong_config_keys_are_named(folder: Path, changes: dict[str, Any], words: str) -> None:
    edit_json(folder / "config.json", **changes)
    refused(folder, "E1104", words, "config.json")


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "E1106", "'yarn'"),
        ({"rope_scaling": {"type": "longrope"}}, "E1106", "'longrope'"),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}, "rope_theta": ...},
            "E1106",
            "'yarn'",
        ),
        ({"partial_rotary_factor": 0.5}, "E1106", "partial_rotary_factor"),
        ({"hidden_act": "gelu"}, "E1107", "'gelu'"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "E1107", "gptq"),
        ({"model_type": "chatglm"}, "E1105", "chatglm"),
    ],
)
def test_unsupported_configs_are_named(folder: Path, changes: dict[str, Any], code: str, words: str) -> None:
    edit_json(folder / "config.json", **changes)
    # a rotary embedding xamc lacks is the user's input to change (exit 1), everything else here is unsupported
    refused(folder, code, words, "config.json", error=InputError if code == "E1106" else UnsupportedError)


@pytest.mark.parametrize(
    ("found", "closest"),
    [("internlm4", "internlm"), ("qwen2_moe", "qwen2"), ("LLama", "llama"), ("mixtral", "mistral")],
)
def test_unknown_families_name_the_closest(folder: Path, found: str, closest: str) -> None:
    edit_json(folder / "config.json", model_type=found)
    assert f"the closest is {closest}" in refused(folder, "E1105", found, error=UnsupportedError).fix


def test_the_rope_spellings_agree(folder: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    edit_json(folder / "config.json", rope_scaling=scaling, rope_theta=5000.0)
    old = open_folder(folder).config
    edit_json(
        folder / "config.json", rope_scaling=..., rope_theta=..., rope_parameters={**scaling, "rope_theta": 5000.0}
    )
    new = open_folder(folder).config
    assert old == new and old.rope.kind == "llama3" and old.rope.original_max_position_embeddings == 32


# --- bad weights


def test_missing_shards_are_listed(shards: Path) -> None:
    gone = sorted(shards.glob("model-0*"))[1:3]
    for path in gone:
        path.unlink()
    error = refused(shards, "E1114", str(gone[0]))
    assert set(error.details) == {path.name for path in gone}


def test_truncated_shard(shards: Path) -> None:
    shard = sorted(shards.glob("model-0*"))[1]
    shard.write_bytes(shard.read_bytes()[:-10])
    refused(shards, "E1111", str(shard), "truncated")


@pytest.mark.parametrize(
    "target",
    [
        "../x.safetensors",
        "/etc/x.safetensors",
        "a/b.safetensors",
        "x.bin",
        "a\\b.safetensors",
        "\0.safetensors",
        3,
        None,
        "..",
    ],
)
def test_the_index_names_files_beside_it_only(shards: Path, target: object) -> None:
    index = shards / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.norm.weight"] = target
    (shards.parent / "x.safetensors").write_bytes(next(shards.glob("model-00001*")).read_bytes())
    index.write_text(json.dumps(content))
    refused(shards, "E1113", "model.norm.weight", str(index))


@pytest.mark.parametrize("weight_map", [None, {}, [], "x"])
def test_an_index_without_map(shards: Path, weight_map: object) -> None:
    (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    refused(shards, "E1113", "weight_map")


def test_an_index_that_lies(shards: Path) -> None:
    """A tensor that is in another shard than the index says is taken from there, one that is in none is missed."""
    index = shards / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    files = list(content["weight_map"].values())
    name = next(n for n, f in content["weight_map"].items() if files.count(f) > 1)
    other = next(f for f in files if f != content["weight_map"][name])
    whole = open_folder(shards)
    index.write_text(json.dumps({"weight_map": content["weight_map"] | {name: other}}))
    checkpoint = open_folder(shards)
    assert checkpoint.tensors == whole.tensors
    assert name in checkpoint.warnings[0] and other in checkpoint.warnings[0]
    index.write_text(json.dumps({"weight_map": content["weight_map"] | {"model.ghost": other}}))
    refused(shards, "E1113", "model.ghost", other)


def test_a_shard_in_the_place_of_another(shards: Path) -> None:
    files = sorted(shards.glob("model-0*"))
    shutil.copy(files[0], files[1])
    refused(shards, "E1113", "places", files[1].name, "doesn't hold it")


def test_files_without_an_index(folder: Path) -> None:
    shutil.move(folder / "model.safetensors", folder / "a.safetensors")
    assert open_folder(folder).tensors
    shutil.copy(folder / "a.safetensors", folder / "b.safetensors")
    refused(folder, "E1114", "2 safetensors files")


def test_pickles_are_refused_with_a_remedy(folder: Path) -> None:
    shutil.move(folder / "model.safetensors", folder / "pytorch_model.bin")
    assert "convert-weights" in refused(folder, "E1116", "pytorch_model.bin", error=UnsupportedError).fix
    (folder / "pytorch_model.bin").unlink()
    refused(folder, "E1116", "no safetensors")


def test_missing_and_extra_tensors(folder: Path) -> None:
    weights = folder / "model.safetensors"

    def rename(header: dict[str, Any]) -> None:
        header["model.layers.1.mlp.up.weight"] = header.pop("model.layers.1.mlp.up_proj.weight")

    edit_header(weights, rename)
    refused(folder, "E1120", "model.layers.1.mlp.up_proj.weight", "it holds model.layers.1.mlp.up.weight")
    edit_json(folder / "config.json", num_hidden_layers=3)
    assert len(refused(folder, "E1120", str(folder), "more").details) == 10
    edit_json(folder / "config.json", num_hidden_layers=1)
    refused(folder, "E1121", "model.layers.1.", str(weights), "more")


def test_config_that_contradicts_shapes(folder: Path) -> None:
    edit_json(folder / "config.json", intermediate_size=96)
    error = refused(
        folder,
        "E1122",
        "model.layers.0.mlp.gate_proj.weight",
        str(folder / "model.safetensors"),
        "[96, 48]",
        "[80, 48]",
    )
    assert len(error.details) == 6


def test_lying_dtype(folder: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        header["model.norm.weight"]["dtype"] = "F16"

    edit_header(folder / "model.safetensors", change)
    refused(folder, "E1110", "model.norm.weight", "needs 96 bytes and has 192")

    def integers(header: dict[str, Any]) -> None:
        header["model.norm.weight"]["dtype"] = "I32"

    edit_header(folder / "model.safetensors", integers)
    refused(folder, "E1112", "model.norm.weight", "I32")


# --- bad tokenizers


def test_tokenizer_problems(folder: Path) -> None:
    tokenizer = folder / "tokenizer.json"
    good = json.loads(tokenizer.read_text())
    tokenizer.write_text(
        json.dumps({**good, "model": {**good["model"], "vocab": {**good["model"]["vocab"], "far": 272}}})
    )
    refused(folder, "E1134", "273 tokens", "vocab_size is 272")
    for damaged in ({}, {"model": 3}, {"model": {"vocab": {"a": "b"}}}):
        tokenizer.write_text(json.dumps(damaged))
        refused(folder, "E1134", "tokenizer.json")
    tokenizer.write_text("{")
    refused(folder, "E1103", "tokenizer.json")
    tokenizer.rename(folder / "tekken.json")
    refused(folder, "E1134", "neither tokenizer.json nor tokenizer.model")


def test_a_folder_without_any_tokenizer_is_a_model_of_token_ids(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    checkpoint = open_folder(folder)
    assert not checkpoint.tokenizer and checkpoint.chat_template is None
    [warning] = checkpoint.warnings
    assert "no tokenizer" in warning and "token ids" in warning


# --- properties

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = sorted(
    {key for config in CONFIGS.values() for key in config}
    | {"rope_parameters", "rotary", "layer_types", "quantization_config", "partial_rotary_factor"}
)


@given(st.sampled_from(sorted(CONFIGS)), st.dictionaries(st.sampled_from(KEYS), JSON, max_size=3))
def test_any_config_gives_a_model_or_our_error(name: str, changes: dict[str, Any]) -> None:
    reader = ConfigReader({**CONFIGS[name], **changes}, Path("config.json"))
    try:
        config = find_family(reader).configure(reader)
    except XamcError:
        return
    assert len(config.sliding_windows) == config.num_layers
    assert config.num_heads % config.num_kv_heads == 0
    json.dumps(config.hf_config)


def test_every_family_is_covered_here() -> None:
    assert {config["model_type"] for config in CONFIGS.values()} == set(model_types())


def test_full_size_layouts_fit_their_families(tmp_path: Path) -> None:
    """The published shapes pass every check of a family, without their weights: a sparse file stands in for them."""
    from tools.make_checkpoint import SHAPES, tensor_layout, tokenizer_json

    for name, config in SHAPES.items():
        folder = tmp_path / name
        folder.mkdir()
        header, offset = {}, 0
        for tensor, shape in tensor_layout(config).items():
            size = int(np.prod(shape)) * 2
            header[tensor] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, offset + size]}
            offset += size
        text = json.dumps(header).encode()
        with (folder / "model.safetensors").open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            stream.truncate(8 + len(text) + offset)
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "tokenizer.json").write_bytes(tokenizer_json())
        checkpoint = open_folder(folder)
        assert not checkpoint.unused_tensors or config["model_type"] == "internlm"
        assert not checkpoint.ignored_keys
        assert not read_header(folder / "model.safetensors")["model.norm.weight"][1].read_rows(0, 5).any()
