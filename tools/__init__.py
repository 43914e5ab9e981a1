"""Tools of the repository: benchmarks, golden files, synthetic checkpoints. Nothing in the package imports them."""
