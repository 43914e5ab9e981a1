"""The CPU target: Relax with kernels in TensorIR, compiled by LLVM for one or several CPU levels."""
