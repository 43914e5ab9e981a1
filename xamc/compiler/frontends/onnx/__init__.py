"""Reads ONNX models, and writes out what later stages do not take as it is."""
