"""What the CPU target can do."""

from xamc.targets.caps import TargetCaps

CAPS = TargetCaps(
    name="tvm_cpu",
    short="cpu",
    title="CPU",
    summary="x86-64 CPUs through TVM and xamc's TensorIR kernels",
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
)
