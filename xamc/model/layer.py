"""The layer table: what a decoder layer is made of.

A family says its layer once, as linears and norms with symbolic sizes. The parameters and their shapes, what each rank
of a tensor-parallel model holds, names in GGUF files, operator counts and bytes of a plan follow from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

Size = Literal["hidden", "head_dim", "head", "kv_head", "intermediate", "vocab"]
"""A width of the model; ``head`` and ``kv_head`` are all heads, one after the other, `head_dim` numbers each."""

Role = Literal["query", "key", "value", "output", "gate", "up", "down", "logits"]


@dataclass(frozen=True)
class Linear:
    """``y = x Wᵀ + b`` with W [rows, columns].

    Ranks share out heads, MLP columns and the vocabulary (Shoeybi et al. 2019): rows of the linears that widen, columns
    of those that narrow, whose results are summed.

    Attributes:
        role: what it computes.
        name: path of its module in the transformers model, within a layer.
        rows, columns: its sizes.
        gguf: its name in GGUF files, within a block.
        meta: its name in Meta's own files, within a layer; none where they hold it in another form.
        bias: whether it has a bias, or the argument of transformers' config class that says so.
    """

    role: Role
    name: str
    rows: Size
    columns: Size
    gguf: str
    meta: str = ""
    bias: bool | str = False

    @property
    def block(self) -> str:
        """Path of the module it lies in: ``self_attn``."""
        return self.name.rpartition(".")[0]

    @property
    def axes(self) -> tuple[Size, ...]:
        """Sizes of its weight; of its bias, the first."""
        return (self.rows, self.columns)


@dataclass(frozen=True)
class Norm:
    """RMSNorm over `width` (of each head where that is ``head_dim``); the other attributes as those of `Linear`."""

    name: str
    width: Size
    gguf: str
    meta: str = ""

    @property
    def axes(self) -> tuple[Size, ...]:
        """Size of its weight."""
        return (self.width,)


@dataclass(frozen=True)
class Embedding:
    """Rows looked up by token id, which lie on every rank whole; the attributes as those of `Linear`."""

    name: str
    gguf: str
    meta: str

    @property
    def axes(self) -> tuple[Size, ...]:
        """Sizes of its weight."""
        return ("vocab", "hidden")


Part = Linear | Norm | Embedding

# round the layers of every family
EMBEDDING = Embedding("model.embed_tokens", "token_embd", "tok_embeddings")
FINAL_NORM = Norm("model.norm", "hidden", "output_norm", "norm")
HEAD = Linear("logits", "lm_head", "vocab", "hidden", "output", "output")
EMBEDDING_WEIGHT, HEAD_WEIGHT = f"{EMBEDDING.name}.weight", f"{HEAD.name}.weight"


@dataclass(frozen=True)
class Layer:
    """The parts of a decoder layer, in the order in which its parameters are listed and stored."""

    parts: tuple[Linear | Norm, ...]

    @cached_property
    def linears(self) -> tuple[Linear, ...]:
        """The linears alone."""
        return tuple(part for part in self.parts if isinstance(part, Linear))

    @cached_property
    def norms(self) -> tuple[Norm, ...]:
        """The norms alone."""
        return tuple(part for part in self.parts if isinstance(part, Norm))

    @property
    def has_qk_norm(self) -> bool:
        """Whether queries and keys are normalized per head, between their projection and RoPE."""
        return any(norm.width == "head_dim" for norm in self.norms)

    @cached_property
    def flags(self) -> Mapping[str, tuple[Linear, ...]]:
        """Each argument of transformers' config class that gives biases, with the linears that it gives them to."""
        names = dict.fromkeys(linear.bias for linear in self.linears if isinstance(linear.bias, str))
        return {name: tuple(linear for linear in self.linears if linear.bias == name) for name in names}

    def linear(self, role: Role) -> Linear:
        """The linear of a role.

        Raises:
            StopIteration: there is none.
        """
        return next(linear for linear in self.linears if linear.role == role)

    def part(self, name: str) -> Part | None:
        """The part of the layer, or of what lies round the layers, with this name."""
        return next((part for part in (*self.parts, EMBEDDING, FINAL_NORM, HEAD) if part.name == name), None)


@dataclass(frozen=True)
class GgufArchitecture:
    """A ``general.architecture`` of GGUF files.

    Attributes:
        name: its value, and the prefix of the file's keys.
        interleaved: whether rows of queries and keys that RoPE rotates together lie side by side.
        rope_divisors: whether a tensor ``rope_freqs.weight`` divides the frequencies.
    """

    name: str
    interleaved: bool = False
    rope_divisors: bool = False


@dataclass(frozen=True)
class Family:
    """A class of transformers, and everything that xamc has to know of it.

    Attributes:
        model_type: as in config.json.
        architecture: name of the transformers class.
        layer: each of its decoder layers.
        windows: which layers attend to a sliding window: none, all alike, or those from ``max_window_layers`` on.
        gguf: the GGUF files that hold such models.
        defaults: what an absent key of config.json stands for, where its config class has a default of its own.
    """

    model_type: str
    architecture: str
    layer: Layer
    windows: Literal["none", "all", "upper"] = "none"
    gguf: tuple[GgufArchitecture, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
