"""Passes: rewrites of the ONNX graph (`graph`), its lowering to Relax (`lowering`), and rewrites of Relax (`relax`)."""
