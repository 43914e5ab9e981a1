"""Names of files that the CPU target's compiling process and its children share; free of tvm."""

from __future__ import annotations

LIBRARY = "model.so"
RESULT = "result.json"
PASSES_PROOF = "passes.json"
KERNELS_PROOF = "kernels.json"
PROBLEMS = "problems.json"  # of a search for tiles
