"""The CPU target's half of a compile, in the compiling process: asks the child for code, resolves its recipes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from xamc.artifact.digests import sha256_of
from xamc.artifact.manifest import Code, Cpu, plan_layout
from xamc.artifact.packing import WeightFormat, packed_layout
from xamc.artifact.records import to_json
from xamc.artifact.staging import temporary_folder
from xamc.artifact.step_program import STEP_FILE
from xamc.errors import InternalError
from xamc.ir.program import Program
from xamc.jobs.cache import StageCache, StageKey, stage_key
from xamc.jobs.child import Limits, run_child
from xamc.targets.child_stage import child_stage
from xamc.targets.cpu.arithmetic import level_arithmetic
from xamc.targets.cpu.names import KERNELS_PROOF, LIBRARY, PASSES_PROOF, RESULT
from xamc.targets.cpu.request import CpuRequest
from xamc.targets.cpu.stored import follow
from xamc.targets.kernels.isa import Isa
from xamc.targets.pack_weights import PackedWeight
from xamc.targets.weights_file import Buffers
from xamc.verify.scenario import Case, save_cases
from xamc.verify.twin_file import content_digest, write_weights

# code generation of a 48-layer model takes about a minute and 700 MiB
LIMITS = Limits(seconds=1800, memory_bytes=6 * 2**30)

_CODE_CHILD = "xamc.targets.cpu.compile_library:build"
_PROOF_CHILD = "xamc.targets.cpu.prove:prove"


@dataclass(frozen=True)
class Generated:
    """What was made of a program.

    Attributes:
        libraries: each file with its place in the artifact and its CPU, rising.
        buffers: (name, dtype, shape) of every buffer of the weights file, in order.
        weights: what to write to that file, in the order of the weights tuple.
        passes: reports of the Relax passes, as JSON.
        kernel_proof: what the kernels showed on the twin; None without proofs.
        decode: how one token is run, or why it is no program.
        step: the file of the program of one token, to be put beside the code; None where there is none.
        seconds: time by step.
    """

    libraries: tuple[tuple[Path, Code], ...]
    buffers: Buffers
    weights: tuple[PackedWeight, ...]
    passes: tuple[Mapping[str, Any], ...]
    kernel_proof: Mapping[str, Any] | None
    decode: str
    step: Path | None
    seconds: Mapping[str, float]


def generate(
    program: Program,
    request: CpuRequest,
    twin: tuple[Program, list[Case]] | None,
    cache: StageCache,
    dump: Path | None,
) -> Generated:
    """Code and packing recipe for `program`, and the twin's proof, from the cache or from two child processes at once.

    Args:
        program: the real model in the in-place cache form.
        request: what the spec asks of this target.
        twin: the twin after the same graph passes and the calls it must answer; None without proofs.
        cache: where results are kept.
        dump: folder for readable IR, or None; the child then runs even if its result is known.
    """
    levels = Isa.rising(request.cpu_levels)
    isa = levels[0]
    options = {
        "isa": isa.name,
        "kv_dtype": request.kv_dtype,
        "activations": request.activations,
        "disable": sorted(request.disable),
    }
    with ThreadPoolExecutor(1) as pool:
        proving = pool.submit(_proofs, twin, options, levels, cache) if twin is not None else None
        # the tiles that were found here are this machine's, and there are none where the code is for several
        folder = _code(program, options | {"tiles": request.tiles.to_json()}, cache, dump)
        others = [_code(program, options | {"isa": level.name, "tiles": []}, cache, None) for level in levels[1:]]
        proof = proving.result() if proving is not None else None
    _check_same_weights(folder, others, levels)
    names = [LIBRARY] if not others else [f"model-{level.name}.so" for level in levels]
    result = json.loads((folder / RESULT).read_text())
    weights, buffers = _resolve(result["weights"], program)
    shown = proof["passes"] if proof is not None else {}
    unproven = {"deviation": None, "tolerance": None, "bound": None}
    return Generated(
        libraries=tuple(
            (made / LIBRARY, Code(f"code/{name}", Cpu(level.name, level.cpu_flags, level_arithmetic(level, request))))
            for made, name, level in zip((folder, *others), names, levels, strict=True)
        ),
        buffers=buffers,
        weights=weights,
        passes=tuple({**entry, **shown.get(entry["name"], unproven)} for entry in result["passes"]),
        kernel_proof=None if proof is None else proof["kernels"],
        decode=result["decode"],
        step=folder / STEP_FILE if (folder / STEP_FILE).is_file() else None,
        seconds=result["seconds"] | (proof["seconds"] if proof is not None else {}),
    )


def _check_same_weights(folder: Path, others: list[Path], levels: list[Isa]) -> None:
    """Libraries of one artifact read one weights file and run one program.

    Raises:
        InternalError: E1482, a level wants it laid out differently.
    """
    wanted = _weights_and_step(folder)
    for other, level in zip(others, levels[1:], strict=True):
        if _weights_and_step(other) != wanted:
            raise InternalError(
                "E1482",
                f"the code for {levels[0].name} and for {level.name} would read different weights files or programs",
                fix="compile one artifact per level with backend.compile.mcpu, and report it",
            )


def _weights_and_step(folder: Path) -> tuple[Any, str]:
    step = folder / STEP_FILE
    return json.loads((folder / RESULT).read_text())["weights"], step.read_text() if step.is_file() else ""


def _code(program: Program, options: dict[str, Any], cache: StageCache, dump: Path | None) -> Path:
    """The folder of the library and its packing recipe."""
    graph = ir.to_proto(program.model).SerializeToString(deterministic=True)
    weights = {name: [list(tensor.shape), tensor.dtype] for name, tensor in program.weights.items()}
    given = {"config": to_json(program.config), "weights": weights, **options}
    key = stage_key("codegen", __name__, (_CODE_CHILD,), {"graph": hashlib.sha256(graph).hexdigest(), **given})
    return child_stage(cache, key, _CODE_CHILD, given, LIMITS, graph, dump)


@dataclass(frozen=True)
class ProofKeys:
    """Keys of what the twin shows: of the Relax passes for every CPU, of the kernels for one."""

    passes: StageKey
    kernels: StageKey

    @staticmethod
    def of(twin: Mapping[str, str], options: Mapping[str, Any], host: str) -> ProofKeys:
        """The keys for a twin.

        Args:
            twin: file → digest of what the child is given: graph in the in-place cache form, config, weights, calls.
            options: ``isa``, ``kv_dtype``, ``activations`` and ``disable`` of the request.
            host: this machine's CPU level, which decides whether kernels can run.
        """
        common = {"twin": dict(twin)}
        anywhere = common | {name: value for name, value in options.items() if name not in ("isa", "activations")}
        return ProofKeys(
            stage_key("proof", __name__, (_PROOF_CHILD,), anywhere),
            stage_key("kernel_proof", __name__, (_PROOF_CHILD,), {**common, **options, "host": host}),
        )


def _proofs(
    twin: tuple[Program, list[Case]], options: dict[str, Any], levels: list[Isa], cache: StageCache
) -> dict[str, Any]:
    """What the twin showed, with the kernels of each level; those of the best level that ran stand for all."""
    with temporary_folder("twin") as folder:
        files = _write_twin(folder, twin)
        proofs = [_proof(files, options | {"isa": level.name}, cache) for level in levels]
    if len(levels) == 1:
        return proofs[0]
    kernels = {level.name: proof["kernels"] for level, proof in zip(levels, proofs, strict=True)}
    ran = [kernel for kernel in kernels.values() if kernel["executed"]]
    return {**proofs[0], "kernels": {**(ran or list(kernels.values()))[-1], "levels": kernels}}


def _proof(twin: Mapping[str, Path], options: dict[str, Any], cache: StageCache) -> dict[str, Any]:
    """What the twin showed: ``passes``, ``kernels`` and ``seconds``; one child shows all that is not known yet."""
    digests = {
        name: content_digest(path) if path.suffix == ".safetensors" else sha256_of(path) for name, path in twin.items()
    }
    keys = ProofKeys.of(digests, options, Isa.host().name)
    passes, kernels = cache.get(keys.passes), cache.get(keys.kernels)

    def prove(out: Path, show_passes: bool, isa: str | None) -> None:
        with temporary_folder("proof") as folder:
            call = {**options, "isa": isa, "passes": show_passes, "out": str(out)}
            reproducers = cache.folder / "reproducers"
            call["twin"] = {name: str(path) for name, path in twin.items()}
            run_child(_PROOF_CHILD, call, folder=folder, limits=LIMITS, reproducers=reproducers, without=("torch",))

    with temporary_folder("proven") as proven:

        def show_kernels(out: Path) -> None:
            prove(proven, passes is None, options["isa"])
            shutil.copyfile(proven / KERNELS_PROOF, out / KERNELS_PROOF)

        def show_passes(out: Path) -> None:
            if not (proven / PASSES_PROOF).is_file():
                prove(proven, True, None)
            shutil.copyfile(proven / PASSES_PROOF, out / PASSES_PROOF)

        kernels = kernels or cache.publish(keys.kernels, show_kernels)
        passes = passes or cache.publish(keys.passes, show_passes)
    parts = [json.loads((passes / PASSES_PROOF).read_text()), json.loads((kernels / KERNELS_PROOF).read_text())]
    return {**parts[0], **parts[1], "seconds": parts[0]["seconds"] | parts[1]["seconds"]}


def _write_twin(folder: Path, twin: tuple[Program, list[Case]]) -> dict[str, Path]:
    """The files that `TwinProof.open` reads; the same twin gives the same content."""
    program, cases = twin
    files = {
        "graph": folder / "twin.onnx",
        "config": folder / "config.json",
        "weights": folder / "twin.safetensors",
        "cases": folder / "cases.safetensors",
    }
    files["graph"].write_bytes(ir.to_proto(program.model).SerializeToString(deterministic=True))
    files["config"].write_text(json.dumps(to_json(program.config), sort_keys=True), encoding="utf-8")
    write_weights(files["weights"], program.weights)
    save_cases(cases, files["cases"])
    return files


def _resolve(recipes: list[dict[str, Any]], program: Program) -> tuple[tuple[PackedWeight, ...], Buffers]:
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
