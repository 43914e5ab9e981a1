"""Kernels in TensorIR, for the CPU target and for the simulators of the others; one file an operator."""
