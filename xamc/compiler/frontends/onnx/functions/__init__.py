"""Operators written out as functions of simpler ones: ONNX's own definitions, and ours where it gives none."""
