"""What the VACC target does with the keys of a spec, and those that it alone reads."""

from __future__ import annotations

from xamc.targets.spec_keys import KEPT_FOR_VAMC, Key, SpecKeys
from xamc.targets.spec_kinds import Text

_SCALES = "frontend.quantize.calib_args.kv_cache_scales"

KEYS = SpecKeys(
    uses={
        "frontend.shape.input_ids": ("used", "one prefill graph per first length, one decode graph per second"),
        "frontend.model_kwargs.align_qkv": ("no effect", "heads are padded wherever tp needs it"),
        "backend.merge_params": ("used", "true: all graphs of a rank have one mod.params"),
        _SCALES: ("used", "the scales of w16kv8"),
        **dict.fromkeys(
            ("dataset.path", "dataset.nsamples", "dataset.seqlen"),
            ("used", "what an int8 KV cache (w16kv8) is calibrated on; GPTQ's calibration is vamc's"),
        ),
    },
    for_vamc=("recorded", KEPT_FOR_VAMC),
    keys=(
        Key(
            _SCALES,
            Text(),
            "A safetensors file with the scales and zero points of an int8 KV cache (docs/vacc.md), instead of a "
            "calibration. Relative paths are against the YAML file's folder.",
            ("no effect", "there is no int8 KV cache"),
            "calibrated on dataset.path, or on a short text of xamc's own",
        ),
    ),
)
