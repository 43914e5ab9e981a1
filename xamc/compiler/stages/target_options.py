"""From a spec to what is asked of its target: dtypes, quantization, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, cast

from xamc.artifact.manifest import Quantization
from xamc.compiler.spec.model import Quantize, Spec
from xamc.compiler.spec.model_kind import require_supported
from xamc.errors import InputError, UnsupportedError
from xamc.ir.weights.quantize import RoundToNearest
from xamc.targets.caps import TargetCaps
from xamc.targets.request import TargetOptions

LONG_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
# 16-bit weights and an int8 KV cache
INT8_KV = "w16kv8"
SCALES_KEY = "kv_cache_scales"


def target_options(spec: Spec, caps: TargetCaps, allow_rtn: bool) -> tuple[TargetOptions, Quantization]:
    """What the spec asks of its target, and the quantization requested and used.

    Raises:
        InputError: E1344 `runtime.kv_dtype` beside an int8 KV cache.
        UnsupportedError: E1408 a quantization that the target doesn't have, or a calibrated one without `allow_rtn`;
            E1343 groups where the target has one scale per output channel; E1410 a dtype the target doesn't have;
            E1411 not a language model.
    """
    require_supported(spec)
    policy, quantization = _quantization(spec, caps, allow_rtn)
    if spec.backend.dtype not in caps.weight_dtypes:
        raise UnsupportedError(
            "E1410",
            f"{caps.name} has no weights of backend.dtype {spec.backend.dtype}",
            fix=f"use one of {', '.join(caps.weight_dtypes)}",
            keys=("backend.dtype", "frontend.quantize.type"),
        )
    # what isn't quantized is float16 beside int8 and int4, which are about linear weights or the KV cache
    weight_dtype = "float16" if spec.frontend.quantize is not None else LONG_DTYPES.get(spec.backend.dtype, "float16")
    kv_dtype: str = "int8" if quantization.used == INT8_KV else spec.runtime.kv_dtype
    if kv_dtype == "auto":
        kv_dtype = _own_kv_dtype(weight_dtype, caps)
    if kv_dtype not in caps.kv_dtypes and quantization.used != INT8_KV:
        raise UnsupportedError(
            "E1410",
            f"{caps.name} has no KV cache of runtime.kv_dtype {kv_dtype}",
            fix=f"use one of auto, {', '.join(caps.kv_dtypes)}",
            keys=("runtime.kv_dtype",),
        )
    activations = _activations(spec, caps, policy, weight_dtype)
    options = TargetOptions(
        weight_dtype=weight_dtype,
        quantize=policy,
        kv_dtype=LONG_DTYPES.get(kv_dtype, kv_dtype),
        # scales from a file are those of keys as they are
        unbiased_keys=quantization.used == INT8_KV and SCALES_KEY not in _calib_args(spec),
        activations=activations,
        disable=spec.passes.disable,
        prefill_lengths=spec.prefill_lengths,
        total_lengths=spec.total_lengths,
        tp=spec.tp,
        max_batch=spec.runtime.max_batch,
        merge_params=bool(spec.backend.merge_params),
        compile=spec.backend.compile,
    )
    return options, replace(quantization, activations=activations)


def _own_kv_dtype(weight_dtype: str, caps: TargetCaps) -> str:
    """The cache's type where the spec leaves it to the target: that of the weights, whose range keys and values have.

    A model in bf16 may have keys beyond 65504, which are infinite in float16.
    """
    wanted = {"float32": "fp32", "bfloat16": "bf16"}.get(weight_dtype, "fp16")
    return wanted if wanted in caps.kv_dtypes else "fp16" if "fp16" in caps.kv_dtypes else "fp32"


def _calib_args(spec: Spec) -> Mapping[str, object]:
    return spec.frontend.quantize.calib_args if spec.frontend.quantize is not None else {}


def _activations(spec: Spec, caps: TargetCaps, policy: RoundToNearest | None, weight_dtype: str) -> str:
    """What linear layers multiply their inputs as; `auto` never asks for less than the weights are stored in."""
    asked = str(spec.backend.compile.get("activations", "auto"))
    if asked == "auto":
        # what every level multiplies alike, so that precision doesn't depend on the machine
        asked = "int16" if policy is not None else "bfloat16" if weight_dtype == "bfloat16" else "float32"
    if asked not in caps.activations:
        return "float32"
    if asked in ("int8", "int16") and policy is None:
        raise UnsupportedError(
            "E1410",
            f"backend.compile.activations is {asked}, which goes with integer weights; these are {spec.backend.dtype}",
            fix="remove it, or quantize the weights: frontend.quantize: {type: w4a16_rtn}",
            keys=("backend.compile.activations", "backend.dtype"),
        )
    return asked


def _quantization(spec: Spec, caps: TargetCaps, allow_rtn: bool) -> tuple[RoundToNearest | None, Quantization]:
    asked = spec.frontend.quantize
    if asked is None:
        return None, Quantization()
    used = asked.type
    if used not in caps.quantize_types:
        used = _substitute(asked, caps, allow_rtn)
    if used == INT8_KV:
        if spec.runtime.kv_dtype != "auto":
            raise InputError(
                "E1344",
                f"frontend.quantize.type {used} stores the KV cache as int8, and runtime.kv_dtype says "
                f"{spec.runtime.kv_dtype}",
                fix="remove runtime.kv_dtype, or frontend.quantize",
                keys=("runtime.kv_dtype", "frontend.quantize.type"),
            )
        return None, Quantization(asked.type, used)
    if asked.group_size is not None and not caps.weight_groups:
        raise UnsupportedError(
            "E1343",
            f"frontend.quantize.group_size is {asked.group_size}; {caps.name} has one scale per output channel",
            fix="remove frontend.quantize.group_size, or set it to -1",
            keys=("frontend.quantize.group_size",),
        )
    bits = cast(Literal[4, 8], asked.weight_bits)
    group = asked.group_size if bits == 8 or asked.group_size is not None else 32
    return RoundToNearest(bits, group), Quantization(asked.type, used)


def _substitute(asked: Quantize, caps: TargetCaps, allow_rtn: bool) -> str:
    """The round-to-nearest type that is used instead of one that the target doesn't have."""
    substitute = asked.rtn_type
    if substitute is None or substitute not in caps.quantize_types:
        what = f"{asked.type} (an int8 KV cache)" if substitute is None else asked.type
        able = ", ".join(caps.quantize_types)
        raise UnsupportedError(
            "E1408",
            f"frontend.quantize.type {what} is not available on {caps.name}",
            fix=(f"use one of {able}, or " if able else "") + "remove frontend.quantize and set backend.dtype: fp16",
            keys=("frontend.quantize.type",),
        )
    if not allow_rtn:
        raise UnsupportedError(
            "E1408",
            f"frontend.quantize.type {asked.type} needs a calibration that xamc doesn't have yet",
            fix=f"compile with --allow-rtn to round to nearest instead ({substitute}); the manifest will say so",
            keys=("frontend.quantize.type",),
        )
    return substitute
