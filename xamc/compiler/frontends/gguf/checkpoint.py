"""GGUF checkpoints: llama.cpp's metadata and tensor names mapped to a transformers class."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from pathlib import Path

from xamc.compiler.frontends.checkpoint import Checkpoint, GenerationDefaults
from xamc.compiler.frontends.config_reader import ConfigReader
from xamc.compiler.frontends.configuration import model_config
from xamc.compiler.frontends.gguf.file import GgufFile
from xamc.compiler.frontends.gguf.keys import leftover_keys
from xamc.compiler.frontends.gguf.parts import read_parts
from xamc.compiler.frontends.gguf.rope import ROPE_DIVISORS, read_gguf_rope
from xamc.compiler.frontends.gguf.tokenizer import GgufTokenizer, read_tokenizer
from xamc.compiler.frontends.tensor_source import TensorSource
from xamc.compiler.frontends.tokenizers.chat_defaults import with_stop
from xamc.errors import InputError, UnsupportedError
from xamc.ir.weights.lazy import LazyTensor, RowRanges
from xamc.ir.weights.transforms import UninterleaveHeads, Zeros
from xamc.model.config import ModelConfig
from xamc.model.families import FAMILIES
from xamc.model.layer import EMBEDDING, HEAD, Family, GgufArchitecture, Part, Role
from xamc.model.parameters import Parameter, layer_of, parameters, size_of

# what may stand for three tensors, one after the other
_FUSED = "attn_qkv"
_QKV: tuple[Role, ...] = ("query", "key", "value")
REMEDY = "convert the model again with a current llama.cpp, or use its original safetensors checkpoint"


def architectures() -> dict[str, tuple[Family, GgufArchitecture]]:
    """The supported values of ``general.architecture``, with what they are."""
    return {gguf.name: (family, gguf) for family in FAMILIES.values() for gguf in family.gguf}


def open_gguf(path: Path) -> Checkpoint:
    """Opens the GGUF file `path`, or the only one in the folder `path`; of a split model, the first part.

    Raises:
        InputError: E1101, E1104, E1114, E1115, E1120–E1122, E1130, E1131, E1134.
        InputError: E1106; UnsupportedError: E1105, E1107, E1132–E1134, E1163.
    """
    file = read_parts(path)
    reader = _reader(file)
    config = read_config(file, reader)
    _, gguf = architectures()[config.model_type]
    source = TensorSource(
        file.tensors,
        lambda name: file.tensors[name].path,
        file.path,
        # elsewhere it would be one that nobody reads
        lambda name: name == ROPE_DIVISORS and gguf.rope_divisors,
        config_name="its metadata",
        remedy="metadata and tensors are not of one model: " + REMEDY,
        missing_remedy="download the file again, or " + REMEDY,
    )
    tensors = map_parameters(config, source, gguf.interleaved)
    unused = source.finish()
    tokenizer = read_tokenizer(file, config.vocab_size, config.model_type)
    generation = _generation(reader)
    ignored = leftover_keys(file.metadata, file.path, config.model_type, reader.used)
    return Checkpoint(
        path=file.path,
        config=_with_special_tokens(config, tokenizer),
        tensors=tensors,
        tokenizer=tokenizer.files,
        chat_template=tokenizer.chat_template,
        named_templates=tokenizer.named_templates,
        generation=generation,
        files=file.paths,
        unused_tensors=unused,
        ignored_keys=ignored,
        warnings=(*_warnings(file, ignored), *tokenizer.warnings),
    )


def _warnings(file: GgufFile, ignored: tuple[str, ...]) -> Iterator[str]:
    if ignored:
        yield f"{file.path}: {', '.join(ignored)} {'has' if len(ignored) == 1 else 'have'} no effect"


def _with_special_tokens(config: ModelConfig, tokenizer: GgufTokenizer) -> ModelConfig:
    config = config.changed(bos_token_id=tokenizer.bos, eos_token_ids=tokenizer.ends)
    return with_stop(config, tokenizer.stop) if tokenizer.stop is not None else config


def _generation(reader: ConfigReader) -> GenerationDefaults:
    """The author's sampling defaults, keys ``general.sampling.*``, with llama.cpp's meaning of odd values.

    Raises:
        InputError: E1104, a value that is no number.
    """
    values = reader.values

    def number(key: str) -> float | None:
        key = f"general.sampling.{key}"
        return reader.number(key, above=-1e30) if values.get(key) is not None else None

    temperature, top_p, penalty = number("temp"), number("top_p"), number("penalty_repeat")
    top_k = "general.sampling.top_k"
    return GenerationDefaults(
        do_sample=None if temperature is None else temperature > 0,
        temperature=temperature if temperature is not None and temperature > 0 else None,
        top_k=max(reader.integer(top_k, low=-(2**31)), 0) if values.get(top_k) is not None else None,
        top_p=top_p if top_p is not None and 0 < top_p <= 1 else None,
        repetition_penalty=penalty if penalty is not None and penalty > 0 else None,
    )


def _reader(file: GgufFile) -> ConfigReader:
    """Access to the metadata; a list with one value per layer stands for that value.

    Raises:
        UnsupportedError: E1105, E1107, layers that differ.
    """
    architecture, supported = file.metadata.get("general.architecture"), architectures()
    if not isinstance(architecture, str) or architecture not in supported:
        close = difflib.get_close_matches(str(architecture), supported, n=2, cutoff=0.3)
        raise UnsupportedError(
            "E1105",
            f"{file.path}: general.architecture {architecture!r} is not supported",
            f"closest supported: {', '.join(close or supported)}",
        )
    values = dict(file.metadata)
    for name in ("attention.head_count", "attention.head_count_kv", "feed_forward_length"):
        key = f"{architecture}.{name}"
        if isinstance(per_layer := values.get(key), list) and per_layer:
            if any(value != per_layer[0] for value in per_layer):
                raise UnsupportedError(
                    "E1107", f"{file.path}: {key} differs between layers", "only models of equal layers are supported"
                )
            values[key] = per_layer[0]
    return ConfigReader(values, file.path, remedy=REMEDY)


def read_config(file: GgufFile, reader: ConfigReader) -> ModelConfig:
    """The model that the metadata of `file` describes, without its special tokens.

    Raises:
        InputError: E1104, a missing or mistyped value, or two that contradict each other.
        InputError: E1106; UnsupportedError: E1107, E1133.
    """
    architecture = str(file.metadata["general.architecture"])
    prefix = architecture + "."
    context = reader.integer(prefix + "context_length")
    window = reader.integer(prefix + "attention.sliding_window", 0, low=0)
    if 0 < window < context:
        raise UnsupportedError(
            "E1107",
            f"{file.path}: {prefix}attention.sliding_window {window} is not supported in GGUF",
            "use the original safetensors checkpoint",
        )
    heads = reader.integer(prefix + "attention.head_count")
    kv_heads = reader.integer(prefix + "attention.head_count_kv", heads)
    hidden = reader.integer(prefix + "embedding_length")
    if heads % kv_heads:
        raise _contradiction(
            file,
            f"{prefix}attention.head_count {heads} is not a multiple of {prefix}attention.head_count_kv {kv_heads}",
        )
    embedding = file.tensors.get(f"{EMBEDDING.gguf}.weight")
    family, gguf = architectures()[architecture]
    width = _head_dim(file, reader, prefix, hidden, heads)
    values = {
        "model_type": architecture,
        "hidden_size": hidden,
        "intermediate_size": reader.integer(prefix + "feed_forward_length"),
        "num_hidden_layers": reader.integer(prefix + "block_count", high=4096),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": width,
        "max_position_embeddings": context,
        "rms_norm_eps": reader.number(prefix + "attention.layer_norm_rms_epsilon"),
        "vocab_size": embedding.shape[0] if embedding else reader.integer(prefix + "vocab_size"),
        "tie_word_embeddings": f"{HEAD.gguf}.weight" not in file.tensors,
    }
    divisors = file.tensors.get(ROPE_DIVISORS) if gguf.rope_divisors else None
    return model_config(
        ConfigReader(values, file.path, remedy=REMEDY),
        family,
        rope=read_gguf_rope(reader, prefix, divisors, width),
        flags={flag: _any_bias(file, linears) for flag, linears in family.layer.flags.items()},
        has_window_keys=False,
    )


def _any_bias(file: GgufFile, linears: Collection[Part]) -> bool:
    """Whether any layer has a bias of one of these: llama.cpp takes each of them as it comes."""
    names = {f"{linear.gguf}.bias" for linear in linears}
    if any(linear.role in _QKV for linear in linears):
        names.add(f"{_FUSED}.bias")
    return any(name.startswith("blk.") and name.split(".", 2)[-1] in names for name in file.tensors)


def _head_dim(file: GgufFile, reader: ConfigReader, prefix: str, hidden: int, heads: int) -> int:
    """The width of a head, which keys, values and the rotated part must share.

    Raises:
        InputError: E1104, no width; E1106, a partial rotation.
        UnsupportedError: E1107, values of another width than keys.
    """
    width = reader.integer(prefix + "attention.key_length", hidden // heads)
    if prefix + "attention.key_length" not in reader.values and hidden % heads:
        raise _contradiction(
            file, f"{prefix}embedding_length {hidden} is no multiple of {prefix}attention.head_count {heads}"
        )
    values = reader.integer(prefix + "attention.value_length", width)
    if values != width:
        raise UnsupportedError(
            "E1107",
            f"{file.path}: {prefix}attention.value_length is {values}, {prefix}attention.key_length {width}",
            "only heads whose keys and values have one width are supported",
        )
    rotated = reader.integer(prefix + "rope.dimension_count", width)
    if rotated != width:
        raise InputError(
            "E1106",
            f"{file.path}: {prefix}rope.dimension_count rotates {rotated} of {width} dimensions of a head",
            "only full rotary embeddings are supported",
        )
    if width % 2:
        raise _contradiction(file, f"heads of {width} can't be rotated in pairs")
    return width


def _contradiction(file: GgufFile, what: str) -> InputError:
    return InputError("E1104", f"{file.path}: {what}", REMEDY)


def map_parameters(config: ModelConfig, source: TensorSource, interleaved: bool) -> dict[str, LazyTensor]:
    """Parameters by transformers name, q and k back in transformers' row order."""
    tensors: dict[str, LazyTensor] = {}
    for parameter in parameters(config):
        tensor = _stored(config, source, parameter)
        if interleaved and parameter.part.role in ("query", "key"):
            tensor = UninterleaveHeads(tensor, config.head_dim)
        tensors[parameter.name] = tensor
    return tensors


def _stored(config: ModelConfig, source: TensorSource, parameter: Parameter) -> LazyTensor:
    """The tensor of a parameter: its own, its rows of a fused one, or zeros for a bias that the file lacks."""
    name, kind, shape = parameter.gguf, parameter.kind, parameter.shape
    fused = f"blk.{parameter.layer}.{_FUSED}.{kind}"
    if parameter.part.role in _QKV and name not in source and fused in source:
        widths = [size_of(config, layer_of(config).linear(role).axes[0]) for role in _QKV]
        at = _QKV.index(parameter.part.role)
        whole = source.take(fused, (sum(widths), *shape[1:]))
        return RowRanges(whole, ((sum(widths[:at]), sum(widths[: at + 1])),))
    if kind == "bias" and name not in source:
        # Llama has one flag for the biases of q, k, v and o; llama.cpp takes each bias for itself.
        return Zeros(shape, "float32")
    return source.take(name, shape)
