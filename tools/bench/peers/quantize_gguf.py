"""Quantizes a GGUF file with llama.cpp itself: ``python -m tools.bench.peers.quantize_gguf IN OUT Q4_0|Q4_1|Q8_0``.

Runs in llama.cpp's environment. The recipe is the one of its command line tool, with nothing changed.
"""

from __future__ import annotations

import importlib
import os
import sys


def main() -> None:
    """Quantizes, or ends with llama.cpp's status."""
    llama = importlib.import_module("llama_cpp")
    source, out, kind = sys.argv[1:4]
    parameters = llama.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama, f"LLAMA_FTYPE_MOSTLY_{kind}")
    parameters.nthread = len(os.sched_getaffinity(0))
    status = llama.llama_model_quantize(os.fsencode(source), os.fsencode(out), parameters)
    if status:
        raise SystemExit(f"llama_model_quantize {source} to {kind} failed with {status}")


if __name__ == "__main__":
    main()
