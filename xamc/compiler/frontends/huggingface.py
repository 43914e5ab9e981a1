"""Hugging Face checkpoint folders: config.json, safetensors in one file or in shards, tokenizer files.

Only data files are opened. Python files of the folder, ``auto_map`` and pickles are never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xamc.compiler.contract import ModelConfig
from xamc.compiler.errors import InputError, UnsupportedError
from xamc.compiler.frontends.checkpoint import KEYS, Checkpoint, GenerationDefaults
from xamc.compiler.frontends.configuration import ConfigReader
from xamc.compiler.frontends.families import find_family
from xamc.compiler.frontends.huggingface_tokenizer import tokenizer_files
from xamc.compiler.frontends.json_file import is_file_name, read_json
from xamc.compiler.frontends.parameters import TensorSource
from xamc.compiler.frontends.safetensors import read_header, require_float
from xamc.compiler.weights.files import FileTensor
from xamc.compiler.weights.lazy import LazyTensor

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# Buffers that old checkpoints saved beside their parameters; they are computed anew.
_BUFFERS = (
    ".rotary_emb.inv_freq",
    ".rotary_emb.cos_cached",
    ".rotary_emb.sin_cached",
    ".attn.bias",
    ".attn.masked_bias",
)


def open_huggingface(path: Path) -> Checkpoint:
    """Opens the checkpoint folder `path`.

    Raises:
        InputError: E1101, E1103, E1104, E1110–E1116, E1120–E1122, E1134.
        UnsupportedError: E1105–E1107, E1112, E1116.
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
    stored = _with_model_prefix(read_tensors(path))
    source = TensorSource(
        tensors=_Floats(stored),
        file_of=lambda name: stored[name][1].path,
        source=path,
        harmless=_harmless(config.tie_word_embeddings, family.head_name),
        raw_config=reader.values,
    )
    tensors = family.parameters(config, source)
    unused = source.finish()
    tokenizer = tokenizer_files(path, config)
    weights = sorted({tensor.path for _, tensor in stored.values()})
    data = [path / name for name in ("config.json", "generation_config.json", INDEX) if (path / name).exists()]
    return Checkpoint(
        path=path,
        config=config,
        tensors=tensors,
        tokenizer=tokenizer.files,
        chat_template=tokenizer.chat_template,
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
    return lambda name: name.endswith(_BUFFERS) or (tied and name == head_name)


def read_tensors(folder: Path) -> dict[str, tuple[str, FileTensor]]:
    """All tensors of the folder's safetensors files, as `read_header` gives them.

    Raises:
        InputError: E1113 a bad index, E1114 a missing shard, E1115 a tensor in two shards, E1116 no weights.
        UnsupportedError: E1116 only pickles.
    """
    if (folder / INDEX).exists():
        return _read_shards(folder)
    files = sorted(p for p in folder.glob("*.safetensors") if p.name != "consolidated.safetensors")
    if (folder / SINGLE).exists():
        files = [folder / SINGLE]
    if len(files) == 1:
        return read_header(files[0])
    if files:
        raise InputError(
            "E1114",
            f"{folder} holds {len(files)} safetensors files and no {INDEX}",
            "download the index as well",
            details=tuple(f.name for f in files),
        )
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    if pickles:
        raise UnsupportedError(
            "E1116",
            f"{folder} holds its weights as a pickle ({pickles[0]}), which can run code when it is read",
            "use a safetensors revision of the model, or convert it with transformers: "
            "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(OUT)",
        )
    raise InputError("E1116", f"{folder} holds no safetensors file", f"it needs {SINGLE}, or {INDEX} and its shards")


def _read_shards(folder: Path) -> dict[str, tuple[str, FileTensor]]:
    index = folder / INDEX
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError("E1113", f"{index} has no weight_map", "download the index again")
    for name, file in weight_map.items():
        # A shard is a plain name in the folder; anything else would read outside of the checkpoint.
        if not isinstance(file, str) or not file.endswith(".safetensors") or not is_file_name(file):
            raise InputError(
                "E1113",
                f"{index} places {name} in {file!r}, which is not a file name beside it",
                "download the index again",
            )
    tensors: dict[str, tuple[str, FileTensor]] = {}
    for file in sorted(set(weight_map.values())):
        shard = folder / file
        if not shard.is_file():
            missing = sorted(name for name in set(weight_map.values()) if not (folder / name).is_file())
            raise InputError(
                "E1114", f"{shard} is missing ({len(missing)} of {len(set(weight_map.values()))} shards are)",
                "download all shards of the checkpoint", details=tuple(missing),
            )  # fmt: skip
        for name, entry in read_header(shard).items():
            if name in tensors:
                raise InputError(
                    "E1115",
                    f"the tensor {name} is stored twice, in {tensors[name][1].path} and in {shard}",
                    "download the checkpoint again",
                )
            tensors[name] = entry
    for name, file in weight_map.items():
        if name not in tensors or tensors[name][1].path != folder / file:
            raise InputError(
                "E1113", f"{index} places {name} in {file}, which doesn't hold it", "download index and shards again"
            )
    return tensors


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
    )
