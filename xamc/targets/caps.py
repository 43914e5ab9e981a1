"""What a target can do, as data; importing it costs nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

KvLayout = Literal["in_place", "past_present"]


@dataclass(frozen=True)
class TargetCaps:
    """What a target can do; passes and the plan ask this, never a target's name.

    Attributes:
        name: the value of `backend.type`.
        short: its name on a command line, for `--target`.
        title: its name in a sentence.
        summary: one line for `xamc targets`.
        weight_dtypes: values of `backend.dtype` it stores weights in.
        kv_dtypes: element types its KV cache may have.
        quantize_types: values of `frontend.quantize.type` it computes as they are.
        dynamic_shapes: whether sequence lengths are free; otherwise one graph per bucket.
        length_multiple: sequence lengths must be a multiple of this.
        kv_layout: in-place cache of fixed capacity, or past in and present out.
        max_tensor_parallel: largest `tp`; with dynamic shapes a larger one becomes this, and that is said.
        executes_on: what runs the artifact, printed with every result.
        computes: the float type that operators yield.
        weight_groups: whether several columns of a quantized weight's row may share a scale; otherwise one scale per
            output channel is all there is.
        activations: values of `backend.compile.activations` that its linear layers can multiply their inputs as.
        tunes: whether kernels can be tuned on the machine that compiles.
    """

    name: str
    short: str
    title: str
    summary: str
    weight_dtypes: tuple[str, ...]
    kv_dtypes: tuple[str, ...]
    quantize_types: tuple[str, ...]
    dynamic_shapes: bool
    length_multiple: int
    kv_layout: KvLayout
    max_tensor_parallel: int
    executes_on: str
    computes: Literal["float32", "float16"] = "float32"
    weight_groups: bool = True
    activations: tuple[str, ...] = ("float32",)
    tunes: bool = False
