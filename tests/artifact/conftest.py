"""A small, complete manifest and its files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from xamc.artifact import (
    Cpu,
    Generation,
    InputDigest,
    KvCache,
    Manifest,
    Phase,
    Quantization,
    Weights,
    plan_layout,
)
from xamc.artifact.publish import ArtifactWriter
from xamc.model.config import ModelConfig, RopeConfig

MODEL = ModelConfig(
    model_type="llama",
    architecture="LlamaForCausalLM",
    hidden_size=16,
    intermediate_size=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    vocab_size=50,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
    rope=RopeConfig("default", 10000.0),
    tie_word_embeddings=True,
    qk_norm=False,
    sliding_windows=(None, 8),
    bos_token_id=None,
    eos_token_ids=(1, 2),
    hf_config={"hidden_act": "silu", "nested": {"a": [1, 2.5, None]}},
)


@pytest.fixture
def manifest() -> Manifest:
    tensors, nbytes = plan_layout([("embed", "float16", (50, 16)), ("proj", "uint4", (3, 5))])
    return Manifest(
        name="tiny",
        target="tvm_cpu",
        xamc_version="0.1.0",
        spec={"name": "tiny", "frontend": {"checkpoint": "tiny"}},
        model=MODEL,
        context_limit=64,
        prefill_chunk=16,
        max_batch=2,
        kv=KvCache("float32"),
        functions=("decode", "prefill_last"),
        phases=(Phase("prefill", ("prefill_last",)), Phase("decode", ("decode",))),
        code_file="code/model.so",
        weights=Weights("weights.bin", nbytes, tensors),
        cpu=Cpu("x86-64-v3", ("avx2", "fma")),
        quantization=Quantization("w4a16_gptq", "w4a16_rtn"),
        tokenizer="tokenizer",
        generation=Generation(None, (1, 2), "tokenizer/chat_template.jinja"),
        inputs=(InputDigest("model.safetensors", 5, "0" * 64),),
        tools={"torch": "2.13.0"},
    )


@pytest.fixture
def write(manifest: Manifest) -> Callable[..., Manifest]:
    """Publishes a whole artifact; `fill` is the byte its code file is made of."""

    def write(destination: Path, fill: bytes = b"a") -> Manifest:
        with ArtifactWriter(destination) as writer:
            writer.add_bytes("code/model.so", fill * 1000)
            writer.add_bytes("weights.bin", fill * manifest.weights.nbytes)
            writer.add_bytes("tokenizer/tokenizer.json", b"{}")
            return writer.publish(manifest, {"seconds": 1.5})

    return write
