"""What a target is: its capabilities as data, its pass pipelines as lists, and its code generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from xamc.artifact.manifest import HOST_ONNXRUNTIME

KvLayout = Literal["in_place", "past_present"]


@dataclass(frozen=True)
class TargetCaps:
    """What a target can do; passes and the plan ask this, never a target's name.

    Attributes:
        name: the value of `backend.type`.
        summary: one line for `xamc targets`.
        available: whether `compile` works; a planned target can still be the subject of `plan`.
        weight_dtypes: values of `backend.dtype` it stores weights in.
        kv_dtypes: element types its KV cache may have.
        quantize_types: values of `frontend.quantize.type` it computes as they are.
        dynamic_shapes: whether sequence lengths are free; otherwise one graph per bucket.
        length_multiple: sequence lengths must be a multiple of this.
        kv_layout: in-place cache of fixed capacity, or past in and present out.
        max_tensor_parallel: largest `tp`; a larger one in the spec becomes this, and is said so.
        executes_on: what runs the artifact, printed with every result.
        weight_groups: whether several columns of a quantized weight's row may share a scale; otherwise one scale per
            output channel is all there is.
        activations: values of `backend.compile.activations` that its linear layers can multiply their inputs as.
        tunes: whether kernels can be tuned on the machine that compiles.
    """

    name: str
    summary: str
    available: bool
    weight_dtypes: tuple[str, ...]
    kv_dtypes: tuple[str, ...]
    quantize_types: tuple[str, ...]
    dynamic_shapes: bool
    length_multiple: int
    kv_layout: KvLayout
    max_tensor_parallel: int
    executes_on: str
    weight_groups: bool = True
    activations: tuple[str, ...] = ("float32",)
    tunes: bool = False


CAPS: dict[str, TargetCaps] = {
    caps.name: caps
    for caps in (
        TargetCaps(
            name="tvm_cpu",
            summary="x86-64 CPUs through TVM and xamc's TensorIR kernels",
            available=True,
            weight_dtypes=("fp32", "fp16", "bf16", "int8", "int4"),
            kv_dtypes=("fp32", "fp16", "bf16", "int8"),
            quantize_types=("w8a16_rtn", "w4a16_rtn"),
            dynamic_shapes=True,
            length_multiple=1,
            kv_layout="in_place",
            max_tensor_parallel=1,
            executes_on="cpu",
            activations=("float32", "bfloat16", "int8", "int16"),
            tunes=True,
        ),
        TargetCaps(
            name="reference",
            summary="the exported ONNX under ONNX Runtime, unoptimized: what the IR means",
            available=True,
            weight_dtypes=("fp32", "fp16", "bf16", "int8", "int4"),
            kv_dtypes=("fp32",),
            quantize_types=("w8a16_rtn", "w4a16_rtn"),
            dynamic_shapes=True,
            length_multiple=1,
            kv_layout="past_present",
            max_tensor_parallel=1,
            executes_on="onnxruntime",
        ),
        TargetCaps(
            name="tvm_vacc",
            summary="Vastai VACC cards: static graphs per bucket and rank, run by a simulator on the host",
            available=True,
            weight_dtypes=("fp16", "int8"),
            kv_dtypes=("fp16",),
            quantize_types=("w8a16_rtn", "w16kv8"),
            dynamic_shapes=False,
            length_multiple=16,
            kv_layout="past_present",
            max_tensor_parallel=16,
            executes_on="host-simulator",
            weight_groups=False,
        ),
        TargetCaps(
            name="tvm_ascend",
            summary="Huawei Ascend NPUs through ATC: ONNX with gears, GE configuration; never run on an NPU",
            available=True,
            weight_dtypes=("fp16",),
            kv_dtypes=("fp16",),
            quantize_types=(),
            dynamic_shapes=False,
            length_multiple=1,
            kv_layout="in_place",
            max_tensor_parallel=1,
            executes_on=HOST_ONNXRUNTIME,
        ),
    )
}
