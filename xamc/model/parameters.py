"""The parameters that a model has, as its family's layer says, with their shapes and names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from xamc.model.config import ModelConfig
from xamc.model.families import family_of
from xamc.model.layer import EMBEDDING, FINAL_NORM, HEAD, Layer, Part, Role, Size

Shape = tuple[int, ...]
_IN_LAYER = re.compile(r"^model\.layers\.\d+\.")


def layer_of(config: ModelConfig) -> Layer:
    """Every decoder layer of a model."""
    return family_of(config).layer


def layer_name(layer: int | str) -> str:
    """Path of a decoder layer's module: ``model.layers.3``."""
    return f"model.layers.{layer}"


def size_of(config: ModelConfig, size: Size) -> int:
    """A width of the model, in numbers."""
    sizes: dict[Size, int] = {
        "hidden": config.hidden_size,
        "head_dim": config.head_dim,
        "head": config.num_heads * config.head_dim,
        "kv_head": config.num_kv_heads * config.head_dim,
        "intermediate": config.intermediate_size,
        "vocab": config.vocab_size,
    }
    return sizes[size]


def has_bias(config: ModelConfig, part: Part) -> bool:
    """Whether a part has a bias in this model."""
    return part.bias if isinstance(part.bias, bool) else bool(config.hf_config.get(part.bias, False))


def has_key_biases(config: ModelConfig) -> bool:
    """Whether a model's keys are a projection, its bias, and a rotation that each position has for ever.

    Not where a norm lies between bias and rotation, and not with dynamic scaling.
    """
    layer = layer_of(config)
    return has_bias(config, layer.linear("key")) and not layer.has_qk_norm and config.rope.kind != "dynamic"


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes:
        name: in the transformers model: ``model.layers.3.mlp.up_proj.weight``.
        part: whose parameter it is.
        kind: ``weight`` or ``bias``.
        shape: linear weights are [out, in].
        layer: the number of its decoder layer; None for those round the layers.
    """

    name: str
    part: Part
    kind: str
    shape: Shape
    layer: int | None

    @property
    def gguf(self) -> str:
        """llama.cpp's name: ``blk.3.ffn_up.weight``."""
        return f"{'' if self.layer is None else f'blk.{self.layer}.'}{self.part.gguf}.{self.kind}"


def parameters(config: ModelConfig) -> Iterator[Parameter]:
    """All parameters, layer by layer, in the order of a forward pass but for norms inside of a layer."""
    yield from _of_part(config, EMBEDDING, None)
    for layer in range(config.num_layers):
        for part in layer_of(config).parts:
            yield from _of_part(config, part, layer)
    yield from _of_part(config, FINAL_NORM, None)
    if not config.tie_word_embeddings:
        yield from _of_part(config, HEAD, None)


def _of_part(config: ModelConfig, part: Part, layer: int | None) -> Iterator[Parameter]:
    path = part.name if layer is None else f"{layer_name(layer)}.{part.name}"
    shape = tuple(size_of(config, axis) for axis in part.axes)
    yield Parameter(f"{path}.weight", part, "weight", shape, layer)
    if has_bias(config, part):
        yield Parameter(f"{path}.bias", part, "bias", shape[:1], layer)


def parameter_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Parameter name → shape of the whole model, in the order of `parameters`."""
    return {parameter.name: parameter.shape for parameter in parameters(config)}


def part_of(layer: Layer, parameter: str) -> Part | None:
    """Whose parameter has this name; None for names that no parameter has."""
    name = _IN_LAYER.sub("", parameter).rpartition(".")[0]
    return next((part for part in (*layer.parts, EMBEDDING, FINAL_NORM, HEAD) if part.name == name), None)


def bias_name(config: ModelConfig, layer: int, role: Role) -> str:
    """Name of the bias of a layer's linear."""
    return f"{layer_name(layer)}.{layer_of(config).linear(role).name}.bias"


def merged_linears(config: ModelConfig) -> list[tuple[int, int]]:
    """[rows, columns] of a layer's linears, those as one that read the same: q, k and v; o; gate and up; down."""
    rows: dict[tuple[str, Size], int] = {}
    for linear in layer_of(config).linears:
        key = (linear.block, linear.axes[1])
        rows[key] = rows.get(key, 0) + size_of(config, linear.axes[0])
    return [(count, size_of(config, columns)) for (_, columns), count in rows.items()]


def operator_counts(config: ModelConfig) -> dict[str, int]:
    """How many of each high-level operator the export of a model has."""
    layers = config.num_layers
    return {
        "Attention": layers,
        "RotaryEmbedding": 2 * layers,
        "RMSNormalization": len(layer_of(config).norms) * layers + 1,
    }
