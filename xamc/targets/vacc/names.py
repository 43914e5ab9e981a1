"""Names that VACC's compiling process, its child and the artifact share; free of tvm."""

LIBRARY = "mod.so"
GRAPH = "mod.json"
PARAMS = "mod.params"
RESULT = "result.json"
ISA = "x86-64-v3"
"""The one level of the simulator's code, so that its results don't depend on the host."""
EXECUTES_ON = "host-simulator"
