"""Hugging Face checkpoint folders: config.json, safetensors in one file or in shards, tokenizer files.

Only data files are opened. Python files of the folder and ``auto_map`` are never touched, pickles only where the user
allows it, and then in a child process (`xamc.compiler.frontends.huggingface.pickled`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xamc.compiler.frontends.checkpoint import KEYS, Checkpoint
from xamc.compiler.frontends.config_reader import ConfigReader
from xamc.compiler.frontends.families import find_family
from xamc.compiler.frontends.huggingface.generation_defaults import read_generation, with_generation_ids
from xamc.compiler.frontends.huggingface.tied_head import read_parameters
from xamc.compiler.frontends.huggingface.weight_files import MERGE, NAMED, read_tensors
from xamc.compiler.frontends.json_file import read_json
from xamc.compiler.frontends.safetensors import require_float
from xamc.compiler.frontends.tensor_source import TensorSource
from xamc.compiler.frontends.tokenizers.chat_defaults import with_stop
from xamc.compiler.frontends.tokenizers.huggingface import TokenizerFiles, tokenizer_files
from xamc.errors import InputError
from xamc.ir.weights.files import FileTensor
from xamc.ir.weights.lazy import LazyTensor
from xamc.model.families import FAMILIES
from xamc.model.layer import EMBEDDING_WEIGHT, HEAD

# Buffers that old checkpoints saved beside their parameters; they are computed anew.
BUFFERS = (
    ".rotary_emb.inv_freq",
    ".rotary_emb.cos_cached",
    ".rotary_emb.sin_cached",
    ".attn.bias",
    ".attn.masked_bias",
)


# Any of them is a vocabulary, be it one that can be read or one that can't.
TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "*.tiktoken",
    "tiktoken.model",
    "tokenizer.model.v*",
)
NO_TOKENIZER = (
    "{path} holds no tokenizer: the artifact takes and gives token ids, and no text; put tokenizer.json there for text"
)


_NO_HEAD = (
    "download all shards of the checkpoint; if the model has no output matrix of its own, set tie_word_embeddings to "
    "true in config.json"
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
    if not (path / "config.json").exists() and (path / "adapter_config.json").exists():
        raise InputError("E1116", f"{path} holds an adapter (adapter_config.json) and no model", MERGE, keys=KEYS)
    if not (path / "config.json").exists() and (files := sorted(path.glob("*.gguf"))):
        raise InputError(
            "E1101",
            f"{path} holds GGUF files and no config.json",
            f"set frontend.type: gguf, and frontend.checkpoint to the file, such as {files[0].name}",
            keys=("frontend.type", *KEYS),
        )
    reader = ConfigReader(read_json(path / "config.json"), path / "config.json")
    family = find_family(reader)
    config = family.configure(reader)
    generation_file = path / "generation_config.json"
    generation = read_json(generation_file) if generation_file.exists() else {}
    config, notes = with_generation_ids(config, generation, generation_file)
    defaults, more = read_generation(generation, generation_file)
    found = read_tensors(path, allow_pickle, reader.take(NAMED))
    stored = _with_model_prefix(found.tensors)
    source = TensorSource(
        tensors=_Floats(stored),
        file_of=lambda name: stored[name][1].path,
        source=path,
        harmless=_harmless(config.tie_word_embeddings, family.head_name),
        raw_config=reader.values,
    )
    said = config.tie_word_embeddings
    config, tensors = read_parameters(family, config, source)
    try:
        unused = source.finish()
    except InputError as error:
        # what lies beside the weights may be what was meant
        error = dataclasses.replace(error, details=(*error.details, *found.warnings))
        if source.missing == [family.head_name]:
            error = dataclasses.replace(error, fix=_NO_HEAD)
        raise error from None
    named_class = reader.take("tokenizer_class")
    tokenizer = TokenizerFiles({}, None, ())
    if holds_tokenizer(path):
        tokenizer = tokenizer_files(path, config, named_class)
    # What generation_config.json says is enough, unless the chat template isn't the folder's own.
    if tokenizer.stop is not None and (tokenizer.built_in_template or generation.get("eos_token_id") is None):
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
        generation=defaults,
        files=(*data, *weights, *tokenizer.sources),
        unused_tensors=unused,
        ignored_keys=reader.leftover(),
        warnings=(
            *_config_warnings(path, reader, said and not config.tie_word_embeddings),
            *found.warnings,
            *notes,
            *more,
            *([] if tokenizer.files else [NO_TOKENIZER.format(path=path)]),
        ),
    )


def _config_warnings(path: Path, reader: ConfigReader, untied: bool) -> Iterator[str]:
    file, ignored, code = path / "config.json", reader.leftover(), reader.values.get("auto_map")
    if ignored:
        yield (
            f"{file}: {', '.join(ignored)} {'has' if len(ignored) == 1 else 'have'} no effect: nothing "
            "reads such a key for this model_type"
        )
    classes = code.values() if isinstance(code, dict) else ()
    own = sorted({name for name in classes if isinstance(name, str) and "model" in name.lower().partition(".")[0]})
    if own and any(family.model_type == reader.values.get("model_type") for family in FAMILIES.values()):
        yield (
            f"{file}: auto_map names code of the folder ({', '.join(own)}), which is never run: the model is computed "
            "as transformers' own class of this model_type"
        )
    if untied:
        yield (
            f"{file}: tie_word_embeddings is true, and the weights hold an output matrix that differs from the "
            "embedding: both are kept, as in transformers"
        )


def _with_model_prefix(stored: dict[str, tuple[str, FileTensor]]) -> dict[str, tuple[str, FileTensor]]:
    """Names as a causal language model has them: an embedding model, saved without a head, lacks their ``model.``."""
    if EMBEDDING_WEIGHT.removeprefix("model.") not in stored or any(name.startswith("model.") for name in stored):
        return stored
    return {name if name.startswith(f"{HEAD.name}.") else f"model.{name}": entry for name, entry in stored.items()}


def holds_tokenizer(folder: Path) -> bool:
    """Whether `folder` has any file of a tokenizer, of whatever kind."""
    return any(any(folder.glob(name)) for name in TOKENIZERS)


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
