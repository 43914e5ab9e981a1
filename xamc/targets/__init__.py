"""What each target can do, and how it turns a rewritten graph into code: a folder a target, and `kernels` for all."""
