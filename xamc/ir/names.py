"""Names of what the exporter adds to ONNX; free of torch, so that passes and the lowering can import them."""

MASK_DOMAIN = "xamc"
MASK_OP = "SlidingWindowMask"
SWIGLU_OP = "SwiGLU"
GATHER_POSITION_OP = "GatherPosition"
DEQUANTIZE_OP = "DequantizeGroups"
QUANTIZE_KV_OP = "QuantizeKv"
DEQUANTIZE_KV_OP = "DequantizeKv"
# collectives between the ranks of a tensor-parallel model
ALL_REDUCE_OP = "AllReduce"
ALL_GATHER_OP = "AllGather"
# the custom operator of Vastai's own quantized graphs, under its own domain and name
VASTAI_DOMAIN = "Vastai"
QUANTIZED_LINEAR_OP = "QuantizedLinearPerChannel"
WEIGHT_ROLE = "xamc.weight"
MODULE_KEY = "xamc.module"
# on a graph output: the name of the graph input whose memory it shares, to be updated in place
ALIAS_KEY = "xamc.alias"
OPSET = 24
# ONNX Runtime 1.31 reads at most IR version 13; 11 is what the toolchain of every target reads
IR_VERSION = 11
# opset → IR version of graphs for older toolchains, which only the last pass of a hand-off writes
OLDER_OPSETS = {14: 8, 15: 8, 16: 8, 17: 8}
