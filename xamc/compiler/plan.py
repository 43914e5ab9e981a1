"""What a compile would do and take, worked out from headers alone: no weight is read, nothing heavy is imported.

Bytes of files are computed exactly as the packed layouts are; memory and time are estimates from measured runs
(see `docs/benchmarks`), rounded up. `Plan.require_room` refuses what this machine can't hold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xamc.compiler.artifact.staging import free_bytes
from xamc.compiler.cache import default_cache_folder
from xamc.compiler.contract import ModelConfig, kv_bytes_per_token
from xamc.compiler.errors import InputError, MisuseError
from xamc.compiler.frontends import Checkpoint, open_checkpoint
from xamc.compiler.memory import available_bytes
from xamc.compiler.plan_files import PlannedFile, element_count, files_of, gear_files, static_files
from xamc.compiler.progress import duration, size
from xamc.compiler.running_memory import RunningMemory, cached_tokens, running_memory
from xamc.compiler.spec import KeyUse, LoadedSpec, Spec, key_uses, load_spec
from xamc.compiler.spec.model_kind import model_kind, require_supported
from xamc.compiler.spec.places import PlacedErrors
from xamc.compiler.stages.golden import SMALL_WEIGHTS
from xamc.compiler.stages.job import packing_workers
from xamc.compiler.stages.static_request import static_request
from xamc.compiler.stages.target_request import target_request
from xamc.compiler.static_plan import StaticPlan, static_plan
from xamc.compiler.verify.twin import twin_config
from xamc.targets.base import CAPS, TargetCaps
from xamc.targets.request import TargetRequest

if TYPE_CHECKING:
    from xamc.compiler.gear_plan import GearPlan

_MIB = 2**20

# Measured with this version on 2 cores at 2.5 GHz, and rounded up; see docs/benchmarks.
_BASE_BYTES = 160 * _MIB  # this process with its libraries and a graph
_EXPORT_BYTES = 450 * _MIB  # the exporting child: torch and a modeling file
_EXPORT_BYTES_PER_LAYER = 3 * _MIB
_CODEGEN_BYTES = 420 * _MIB  # the generating child: tvm, LLVM and the kernels
_CODEGEN_BYTES_PER_LAYER = 5 * _MIB
_PACKER_BYTES = 200 * _MIB  # one packing process with its blocks
_RUN_BYTES = 200 * _MIB  # the artifact's own run besides its weights, which are mapped
_GEAR_BYTES = 300 * _MIB  # ONNX Runtime on the twin, besides the scores of long prefills
_SCORE_BYTES_PER_SECOND = 100e6
_STREAMED_BYTES_PER_SECOND = 40e6  # one process that reads, converts and writes
_BUCKET_SECONDS, _BUCKET_SECONDS_PER_LAYER = 12.0, 0.4
_EXPORT_SECONDS, _EXPORT_SECONDS_PER_LAYER = 25.0, 0.8
_PROOF_SECONDS, _PROOF_SECONDS_PER_LAYER = 4.0, 0.1
_CODEGEN_SECONDS, _CODEGEN_SECONDS_PER_LAYER = 30.0, 0.5
_PACKED_PARAMETERS_PER_SECOND = 40e6  # of one process
_HASHED_BYTES_PER_SECOND = 400e6
_MULTIPLIED_PER_SECOND = 20e9  # products of the streamed model


@dataclass(frozen=True)
class PlannedStage:
    """One stage: what it will do, seconds and peak memory in bytes (estimates)."""

    name: str
    what: str
    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class PlannedPhase:
    """One phase and bucket; `tokens` says which lengths it takes."""

    kind: str
    tokens: str
    ranks: int


@dataclass(frozen=True)
class Plan:
    """What `make_plan` works out; sizes in bytes, times in seconds.

    Attributes:
        kind: what is compiled, see `model_kind`.
        peak_memory: largest need of any stage.
        peak_disk: what the compile adds at most to the disk: the artifact, which shares its large files with the
            stage cache. On different file systems both hold them.
        free_memory, free_disk: what this machine has now.
        kv_cache: bytes of the KV cache for `max_batch` sequences of full length.
        running: what one sequence of full length takes at run time, where that is known.
        where: the folder whose disk is meant.
        static: what every rank holds, for a target of static graphs on ranks.
        gears: the graphs of Ascend's ATC road.
        tuned: kernels whose tiles are known from an earlier search on this machine.
    """

    name: str
    kind: str
    target: str
    available: bool
    model: str
    parameters: int
    keys: tuple[KeyUse, ...]
    warnings: tuple[str, ...]
    stages: tuple[PlannedStage, ...]
    passes: tuple[str, ...]
    phases: tuple[PlannedPhase, ...]
    files: tuple[PlannedFile, ...]
    peak_memory: int
    peak_disk: int
    free_memory: int
    free_disk: int
    kv_cache: int
    running: RunningMemory | None
    where: Path
    static: StaticPlan | None = None
    gears: GearPlan | None = None
    tuned: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Time of all stages."""
        return sum(stage.seconds for stage in self.stages)

    def totals(self) -> tuple[str, ...]:
        """The last lines of the printed plan."""
        model = f"model    {self.model}, {self.parameters / 1e6:.0f} M parameters"
        if not self.available:
            return (
                model,
                f"{self.target} can't be compiled for yet; sizes are those of the weights as they are stored",
            )
        adds = f"; running adds {size(self.kv_cache)} of KV cache at full batch and length" if self.kv_cache else ""
        run = self.running
        lines = (
            ()
            if run is None
            else (
                f"running  ~{size(run.total)} for a sequence of {run.context} tokens: weights {size(run.weights)}, "
                f"{run.kv_dtype} KV cache {size(run.kv_sequence)}, the rest {size(run.activations + run.base)}",
            )
        )
        return (
            model,
            f"memory   ~{size(self.peak_memory)} while compiling, {size(self.free_memory)} available{adds}",
            *lines,
            *(f"tuned    {kernel}" for kernel in self.tuned),
            f"disk     {size(self.peak_disk)}, {size(self.free_disk)} free in {self.where}",
            f"time     ~{duration(self.seconds)} on 2 cores",
        )

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data for JSON."""
        fields = dataclasses.asdict(self) | {"where": str(self.where), "seconds": self.seconds}
        if self.static is not None:
            fields["static"]["graphs"] = [
                {**dataclasses.asdict(graph), "nbytes": graph.nbytes} for graph in self.static.graphs
            ]
        fields["keys"] = [{**dataclasses.asdict(use), "value": str(use.value)} for use in self.keys]
        return fields

    def require_dies(self, die_memory: int) -> None:
        """Refuse graphs that a die's memory can't hold.

        Args:
            die_memory: bytes of memory that every die has.

        Raises:
            InputError: E1712 naming every such graph and what it takes; E1713 for a target without dies.
        """
        if self.static is None:
            raise MisuseError(
                "E1713", f"{self.target} has no dies", fix="leave --die-memory out, or plan for backend.type: tvm_vacc"
            )
        large = self.static.too_large(die_memory)
        if large:
            names = ", ".join(f"{graph.bucket.name} ({size(graph.nbytes)})" for graph in large)
            raise InputError(
                "E1712",
                f"a die of {size(die_memory)} can't hold {names} of a rank",
                fix="raise frontend.model_kwargs.tp, shorten the lengths of frontend.shape.input_ids, or store weights "
                "or the KV cache in 8 bits",
            )

    def require_room(self) -> None:
        """Refuse what this machine can't hold.

        Raises:
            InputError: E1710 memory, E1711 disk.
        """
        if not self.available:
            return
        if self.peak_memory > self.free_memory:
            stage = max(self.stages, key=lambda stage: stage.peak_bytes)
            raise InputError(
                "E1710",
                f"compiling {self.name} takes about {size(self.peak_memory)} of memory (stage {stage.name}), "
                f"{size(self.free_memory)} are available",
                fix="end other programs, or set workspace.workers: 1",
            )
        if self.peak_disk > self.free_disk:
            raise InputError(
                "E1711",
                f"compiling {self.name} takes {size(self.peak_disk)} of disk, {size(self.free_disk)} are free in "
                f"{self.where}",
                fix="free space, or choose another disk with workspace.path; `xamc cache prune --max-size 0` frees "
                "what no artifact uses",
            )


def make_plan(
    source: Path | str | Mapping[str, Any],
    overrides: Sequence[str] = (),
    allow_rtn: bool = False,
    allow_pickle: bool = False,
) -> Plan:
    """Work out the plan of a spec.

    Args:
        source: a YAML file, or the same as a mapping.
        overrides: ``key.path=value`` strings, as of ``--set``.
        allow_rtn: as for a compile.
        allow_pickle: as for a compile.

    Raises:
        XamcError: what a compile would raise for the spec and the checkpoint's headers.
    """
    loaded = load_spec(source, overrides)
    with PlacedErrors(loaded):
        return _make_plan(loaded, allow_rtn, allow_pickle)


def _make_plan(loaded: LoadedSpec, allow_rtn: bool, allow_pickle: bool) -> Plan:
    spec = loaded.spec
    require_supported(spec)
    caps = CAPS[spec.backend.type]
    checkpoint = open_checkpoint(spec.frontend.checkpoint, spec.frontend.type, allow_pickle)
    config = checkpoint.config
    request = target_request(spec, caps, allow_rtn)[0] if caps.available else None
    static, gears = None, None
    if request is not None and not caps.dynamic_shapes:
        request = static_request(spec, caps, request)
    passes = _passes(spec, config, request, caps)
    if request is not None and request.atc is not None:
        from xamc.compiler.gear_plan import gear_plan  # it knows the graphs, and with them onnx

        gears = gear_plan(config, request)
        weights = gears.weights
        code_file, files = 0, tuple(gear_files(checkpoint, spec, gears))
    elif request is not None and not caps.dynamic_shapes:
        static = static_plan(config, request)
        weights = static.ranks * static.rank_bytes
        code_file, files = 0, tuple(static_files(checkpoint, static))
    else:
        code_file, files = files_of(checkpoint, spec, request, caps)
        weights = next(file.nbytes for file in files if file.path == "weights.bin")
    parameters = sum(element_count(tensor.shape) for tensor in checkpoint.tensors.values())
    workers = packing_workers(spec.workspace.workers)
    stages = tuple(_stages(spec, config, checkpoint, parameters, weights, workers, caps)) if caps.available else ()
    tuned: tuple[str, ...] = ()
    if request is not None and request.tune:
        from xamc.compiler.plan_tune import planned_tuning  # it knows the kernels, and with them NumPy

        kernels, what, seconds = planned_tuning(config, request)
        tuned = tuple(str(kernel) for kernel in kernels)
        stage = PlannedStage("tune", what, seconds, _BASE_BYTES + workers * _CODEGEN_BYTES)
        at = next(index for index, other in enumerate(stages) if other.name == "codegen")
        stages = (*stages[:at], stage, *stages[at:])
    destination = spec.workspace.path
    kv_dtype = "float16" if request is None else request.kv_dtype
    context = spec.context_limit or config.max_position_embeddings
    # an embedding model's graphs give no caches
    is_embedding = request is not None and request.is_embedding
    per_token = 0 if is_embedding else kv_bytes_per_token(config, kv_dtype)
    running = None
    if caps.available and caps.kv_layout == "in_place":
        running = running_memory(config, weights, context, spec.prefill_chunk, kv_dtype)
    rows = spec.runtime.max_batch if caps.dynamic_shapes else 1
    cached = cached_tokens(config, context, spec.prefill_chunk) if running is not None else context
    same_disk = _device(destination) == _device(default_cache_folder())
    return Plan(
        name=spec.name,
        kind=model_kind(spec).name,
        target=caps.name,
        available=caps.available,
        model=f"{config.model_type}, {config.num_layers} layers",
        parameters=parameters,
        keys=key_uses(loaded, caps.name),
        warnings=tuple(str(warning) for warning in loaded.warnings),
        stages=stages,
        passes=passes,
        phases=tuple(_phases(spec, caps, context)),
        files=files,
        peak_memory=max((stage.peak_bytes for stage in stages), default=0),
        peak_disk=sum(file.nbytes for file in files) + (0 if same_disk else weights + code_file),
        free_memory=available_bytes(),
        free_disk=free_bytes(destination),
        kv_cache=per_token * cached * rows,
        running=running,
        where=destination,
        static=static,
        gears=gears,
        tuned=tuned,
    )


def _stages(
    spec: Spec,
    config: ModelConfig,
    checkpoint: Checkpoint,
    parameters: int,
    weights: int,
    workers: int,
    caps: TargetCaps,
) -> Iterator[PlannedStage]:
    layers = config.num_layers
    proofs = spec.verify.passes == "each"
    inputs = sum(path.stat().st_size for path in checkpoint.files)
    yield PlannedStage("spec", "check the build file", 0.2, _BASE_BYTES)
    yield PlannedStage("frontend", f"read headers of {len(checkpoint.files)} files", 1.0, _BASE_BYTES)
    export = f"{layers} layers to ONNX" + (", and the twin" if proofs else "")
    seconds = (_EXPORT_SECONDS + _EXPORT_SECONDS_PER_LAYER * layers) * (1 if proofs else 0.6)
    yield PlannedStage("export", export, seconds, _BASE_BYTES + _EXPORT_BYTES + _EXPORT_BYTES_PER_LAYER * layers)
    what = "rewrite the graph" + (", prove each pass on the twin" if proofs else "")
    yield PlannedStage("passes", what, _PROOF_SECONDS + _PROOF_SECONDS_PER_LAYER * layers, _BASE_BYTES + 50 * _MIB)
    if not caps.dynamic_shapes or spec.runtime.kv_dtype == "int8":
        yield _values_stage(spec, config, checkpoint, parameters)
    if caps.name == "tvm_ascend":
        from xamc.compiler.gear_plan import MOST_GEAR_BYTES

        if proofs:
            # four copies of the scores of the longest prefill, in float32; see `verify.gears`
            scores = 4 * 4 * twin_config(config).num_heads * spec.prefill_chunk**2
            peak = _BASE_BYTES + _GEAR_BYTES + min(scores, MOST_GEAR_BYTES)
            yield PlannedStage("gears", "run every gear on the twin", 6.0 + scores / _SCORE_BYTES_PER_SECOND, peak)
        seconds = (inputs + weights) / _STREAMED_BYTES_PER_SECOND
        yield PlannedStage("onnx", f"read {size(inputs)}, write {size(weights)}", seconds, _BASE_BYTES + _PACKER_BYTES)
        golden = weights <= SMALL_WEIGHTS or spec.verify.final
        seconds = 2.0 + (inputs + weights) / _HASHED_BYTES_PER_SECOND + (30.0 if golden else 0.0)
        # ONNX Runtime widens every float16 weight to float32, beside the file
        peak = _BASE_BYTES + (_RUN_BYTES + 4 * weights if golden else 0)
        yield PlannedStage("publish", "hash, run once, rename" if golden else "hash, rename", seconds, peak)
        return
    if not caps.dynamic_shapes:
        buckets = len({*spec.prefill_lengths}) + len({*spec.total_lengths})
        seconds = buckets * (_BUCKET_SECONDS + _BUCKET_SECONDS_PER_LAYER * layers)
        peak = _BASE_BYTES + min(workers, buckets) * (_CODEGEN_BYTES + _CODEGEN_BYTES_PER_LAYER * layers)
        yield PlannedStage(
            "codegen", f"{buckets} graph{'s' if buckets > 1 else ''} for the host's simulator", seconds, peak
        )
    elif caps.kv_layout == "in_place":
        seconds = _CODEGEN_SECONDS + _CODEGEN_SECONDS_PER_LAYER * layers
        peak = _BASE_BYTES + _CODEGEN_BYTES + _CODEGEN_BYTES_PER_LAYER * layers
        yield PlannedStage("codegen", "lower, rewrite, generate kernels", seconds, peak)
    else:
        yield PlannedStage("codegen", "write the graph", 1.0, _BASE_BYTES)
    seconds = parameters / (_PACKED_PARAMETERS_PER_SECOND * workers)
    yield PlannedStage(
        "weights",
        f"read {size(inputs)}, write {size(weights)}, {workers} processes",
        seconds,
        _BASE_BYTES + workers * _PACKER_BYTES,
    )
    golden = weights <= SMALL_WEIGHTS or spec.verify.final
    seconds = 2.0 + (inputs + weights) / _HASHED_BYTES_PER_SECOND
    peak = _BASE_BYTES + (_RUN_BYTES + weights if golden else 0)
    yield PlannedStage("publish", "hash, run once, rename" if golden else "hash, rename", seconds, peak)


def _values_stage(spec: Spec, config: ModelConfig, checkpoint: Checkpoint, parameters: int) -> PlannedStage:
    """The checkpoint's own weights over a few prompts: values beyond float16, and what an int8 cache costs."""
    from xamc.compiler.stages.real_weights import NOT_RUN, PROMPTS, TOKENS, are_run

    if not are_run(spec, checkpoint):
        return PlannedStage("values", f"not run: {NOT_RUN}", 0.0, _BASE_BYTES)
    tokens = PROMPTS * TOKENS
    # one layer in float32, and torch
    peak = _BASE_BYTES + _EXPORT_BYTES + 4 * parameters // config.num_layers
    seconds = 4.0 + 2 * parameters * tokens / _MULTIPLIED_PER_SECOND
    return PlannedStage("values", f"run the weights over {tokens} tokens, layer by layer", seconds, peak)


def _passes(spec: Spec, config: ModelConfig, request: TargetRequest | None, caps: TargetCaps) -> tuple[str, ...]:
    """Names of the passes in order, without those the spec disables."""
    if request is None:
        return ()
    from xamc.passes.graph.key_bias_apart import has_key_biases
    from xamc.targets.registry import StaticTarget, target

    chosen = target(caps.name)
    chosen.check(request)
    if isinstance(chosen, StaticTarget):
        names = chosen.static_passes(request).names
        if request.kv_dtype == "int8":
            names.insert(names.index("shard"), "kv_int8")
            if request.unbiased_keys and has_key_biases(config):
                names.insert(names.index("weight_storage"), "key_bias_apart")
    else:
        names = [graph_pass.name for graph_pass in chosen.graph_passes(request)] + list(chosen.own_passes)
    return tuple(name for name in names if name not in spec.passes.disable)


def _phases(spec: Spec, caps: TargetCaps, context: int) -> Iterator[PlannedPhase]:
    if caps.dynamic_shapes:
        chunk = min(spec.prefill_chunk, context)
        yield PlannedPhase("prefill", f"1 to {chunk} a call, any number of calls", spec.tp)
        yield PlannedPhase("decode", f"1 a call, up to {context} in all", spec.tp)
        return
    for length in dict.fromkeys(spec.prefill_lengths):
        yield PlannedPhase("prefill", str(length), spec.tp)
    for length in dict.fromkeys(spec.total_lengths):
        yield PlannedPhase("decode", f"1 of {length}", spec.tp)


def _device(path: Path) -> int:
    """The file system of a folder, or of its nearest existing parent."""
    return next(place.stat().st_dev for place in (path, *path.absolute().parents) if place.exists())
