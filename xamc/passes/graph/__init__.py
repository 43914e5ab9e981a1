"""Rewrites of the ONNX graph, one file and one class each. A target lists those it wants, in its order."""

from __future__ import annotations

# file → class, in the usual order; imported by name, so that this package stays free of onnx until a pass is used
GRAPH_PASSES: dict[str, str] = {
    "cleanup": "Cleanup",
    "norms": "Norms",
    "swiglu": "SwiGlu",
    "last_position": "LastPosition",
    "kv_cache": "KvCache",
    "cache_rows": "CacheRows",
    "phase": "StaticPhase",
    "causal_mask": "CausalMask",
    "rope_table": "RopeTables",
    "eager_attention": "EagerAttention",
    "insert_slice": "InsertSlice",
    "embedding_output": "EmbeddingOutput",
    "vocab_padding": "VocabPadding",
    "key_bias_apart": "KeyBiasApart",
    "fp16_clamp": "Fp16Clamp",
    "weight_storage": "WeightStorage",
    "half_precision": "HalfPrecision",
    "quantize_weights": "QuantizeWeights",
    "quantize_per_channel": "QuantizePerChannel",
    "kv_int8": "KvInt8",
    "byte_codes": "ByteCodes",
    "standard_ops": "StandardOps",
}
