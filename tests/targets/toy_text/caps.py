"""What the text target can do."""

from xamc.targets.caps import TargetCaps

CAPS = TargetCaps(
    name="toy_text",
    short="text",
    title="the text target",
    summary="the graph as text, for reading; ONNX Runtime runs it",
    weight_dtypes=("fp32", "fp16"),
    kv_dtypes=("fp32",),
    quantize_types=(),
    dynamic_shapes=True,
    length_multiple=1,
    kv_layout="past_present",
    max_tensor_parallel=1,
    executes_on="onnxruntime",
)
