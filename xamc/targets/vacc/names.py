"""Names that VACC's compiling process, its child and the artifact share; free of tvm."""

LIBRARY = "mod.so"
GRAPH = "mod.json"
PARAMS = "mod.params"
RESULT = "result.json"
ISA = "x86-64-v3"
"""The one level of the simulator's code, so that its results don't depend on the host."""
VOCAB_MULTIPLE = 16
"""Vocabulary rows per hardware line."""
