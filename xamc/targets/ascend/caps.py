"""What the Ascend target can do."""

from xamc.artifact.manifest import HOST_ONNXRUNTIME
from xamc.targets.caps import TargetCaps

CAPS = TargetCaps(
    name="tvm_ascend",
    short="ascend",
    title="Ascend",
    summary="Huawei Ascend NPUs through ATC: ONNX with gears, GE configuration; never run on an NPU",
    weight_dtypes=("fp16",),
    kv_dtypes=("fp16",),
    quantize_types=(),
    dynamic_shapes=False,
    length_multiple=1,
    kv_layout="in_place",
    max_tensor_parallel=1,
    executes_on=HOST_ONNXRUNTIME,
    computes="float16",
)
