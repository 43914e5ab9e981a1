"""A toy model with a KV cache, small enough to follow by hand, in NumPy, ONNX and TVM, and artifacts made of it.

The logits at position p are `scale[p] * (emb[t_0] + ... + emb[t_p]) @ head.T`, where `scale[p]` is the sum of row p of
the RoPE tables: wrong write indices, stale cache entries, wrong positions and wrong last tokens all show.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xamc.artifact.digests import sha256_of
from xamc.artifact.manifest import (
    MANIFEST,
    Cpu,
    FileDigest,
    Generation,
    KvCache,
    Manifest,
    Phase,
    Quantization,
    Weights,
    plan_layout,
)
from xamc.artifact.manifest_file import dumps
from xamc.model.config import ModelConfig, RopeConfig
from xamc.model.rope import rope_table

HEADS, DIM, CAPACITY, CHUNK, BLOCK = 2, 4, 48, 8, 8
TEXT = "the quick brown fox jumps over the lazy dog. 你好,世界! 😀 Once upon a time, 中文字符 in a test."


def config(vocab_size: int, rope: RopeConfig | None = None) -> ModelConfig:
    return ModelConfig(
        model_type="llama",
        architecture="LlamaForCausalLM",
        hidden_size=HEADS * DIM,
        intermediate_size=8,
        num_layers=1,
        num_heads=HEADS,
        num_kv_heads=HEADS,
        head_dim=DIM,
        vocab_size=vocab_size,
        max_position_embeddings=16,
        rms_norm_eps=1e-5,
        rope=rope or RopeConfig("default", 100.0),
        tie_word_embeddings=False,
        qk_norm=False,
        sliding_windows=(None,),
        bos_token_id=0,
        eos_token_ids=(1,),
        hf_config={},
    )


def weights(vocab_size: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {
        "emb": rng.standard_normal((vocab_size, HEADS * DIM)).astype(np.float32),
        "head": rng.standard_normal((vocab_size, HEADS * DIM)).astype(np.float32),
    }


def logits(tokens: list[int], vocab_size: int, model: ModelConfig | None = None) -> np.ndarray:
    """float64[T, V], straight from the definition."""
    tensors = weights(vocab_size)
    cos, sin = rope_table(model or config(vocab_size), len(tokens))
    state = np.cumsum(tensors["emb"][tokens].astype(np.float64), axis=0)
    scale = cos.astype(np.float64).sum(1) + sin.astype(np.float64).sum(1)
    return (state @ tensors["head"].T) * scale[:, None]


def greedy(prompt: list[int], count: int, vocab_size: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(logits(tokens, vocab_size)[-1].argmax()))
    return tokens[len(prompt) :]


def train_tokenizer() -> Any:
    """A byte-level BPE that splits Chinese characters and emoji over tokens."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def write_artifact(
    folder: Path,
    target: str,
    code: Path,
    tokenizer: Any = None,
    texts: Mapping[str, str] | None = None,
    **changes: Any,
) -> Path:
    """An artifact folder around `code` (a TVM library or an ONNX file), with files of `texts` by their place in it."""
    folder.mkdir(parents=True)
    tensors = weights(changes.pop("vocab_size"))
    entries, nbytes = plan_layout((name, array.dtype.name, array.shape) for name, array in tensors.items())
    with (folder / "weights.bin").open("wb") as file:
        for entry in entries:
            file.seek(entry.offset)
            file.write(tensors[entry.name].tobytes())
        file.truncate(nbytes)
    name = f"model{code.suffix}"
    (folder / "code").mkdir()
    (folder / "code" / name).write_bytes(code.read_bytes())
    (folder / "tokenizer").mkdir()
    if tokenizer is not None:
        tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
        special = {"bos_token": {"content": "<bos>"}, "eos_token": "<eos>"}
        (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(special))
        (folder / "tokenizer" / "chat_template.jinja").write_text(
            "{% for m in messages %}{{ bos_token }}{{ m.role }}: {{ m.content }}\n{% endfor %}"
            "{% if add_generation_prompt %}assistant:{% endif %}"
        )
    for place, text in (texts or {}).items():
        (folder / place).write_text(text, encoding="utf-8")
    files = tuple(
        FileDigest(path.relative_to(folder).as_posix(), path.stat().st_size, sha256_of(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )
    functions = ("decode", "prefill_last", "prefill_all") if target == "tvm_cpu" else ()
    values: dict[str, Any] = {
        "name": "toy",
        "target": target,
        "xamc_version": "0",
        "spec": {},
        "model": config(tensors["emb"].shape[0]),
        "context_limit": CAPACITY,
        "prefill_chunk": CHUNK,
        "max_batch": 3,
        "kv": KvCache.paged("float32", BLOCK if target == "tvm_cpu" else 0),
        "functions": functions,
        "phases": (Phase("decode", functions[:1]), Phase("prefill", functions[1:])),
        "code_file": f"code/{name}",
        "weights": Weights("weights.bin", nbytes, entries),
        "cpu": Cpu("x86-64-v2", ()),
        "quantization": Quantization(),
        "tokenizer": "tokenizer",
        "generation": Generation(0, (1,), "tokenizer/chat_template.jinja" if tokenizer is not None else None),
        "files": files,
        **changes,
    }
    (folder / MANIFEST).write_text(dumps(Manifest(**values)))
    return folder


def write_onnx(path: Path, vocab_size: int) -> Path:
    """The toy in past/present form; its weights are graph inputs."""
    import onnx
    from onnx import TensorProto, helper

    width = HEADS * DIM
    cache = ["B", HEADS, "P", DIM]

    def node(op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
        return helper.make_node(op, inputs, outputs, **attributes)

    def constant(name: str, values: list[int]) -> Any:
        return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)

    nodes = [
        node("Gather", ["emb", "input_ids"], ["x"]),
        node("Reshape", ["x", "split"], ["x4"]),
        node("Transpose", ["x4"], ["k"], perm=[0, 2, 1, 3]),
        node("Concat", ["past_key.0", "k"], ["present_key.0"], axis=2),
        node("Concat", ["past_value.0", "k"], ["present_value.0"], axis=2),
        node("CumSum", ["present_key.0", "axis2"], ["sums"]),
        node("Shape", ["past_key.0"], ["past"], start=2, end=3),
        node("Slice", ["sums", "past", "end", "axes"], ["now"]),
        node("Transpose", ["now"], ["now4"], perm=[0, 2, 1, 3]),
        node("Reshape", ["now4", "merge"], ["state"]),
        node("Transpose", ["head"], ["head_t"], perm=[1, 0]),
        node("MatMul", ["state", "head_t"], ["raw"]),
        node("Gather", ["rope_cos", "position_ids"], ["cos"]),
        node("Gather", ["rope_sin", "position_ids"], ["sin"]),
        node("Add", ["cos", "sin"], ["both"]),
        node("ReduceSum", ["both", "last"], ["scale"], keepdims=1),
        node("Mul", ["raw", "scale"], ["logits"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "toy",
        [
            info("input_ids", TensorProto.INT64, ["B", "S"]),
            info("position_ids", TensorProto.INT64, ["B", "S"]),
            info("rope_cos", TensorProto.FLOAT, ["R", DIM // 2]),
            info("rope_sin", TensorProto.FLOAT, ["R", DIM // 2]),
            info("past_key.0", TensorProto.FLOAT, cache),
            info("past_value.0", TensorProto.FLOAT, cache),
            info("emb", TensorProto.FLOAT, [vocab_size, width]),
            info("head", TensorProto.FLOAT, [vocab_size, width]),
        ],
        [
            info("logits", TensorProto.FLOAT, ["B", "S", vocab_size]),
            info("present_key.0", TensorProto.FLOAT, ["B", HEADS, "T", DIM]),
            info("present_value.0", TensorProto.FLOAT, ["B", HEADS, "T", DIM]),
        ],
        [
            constant("split", [0, 0, HEADS, DIM]),
            constant("merge", [0, 0, width]),
            constant("axis2", [2]),
            constant("axes", [2]),
            constant("end", [2**31]),
            constant("last", [-1]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    onnx.save(model, path)
    return path
