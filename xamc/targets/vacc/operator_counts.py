"""How many operators of each kind a static graph will have, from the config alone; `plan` prints it.

Tests compare these numbers with the graphs that the passes make. Constants, and the casts that widen stored weights,
are no work of their own and are not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from xamc.model.bucket import Bucket
from xamc.model.config import ModelConfig
from xamc.model.parameters import has_bias, has_key_biases, layer_of
from xamc.targets.vacc.request import VaccRequest


def operator_counts(config: ModelConfig, request: VaccRequest, bucket: Bucket) -> Mapping[str, int]:
    """Operator -> count in the graph of one rank, in descending order of count.

    Args:
        config: the whole model.
        request: how weights and caches are stored, and the number of ranks.
        bucket: phase and length.
    """
    layers, layer, counts = config.num_layers, layer_of(config), Counter[str]()
    per_layer = Counter(
        {"MatMul": 2, "Transpose": 5, "Reshape": 4, "Slice": 4, "Neg": 2, "Concat": 2, "Mul": 5, "Add": 5}
        | {"Softmax": 1, "RMSNormalization": len(layer.norms), "xamc::SwiGLU": 1}
    )
    if request.quantize is not None:
        per_layer["Vastai::QuantizedLinearPerChannel"] += len(layer.linears)
    else:
        per_layer.update({"MatMul": len(layer.linears), "Transpose": len(layer.linears)})
    per_layer["Add"] += sum(has_bias(config, linear) for linear in layer.linears)
    if config.num_heads != config.num_kv_heads:
        per_layer.update({"Unsqueeze": 2, "Expand": 2, "Reshape": 2})
    if bucket.kind == "decode":
        per_layer["Concat"] += 2
    if request.kv_dtype == "int8":
        per_layer["xamc::QuantizeKv"] += 2
        per_layer["xamc::DequantizeKv"] += 2 * (bucket.kind == "decode")
        if request.unbiased_keys and has_key_biases(config):
            # the rotation of the biases and their addition, instead of the one behind the projection
            per_layer.update({"Reshape": 1, "Slice": 2, "Neg": 1, "Concat": 1, "Mul": 2, "Add": 1})
            if bucket.kind == "decode":
                counts.update({"Slice": 2, "Unsqueeze": 2, "Concat": 2})
    if request.tp > 1:
        per_layer["xamc::AllReduce"] += 2
    for name, count in per_layer.items():
        counts[name] += count * layers
    # the embedding, the tables' rows, the final norm
    counts.update({"Gather": 3, "Unsqueeze": 2, "RMSNormalization": 1})
    _count_masks(counts, config, bucket)
    if not request.is_embedding:
        counts.update({"MatMul": 1, "Transpose": 1})
        if bucket.kind == "prefill" and "insert_slice" not in request.disable:
            counts["Slice"] += 1
        if request.tp > 1:
            counts["xamc::AllGather"] += 1
    return dict(sorted(((n, c) for n, c in counts.items() if c), key=lambda item: (-item[1], item[0])))


def _count_masks(counts: Counter[str], config: ModelConfig, bucket: Bucket) -> None:
    """One mask per distinct window, full attention included; which slots are visible at all is compared once."""
    windows = set(config.sliding_windows)
    bounded = len(windows - {None})
    counts.update({"Where": len(windows), "Greater": 1 + bounded, "And": bounded})
    if bucket.kind == "decode":
        # a window's oldest position depends on the token's; in a prefill it is a constant
        counts.update({"Unsqueeze": 1 + bounded, "Sub": bounded})
