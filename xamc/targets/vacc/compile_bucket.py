"""What runs in a child process for VACC: code generation of one bucket, for the host.

It never sees a weight, only names, shapes and dtypes. All ranks of a bucket have the same structure, so one library
serves them all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from xamc.artifact.records import from_json
from xamc.ir.program import Program
from xamc.model.config import ModelConfig
from xamc.targets.cpu.codegen import build_library
from xamc.targets.kernels.isa import Isa
from xamc.targets.vacc.lower import lower_static
from xamc.targets.vacc.names import ISA, LIBRARY, RESULT


def build(request: Mapping[str, Any]) -> None:
    """Lowers and compiles a rank's graph.

    Args:
        request: ``graph`` (ONNX file in the static form), ``config`` (ModelConfig as JSON), ``dump`` (a file for
            readable Relax, or None), ``out`` (an existing folder for the library and result.json: ``weights``, the
            weights tuple in order, ``kernels``, and ``seconds`` by step).
    """
    out, isa = Path(request["out"]), Isa.by_name(ISA)
    started = time.perf_counter()
    program = Program(ir.load(request["graph"]), {}, from_json(ModelConfig, request["config"]))
    module, plan = lower_static(program, isa)
    lowered = time.perf_counter()
    if request.get("dump"):
        Path(request["dump"]).write_text(module.script())
    build_library(module, isa, out / LIBRARY)
    result = {
        "weights": [
            {
                "sources": list(weight.sources),
                "packing": weight.packing,
                "shape": list(weight.shape),
                "buffers": [{"name": b.name, "dtype": b.dtype, "shape": list(b.shape)} for b in weight.buffers],
            }
            for weight in plan.weights.values()
        ],
        "kernels": sorted(v.name_hint for v, f in module.functions.items() if type(f).__name__ == "PrimFunc"),
        "seconds": {"lower": round(lowered - started, 3), "codegen": round(time.perf_counter() - lowered, 3)},
    }
    (out / RESULT).write_text(json.dumps(result, indent=1, sort_keys=True))
