"""The reference target: the exported ONNX under ONNX Runtime."""
