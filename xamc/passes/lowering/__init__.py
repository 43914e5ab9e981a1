"""From ONNX to Relax: one handler for each operator that the compiler's graphs use."""
