"""What the reference target can do."""

from xamc.targets.caps import TargetCaps

CAPS = TargetCaps(
    name="reference",
    short="reference",
    title="the reference target",
    summary="the exported ONNX under ONNX Runtime, unoptimized: what the IR means",
    weight_dtypes=("fp32", "fp16", "bf16", "int8", "int4"),
    kv_dtypes=("fp32",),
    quantize_types=("w8a16_rtn", "w4a16_rtn"),
    dynamic_shapes=True,
    length_multiple=1,
    kv_layout="past_present",
    max_tensor_parallel=1,
    executes_on="onnxruntime",
)
