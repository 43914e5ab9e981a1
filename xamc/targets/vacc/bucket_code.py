"""VACC's half of a compile, in the compiling process: code, graph descriptions and parameter files of a bucket."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from xamc.artifact.records import to_json
from xamc.errors import InternalError
from xamc.ir.program import Program
from xamc.ir.weights.lazy import LazyTensor
from xamc.jobs.cache import StageCache, stage_key
from xamc.jobs.child import Limits
from xamc.model.bucket import Bucket
from xamc.targets.child_stage import child_stage
from xamc.targets.vacc.mod_json import GraphPlace, graph_text
from xamc.targets.vacc.names import ISA, LIBRARY, RESULT

# 48 layers take about a minute and 700 MiB
LIMITS = Limits(seconds=1800, memory_bytes=6 * 2**30)

_CHILD = "xamc.targets.vacc.compile_bucket:build"


@dataclass(frozen=True)
class GeneratedBucket:
    """What one bucket's folders hold.

    Attributes:
        code: the library, the same for every rank (`mod.so`).
        graphs: the text of each rank's `mod.json`.
        params: the tensors of each rank's `mod.params`, in order, for `ParamsFile`.
        kernels: names of the library's kernels.
        seconds: time by step of the code generation.
    """

    code: Path
    graphs: tuple[str, ...]
    params: tuple[Mapping[str, LazyTensor], ...]
    kernels: tuple[str, ...]
    seconds: Mapping[str, float]


def generate_bucket(
    programs: Sequence[Program], bucket: Bucket, cache: StageCache, dump: Path | None = None, *, name: str
) -> GeneratedBucket:
    """Code and descriptions of one bucket's ranks, the code from the cache or from a child process.

    Args:
        programs: one per rank, all of the same structure.
        bucket: which graph it is.
        cache: where the code is kept.
        dump: folder for readable IR, or None; the child then runs even if its result is known.
        name: the model's name, for `mod.json`.

    Raises:
        UnsupportedError: E1421, an operator without a lowering.
        InternalError: E1422, ranks whose graphs differ.
        ToolchainError: E152x, the child died.
    """
    texts = [_structure(program) for program in programs]
    odd = [rank for rank, text in enumerate(texts) if text != texts[0]]
    if odd:
        raise InternalError(
            "E1422",
            f"rank {odd[0]} of {bucket.name} has another graph than rank 0, so they can't share their code",
            fix="report this with the spec; the pass that splits ranks must keep their structure alike",
        )
    folder = _code(programs[0], bucket, cache, dump)
    result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    graphs = [
        graph_text(program, GraphPlace(name, bucket, rank, len(programs)), result["weights"])
        for rank, program in enumerate(programs)
    ]
    params = [
        {str(value.name): program.weights[str(value.name)] for value in program.weight_inputs()}
        for program in programs
        if program.weights
    ]
    return GeneratedBucket(
        code=folder / LIBRARY,
        graphs=tuple(graphs),
        params=tuple(params),
        kernels=tuple(result["kernels"]),
        seconds=result["seconds"],
    )


def _structure(program: Program) -> str:
    return hashlib.sha256(ir.to_proto(program.model).SerializeToString(deterministic=True)).hexdigest()


def _code(program: Program, bucket: Bucket, cache: StageCache, dump: Path | None) -> Path:
    """The folder of the library and its weights tuple."""
    graph = ir.to_proto(program.model).SerializeToString(deterministic=True)
    given = {"config": to_json(program.config)}
    inputs = {"graph": hashlib.sha256(graph).hexdigest(), **given, "isa": ISA}
    key = stage_key("codegen", __name__, (_CHILD,), inputs)
    relax = dump / f"30-{bucket.name}.relax.py" if dump else None
    return child_stage(cache, key, _CHILD, given, LIMITS, graph, relax)
