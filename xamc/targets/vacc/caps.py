"""What the VACC target can do."""

from xamc.artifact.manifest import HOST_SIMULATOR
from xamc.targets.caps import TargetCaps

CAPS = TargetCaps(
    name="tvm_vacc",
    short="vacc",
    title="VACC",
    summary="Vastai VACC cards: static graphs per bucket and rank, run by a simulator on the host",
    weight_dtypes=("fp16", "int8"),
    kv_dtypes=("fp16",),
    quantize_types=("w8a16_rtn", "w16kv8"),
    dynamic_shapes=False,
    length_multiple=16,
    kv_layout="past_present",
    max_tensor_parallel=16,
    executes_on=HOST_SIMULATOR,
    computes="float16",
    weight_groups=False,
)
