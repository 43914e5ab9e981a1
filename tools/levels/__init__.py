"""An emulated x86-64 processor with the instructions that this machine's lacks, for running kernels and artifacts."""
