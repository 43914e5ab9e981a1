"""Static graphs of any ONNX model: TVM's importer and its default pipeline for LLVM, nothing tuned."""
