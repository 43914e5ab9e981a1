"""Vendor-shaped build files for VACC on tiny checkpoints, and their artifacts, each compiled once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.checkpoints import write_tiny
from tests.end_to_end import references
from tests.end_to_end.models import F32, I64, Fed
from tests.end_to_end.test_families import expected
from xamc.compiler.pipeline import Compiled, compile_spec
from xamc.compiler.stages.job import CompileOptions
from xamc.runtime import Model, load
from xamc.verify.metrics import relative_error


def build(checkpoint: Path, name: str, variant: Variant) -> dict[str, Any]:
    """A build file as vamc's users write it, and `verify.passes: off`, as proofs have tests of their own."""
    frontend: dict[str, Any] = {
        "checkpoint": str(checkpoint),
        "type": "huggingface",
        "shape": {"input_ids": [list(variant.prefill), list(variant.total)]},
        "model_kwargs": {"tp": variant.tp, "b2s": True, "model_arch": "vacc", "align_qkv": True},
    }
    if variant.quantize is not None:
        frontend["quantize"] = {"type": variant.quantize}
    return {
        "name": name,
        "frontend": frontend,
        "backend": {
            "type": "tvm_vacc",
            "dtype": "fp16" if variant.quantize is None else "int8",
            "merge_params": variant.merge,
            "compile": {
                "data_type": 0,
                "gather_data_vccl_dsp_enable": True,
                "attention_split_num": 16,
                "ffn_split_num": 16,
            },
        },
        "workspace": {
            "path": str(checkpoint.parent / "vacc_deploy"),
            "workers": 4,
            "env_recheck": False,
            "pyenv": {"transformers": "4.45.0", "huggingface-hub": "0.23.2"},
        },
        "verify": {"passes": "off"},
        **variant.sections,
    }


@dataclass(frozen=True)
class Variant:
    """One artifact: family, lengths, ranks, and how it is stored; `sections` replace whole sections of the file."""

    family: str
    prefill: Sequence[int] = (16,)
    total: Sequence[int] = (32,)
    tp: int = 1
    quantize: str | None = None
    merge: bool = True
    sections: Mapping[str, Any] = field(default_factory=dict)


# Between them: all families; 1 to 8 ranks with heads that divide, are padded (6 / 2 at tp 4) and replicated; biases,
# q/k norms, windows, dynamic RoPE with graphs beyond the trained length; both ways of storing less.
VARIANTS: dict[str, Variant] = {
    "llama": Variant("llama", (16, 32), (48, 64)),
    "llama-tp2": Variant("llama", tp=2),
    "internlm-tp2": Variant("internlm", tp=2, sections={"passes": {"disable": ["insert_slice"]}}),
    "internlm2": Variant("internlm2", total=(80,)),
    "internlm2-tp2": Variant("internlm2", total=(80,), tp=2),
    "internlm3": Variant("internlm3"),
    "internlm3-tp8": Variant("internlm3", tp=8),
    "qwen2": Variant("qwen2"),
    "qwen2-tp4": Variant("qwen2", tp=4, merge=False),
    "qwen3-kv8": Variant("qwen3", tp=2, quantize="w16kv8"),
    "qwen3-embedding": Variant("qwen3", total=()),
    "mistral-w8": Variant("mistral", quantize="w8a16_gptq"),
}


class VaccWorkshop:
    """Makes checkpoints and artifacts when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._compiled: dict[str, Compiled] = {}
        self._models: dict[str, Model] = {}

    def checkpoint(self, family: str) -> Path:
        folder = self._folder / family
        return folder if folder.is_dir() else write_tiny(folder, family)

    def build(self, name: str) -> dict[str, Any]:
        """The build file of a variant."""
        return build(self.checkpoint(VARIANTS[name].family), name, VARIANTS[name])

    def compiled(self, name: str) -> Compiled:
        if name not in self._compiled:
            self._compiled[name] = compile_spec(self.build(name), options=CompileOptions(allow_rtn=True))
        return self._compiled[name]

    def model(self, name: str) -> Model:
        if name not in self._models:
            self._models[name] = load(self.compiled(name).path, threads=1)
        return self._models[name]

    def reference(self, name: str, tokens: I64) -> F32:
        """Logits [T, V] of a sequence by transformers, or by the family's published description, in float32."""
        family = VARIANTS[name].family
        if family == "internlm2":
            return across_tables(self.checkpoint(family), VARIANTS[name], tokens)
        return expected(self.checkpoint(family), family, [tokens], np.zeros((1, 0), np.int64))[0]


def across_tables(folder: Path, variant: Variant, tokens: I64) -> F32:
    """What graphs of different lengths compute where dynamic NTK scaling gives each its own table.

    The prefill graph's keys have the base of its length, everything after that the decode graph's, by transformers'
    rule: base x (factor x length / trained - (factor - 1)) ^ (D / (D - 2)) where the length exceeds the trained one.
    """
    import torch
    import transformers

    model = references.as_llama(folder)
    config = model.config
    theta, width, trained = config.rope_parameters["rope_theta"], config.head_dim, config.max_position_embeddings
    factor, cache = config.rope_parameters["factor"], transformers.DynamicCache(config=config)

    def run(part: I64, length: int) -> F32:
        start = cache.get_seq_length()
        grown = (factor * length / trained - (factor - 1)) ** (width / (width - 2)) if length > trained else 1.0
        frequencies = 1.0 / (theta * grown) ** (torch.arange(0, width, 2).float() / width)
        model.model.rotary_emb.forward = lambda x, position_ids: _rotation(frequencies, position_ids)
        positions = torch.arange(start, start + len(part))[None]
        with torch.no_grad():
            result = model(
                input_ids=torch.from_numpy(part)[None], position_ids=positions, past_key_values=cache, use_cache=True
            )
        logits: F32 = result.logits[0].numpy()
        return logits

    (prefill,), (decode,) = variant.prefill, variant.total
    return np.concatenate(
        [run(tokens[:prefill], prefill), *(run(tokens[i : i + 1], decode) for i in range(prefill, len(tokens)))]
    )


def _rotation(frequencies: Any, position_ids: Any) -> tuple[Any, Any]:
    angles = position_ids[..., None].float() * frequencies
    doubled = angles.repeat(1, 1, 2)
    return doubled.cos(), doubled.sin()


def error_of(model: Model, tokens: I64, reference: F32, prompt: int) -> float:
    """How far `model` is from `reference` [T, V] when the first `prompt` tokens are a prompt and the rest follows."""
    fed = Fed(model, [tokens[:prompt]])
    found = [fed.prompts()[0], *(fed.next(np.array([token])) for token in tokens[prompt:])]
    return relative_error(np.concatenate(found), reference[prompt - 1 :])
