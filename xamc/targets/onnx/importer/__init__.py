"""TVM's ONNX importer, with operators that it lacks or gets wrong, and with shapes that vary."""
