"""The export: a transformers model on the meta device, patched, as an ONNX graph of high-level operators."""
