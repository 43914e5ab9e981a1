"""Tensor parallelism: one program becomes one per rank."""
