"""The proof on the twin, in a child process beside the code generation for the real model.

`prove` gets the twin's weights whole. It needs nothing of `build` and the other way round.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xamc.jobs.clock import Clock
from xamc.targets.cpu.names import KERNELS_PROOF, PASSES_PROOF
from xamc.targets.cpu.pipeline import relax_passes
from xamc.targets.cpu.twin_proof import TwinProof
from xamc.targets.kernels.isa import Isa


def prove(request: Mapping[str, Any]) -> None:
    """Runs the Relax passes and at last the compiled kernels on the twin, each against what was before it.

    What the Relax passes showed holds for every CPU, so that it is kept apart: it is shown here only if asked for.

    Args:
        request: ``twin`` ({graph, config, weights, cases}: see `TwinProof`), ``kv_dtype``, ``activations``,
            ``disable``, ``passes`` (whether the passes are proven, or only run on the way to the kernels), ``isa`` (of
            the kernels, or None to leave them out), and ``out``, where passes.json (name -> deviation, tolerance,
            bound) and kernels.json go, each with ``seconds``.

    Raises:
        InternalError: E1406 naming the first pass that left its tolerance, or the kernels.
    """
    clock, out = Clock(), Path(request["out"])
    twin = TwinProof.open(request["twin"])
    active = [p for p in relax_passes(request["kv_dtype"]) if p.name not in request["disable"]]
    clock.lap("lower the twin")
    if request["passes"]:
        twin.check("lowering", "reassociated")
        passes = {p.name: twin.prove(p).to_json() for p in active}
        clock.lap("prove Relax passes")
        _write(out / PASSES_PROOF, {"passes": passes, "seconds": clock.laps})
        clock.laps = {}
    else:
        for relax_pass in active:
            relax_pass.run(twin.program)
    if request["isa"] is not None:
        kernels = twin.prove_kernels(Isa.by_name(request["isa"]), request["kv_dtype"], request["activations"])
        clock.lap("prove kernels")
        _write(out / KERNELS_PROOF, {"kernels": kernels, "seconds": clock.laps})


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True))
