"""What a build file asks of a target: in words that every target understands, and as each target reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from xamc.ir.weights.quantize import RoundToNearest


@dataclass(frozen=True)
class TargetOptions:
    """What the compiler has read of a spec, checked against the target's capabilities.

    Attributes:
        weight_dtype: float32, float16 or bfloat16: how unquantized matrices are stored.
        quantize: how linear weights are rounded, or None.
        kv_dtype: element type of the KV cache.
        unbiased_keys: whether a calibrated int8 cache may hold keys without their biases.
        activations: float32, bfloat16, int8 or int16: what linear layers multiply their inputs as.
        disable: names of passes to leave out.
        prefill_lengths, total_lengths: `frontend.shape.input_ids`; both empty where the spec has none.
        tp: tensor-parallel degree, the number of ranks; 1 for a target that runs in one process.
        max_batch: sequences that are decoded together, at most.
        merge_params: whether the graphs of a rank share one file of weights.
        compile: `backend.compile`, each key as it is read.
    """

    weight_dtype: str
    quantize: RoundToNearest | None
    kv_dtype: str
    unbiased_keys: bool = False
    activations: str = "float32"
    disable: tuple[str, ...] = ()
    prefill_lengths: tuple[int, ...] = ()
    total_lengths: tuple[int, ...] = ()
    tp: int = 1
    max_batch: int = 1
    merge_params: bool = False
    compile: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What every target is asked for; see `TargetOptions`. A target's own request adds what it alone reads."""

    weight_dtype: str
    quantize: RoundToNearest | None
    kv_dtype: str
    unbiased_keys: bool = False
    disable: tuple[str, ...] = ()
    tp: int = 1

    @classmethod
    def of(cls, options: TargetOptions, **own: Any) -> Self:
        """The request of a spec, with a target's own fields."""
        return cls(**{each.name: getattr(options, each.name) for each in fields(Request)}, **own)

    @property
    def machine(self) -> str:
        """What the code is for, in a word or two beside the target's name; may be empty."""
        return ""

    @property
    def is_embedding(self) -> bool:
        """Whether the graphs give hidden states and no logits."""
        return False
