"""The CPU target's half of a compile, in the compiling process: asks the child for code, resolves its recipes."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir

from xamc.compiler.artifact.manifest import Cpu, Phase, plan_layout
from xamc.compiler.artifact.records import to_json
from xamc.compiler.cache import StageCache, stage_key
from xamc.compiler.child import Limits, run_child
from xamc.compiler.program import Program
from xamc.compiler.verify.scenario import Case, save_cases
from xamc.compiler.verify.twin_file import write_weights
from xamc.targets.cpu.stored import follow
from xamc.targets.cpu.target import LIBRARY, RESULT
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.packing import WeightFormat, packed_layout
from xamc.targets.pack_weights import PackedWeight
from xamc.targets.request import Generated, TargetRequest

# code generation of a 48-layer model takes about a minute and 700 MiB
LIMITS = Limits(seconds=1800, memory_bytes=6 * 2**30)

_MODULES = ("xamc.compiler.lowering", "xamc.passes.relax", "xamc.targets.cpu", "xamc.targets.kernels")
_TOOLS = ("apache-tvm", "apache-tvm-ffi")
FUNCTIONS = ("decode", "prefill_last", "prefill_all")


def generate(
    program: Program,
    request: TargetRequest,
    twin: tuple[Program, list[Case]] | None,
    cache: StageCache,
    dump: Path | None,
) -> Generated:
    """Code and packing recipe for `program`, from the cache or from a child process.

    Args:
        program: the real model in the in-place cache form.
        request: what the spec asks of this target.
        twin: the twin after the same graph passes and the calls it must answer; None without proofs.
        cache: where results are kept.
        dump: folder for readable IR, or None; the child then runs even if its result is known.
    """
    isa = Isa.host() if request.mcpu == "native" else Isa.by_name(request.mcpu)
    graph = ir.to_proto(program.model).SerializeToString(deterministic=True)
    key = stage_key(
        "codegen",
        _MODULES,
        _TOOLS,
        {
            "graph": hashlib.sha256(graph).hexdigest(),
            "config": to_json(program.config),
            "isa": isa.name,
            "host": Isa.host().name,
            "kv_dtype": request.kv_dtype,
            "disable": sorted(request.disable),
            "proof": twin is not None,
        },
    )
    folder = cache.get(key)
    if folder is not None and dump is not None:
        # the result is known, the IR on the way to it is not
        with tempfile.TemporaryDirectory(prefix="xamc-dump-") as name:
            _builder(program, graph, request, isa, twin, cache, dump)(Path(name))
    if folder is None:
        folder = cache.publish(key, _builder(program, graph, request, isa, twin, cache, dump))
    result = json.loads((folder / RESULT).read_text())
    weights, buffers = _resolve(result["weights"], program)
    return Generated(
        code=folder / LIBRARY,
        code_name=f"code/{LIBRARY}",
        functions=FUNCTIONS,
        phases=(Phase("prefill", ("prefill_last", "prefill_all")), Phase("decode", ("decode",))),
        cpu=Cpu(isa.name, isa.cpu_flags),
        buffers=buffers,
        weights=weights,
        passes=tuple(result["passes"]),
        kernel_proof=result["kernel_proof"],
        seconds=result["seconds"],
    )


def _builder(
    program: Program,
    graph: bytes,
    request: TargetRequest,
    isa: Isa,
    twin: tuple[Program, list[Case]] | None,
    cache: StageCache,
    dump: Path | None,
) -> Callable[[Path], None]:
    def build(out: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="xamc-codegen-") as name:
            folder = Path(name)
            (folder / "graph.onnx").write_bytes(graph)
            call: dict[str, Any] = {
                "graph": str(folder / "graph.onnx"),
                "config": to_json(program.config),
                "weights": {n: [list(t.shape), t.dtype] for n, t in program.weights.items()},
                "isa": isa.name,
                "kv_dtype": request.kv_dtype,
                "disable": list(request.disable),
                "dump": str(dump) if dump else None,
                "out": str(out),
                "twin": _write_twin(folder, twin) if twin else None,
            }
            run_child(
                "xamc.targets.cpu.build:build",
                call,
                folder=folder,
                limits=LIMITS,
                reproducers=cache.folder / "reproducers",
            )

    return build


def _write_twin(folder: Path, twin: tuple[Program, list[Case]]) -> dict[str, Any]:
    program, cases = twin
    ir.save(program.model, folder / "twin.onnx")
    write_weights(folder / "twin.safetensors", program.weights)
    save_cases(cases, folder / "cases.safetensors")
    return {
        "graph": str(folder / "twin.onnx"),
        "config": to_json(program.config),
        "weights": str(folder / "twin.safetensors"),
        "cases": str(folder / "cases.safetensors"),
    }


def _resolve(
    recipes: list[dict[str, Any]], program: Program
) -> tuple[tuple[PackedWeight, ...], tuple[tuple[str, str, tuple[int, ...]], ...]]:
    """The recipes with real tensors, and the buffers of the weights file in order."""
    buffers = [(name, dtype, tuple(shape)) for recipe in recipes for name, dtype, shape in recipe["buffers"]]
    entries, _ = plan_layout(buffers)
    offsets = iter(entry.offset for entry in entries)
    weights = []
    for recipe in recipes:
        sources = tuple((names[0], follow(names, program.weights)) for names in recipe["sources"])
        layout = None
        if recipe["kind"] is not None:
            rows, columns = sources[0][1].shape
            layout = packed_layout(rows, columns, WeightFormat(recipe["kind"], recipe["group_size"]))
        weights.append(PackedWeight(sources, layout, tuple(next(offsets) for _ in recipe["buffers"])))
    return tuple(weights), tuple(buffers)
