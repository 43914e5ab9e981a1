"""Rewrites of the ONNX graph, one file and one class each. A target lists those it wants, in its order."""

from __future__ import annotations

# file → class, in the usual order; imported by name, so that this package stays free of onnx until a pass is used
GRAPH_PASSES: dict[str, str] = {
    "cleanup": "Cleanup",
    "norms": "Norms",
    "swiglu": "SwiGlu",
    "last_position": "LastPosition",
    "kv_cache": "KvCache",
    "vocab_padding": "VocabPadding",
    "weight_storage": "WeightStorage",
    "quantize_weights": "QuantizeWeights",
    "quantize_per_channel": "QuantizePerChannel",
    "byte_codes": "ByteCodes",
}
