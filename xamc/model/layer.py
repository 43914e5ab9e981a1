"""The layer table: what a decoder layer is made of, said once by each family.

Parameters and their shapes, what each rank of a tensor-parallel model holds, names in GGUF files, operator counts and
the bytes of a plan follow from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

Size = Literal["hidden", "head_dim", "head", "kv_head", "intermediate", "vocab"]
"""A width of the model; ``head`` and ``kv_head`` are all heads, one after the other, `head_dim` numbers each."""

Role = Literal["embedding", "norm", "query", "key", "value", "output", "gate", "up", "down", "logits"]


@dataclass(frozen=True)
class Part:
    """A row of the table: a linear, ``y = x Wᵀ + b`` with W [rows, columns], a norm or the embedding.

    Ranks share out heads, MLP columns and the vocabulary (Shoeybi et al. 2019): rows of the linears that widen, columns
    of those that narrow, whose results are summed. Norms and the embedding lie on every rank whole.

    Attributes:
        role: what it computes.
        name: path of its module in the transformers model, within a layer.
        axes: the sizes of its weight; a norm over ``head_dim`` is one of each query and key, before RoPE.
        gguf: its name in GGUF files, within a block.
        meta: its name in Meta's own files, within a layer; none where they have no such part.
        bias: whether it has a bias, or the argument of transformers' config class that says so.
    """

    role: Role
    name: str
    axes: tuple[Size, ...]
    gguf: str
    meta: str = ""
    bias: bool | str = False

    @property
    def is_linear(self) -> bool:
        """Whether it is a matrix to multiply by."""
        return self.role not in ("embedding", "norm")

    @property
    def block(self) -> str:
        """Path of the module it lies in: ``self_attn``."""
        return self.name.rpartition(".")[0]


# round the layers of every family
EMBEDDING = Part("embedding", "model.embed_tokens", ("vocab", "hidden"), "token_embd", "tok_embeddings")
FINAL_NORM = Part("norm", "model.norm", ("hidden",), "output_norm", "norm")
HEAD = Part("logits", "lm_head", ("vocab", "hidden"), "output", "output")
EMBEDDING_WEIGHT, HEAD_WEIGHT = f"{EMBEDDING.name}.weight", f"{HEAD.name}.weight"


@dataclass(frozen=True)
class Layer:
    """The parts of a decoder layer, in the order in which its parameters are listed and stored."""

    parts: tuple[Part, ...]

    @cached_property
    def linears(self) -> tuple[Part, ...]:
        """The linears alone."""
        return tuple(part for part in self.parts if part.is_linear)

    @cached_property
    def norms(self) -> tuple[Part, ...]:
        """The norms alone."""
        return tuple(part for part in self.parts if part.role == "norm")

    @property
    def has_qk_norm(self) -> bool:
        """Whether queries and keys are normalized per head, between their projection and RoPE."""
        return any(norm.axes == ("head_dim",) for norm in self.norms)

    @cached_property
    def flags(self) -> Mapping[str, tuple[Part, ...]]:
        """Each argument of transformers' config class that gives biases, with the linears that it gives them to."""
        names = dict.fromkeys(part.bias for part in self.parts if isinstance(part.bias, str))
        return {name: tuple(part for part in self.parts if part.bias == name) for name in names}

    def linear(self, role: Role) -> Part:
        """The linear of a role."""
        return next(part for part in self.linears if part.role == role)


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
