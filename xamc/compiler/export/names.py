"""Names of what the exporter adds to ONNX; free of torch, so that passes and the lowering can import them."""

MASK_DOMAIN = "xamc"
MASK_OP = "SlidingWindowMask"
WEIGHT_ROLE = "xamc.weight"
MODULE_KEY = "xamc.module"
OPSET = 24
# ONNX Runtime 1.31 reads at most IR version 13; 11 is what the toolchain of every target reads
IR_VERSION = 11
