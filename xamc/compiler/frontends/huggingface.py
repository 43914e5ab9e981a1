"""Hugging Face checkpoint folders: config.json, safetensors in one file or in shards, tokenizer files.

Only data files are opened. Python files of the folder and ``auto_map`` are never touched, pickles only where the user
allows it, and then in a child process (`xamc.compiler.frontends.pickled`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xamc.compiler.contract import ModelConfig
from xamc.compiler.errors import InputError
from xamc.compiler.frontends.chat_defaults import with_stop
from xamc.compiler.frontends.checkpoint import KEYS, Checkpoint, GenerationDefaults
from xamc.compiler.frontends.configuration import ConfigReader
from xamc.compiler.frontends.families import find_family
from xamc.compiler.frontends.huggingface_tokenizer import tokenizer_files
from xamc.compiler.frontends.json_file import read_json
from xamc.compiler.frontends.parameters import TensorSource
from xamc.compiler.frontends.safetensors import require_float
from xamc.compiler.frontends.weight_files import read_tensors
from xamc.compiler.weights.files import FileTensor
from xamc.compiler.weights.lazy import LazyTensor

# Buffers that old checkpoints saved beside their parameters; they are computed anew.
BUFFERS = (
    ".rotary_emb.inv_freq",
    ".rotary_emb.cos_cached",
    ".rotary_emb.sin_cached",
    ".attn.bias",
    ".attn.masked_bias",
)


def open_huggingface(path: Path, allow_pickle: bool = False) -> Checkpoint:
    """Opens the checkpoint folder `path`.

    Args:
        path: the folder.
        allow_pickle: whether weights that lie there as pickles alone are read.

    Raises:
        InputError: E1101, E1103, E1104, E1110–E1116, E1120–E1122, E1134, E1164–E1166.
        UnsupportedError: E1105–E1107, E1112, E1116, E1163.
    """
    if not path.is_dir():
        raise InputError(
            "E1101",
            f"{path} is not a folder",
            "frontend.type huggingface takes the folder that holds config.json; gguf takes a file",
            keys=KEYS,
        )
    reader = ConfigReader(read_json(path / "config.json"), path / "config.json")
    family = find_family(reader)
    config = family.configure(reader)
    generation_file = path / "generation_config.json"
    generation = ConfigReader(read_json(generation_file) if generation_file.exists() else {}, generation_file)
    config = with_generation_ids(config, generation)
    found = read_tensors(path, allow_pickle)
    stored = _with_model_prefix(found.tensors)
    source = TensorSource(
        tensors=_Floats(stored),
        file_of=lambda name: stored[name][1].path,
        source=path,
        harmless=_harmless(config.tie_word_embeddings, family.head_name),
        raw_config=reader.values,
    )
    tensors = family.parameters(config, source)
    unused = source.finish()
    reader.used.add("tokenizer_class")
    tokenizer = tokenizer_files(path, config, reader.values.get("tokenizer_class"))
    # What generation_config.json says is enough, unless the chat template isn't the folder's own.
    if tokenizer.stop is not None and (tokenizer.built_in_template or generation.values.get("eos_token_id") is None):
        config = with_stop(config, tokenizer.stop)
    if not config.eos_token_ids and tokenizer.eos is not None and tokenizer.eos < config.vocab_size:
        config = with_stop(config, tokenizer.eos)  # no file of the model names an end: an answer would never end
    weights = sorted({tensor.path for _, tensor in stored.values()})
    data = [path / name for name in ("config.json", "generation_config.json") if (path / name).exists()]
    data += [found.index] if found.index is not None else []
    return Checkpoint(
        path=path,
        config=config,
        tensors=tensors,
        tokenizer=tokenizer.files,
        chat_template=tokenizer.chat_template,
        named_templates=tokenizer.named_templates,
        generation=read_generation(generation),
        files=(*data, *weights, *tokenizer.sources),
        unused_tensors=unused,
        ignored_keys=reader.leftover(),
    )


def _with_model_prefix(stored: dict[str, tuple[str, FileTensor]]) -> dict[str, tuple[str, FileTensor]]:
    """Names as a causal language model has them: an embedding model, saved without a head, lacks their ``model.``."""
    if "embed_tokens.weight" not in stored or any(name.startswith("model.") for name in stored):
        return stored
    return {name if name.startswith("lm_head.") else f"model.{name}": entry for name, entry in stored.items()}


@dataclass(frozen=True)
class _Floats(Mapping[str, LazyTensor]):
    """Stored tensors by name; using one that isn't floating is refused."""

    stored: Mapping[str, tuple[str, FileTensor]]

    def __getitem__(self, name: str) -> LazyTensor:
        dtype, tensor = self.stored[name]
        require_float(tensor.path, name, dtype)
        return tensor

    def __iter__(self) -> Any:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)


def _harmless(tied: bool, head_name: str) -> Callable[[str], bool]:
    return lambda name: name.endswith(BUFFERS) or (tied and name == head_name)


def with_generation_ids(config: ModelConfig, generation: ConfigReader) -> ModelConfig:
    """`config` with the end ids of generation_config.json, which override those of config.json as in transformers."""
    eos = generation.token_ids("eos_token_id", config.vocab_size)
    bos = generation.token_ids("bos_token_id", config.vocab_size)
    return replace(
        config,
        eos_token_ids=eos or config.eos_token_ids,
        bos_token_id=bos[0] if bos else config.bos_token_id,
    )


def read_generation(reader: ConfigReader) -> GenerationDefaults:
    """Sampling defaults of generation_config.json."""
    values = reader.values

    def number(key: str) -> float | None:
        return reader.number(key) if values.get(key) is not None else None

    return GenerationDefaults(
        do_sample=reader.flag("do_sample", False) if values.get("do_sample") is not None else None,
        temperature=number("temperature"),
        top_k=reader.integer("top_k", low=0) if values.get("top_k") is not None else None,
        top_p=number("top_p"),
        repetition_penalty=number("repetition_penalty"),
        stop_strings=reader.texts("stop_strings"),
    )
