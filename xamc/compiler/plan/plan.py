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

from xamc.artifact.manifest import Arithmetic
from xamc.artifact.staging import free_bytes
from xamc.compiler.frontends import open_checkpoint
from xamc.compiler.plan.disk_space import needed_bytes, require_disk, require_permission
from xamc.compiler.plan.files import PlannedFile, parameter_count, planned_files
from xamc.compiler.plan.ranks import StaticPlan
from xamc.compiler.plan.running_memory import RunningMemory, cached_tokens, running_memory
from xamc.compiler.plan.stages import BASE_BYTES, CODEGEN_BYTES, PlannedStage, planned_stages
from xamc.compiler.spec import KeyUse, LoadedSpec, Spec, SpecWarning, key_uses, load_spec
from xamc.compiler.spec.locations import LocatedErrors
from xamc.compiler.spec.model_kind import model_kind, require_supported
from xamc.compiler.spec.problems import to_json
from xamc.compiler.stages.context import length_warnings
from xamc.compiler.stages.group_sizes import require_group_size
from xamc.compiler.stages.job import packing_workers
from xamc.compiler.stages.static_request import static_request
from xamc.compiler.stages.target_request import target_request
from xamc.errors import InputError, MisuseError
from xamc.jobs.memory import available_bytes
from xamc.jobs.progress import duration, size
from xamc.model.config import ModelConfig
from xamc.model.kv_cache import kv_bytes_per_token
from xamc.model.parameters import has_key_biases
from xamc.targets.base import CAPS, TargetCaps
from xamc.targets.request import TargetRequest

if TYPE_CHECKING:
    from xamc.compiler.plan.gears import GearPlan

_MIB = 2**20


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
        warnings: of the spec, then of the checkpoint, the lengths and this machine.
        ignored_keys: keys of config.json that have no effect.
        tuned: kernels whose tiles are known from an earlier search on this machine.
        arithmetic: CPU level → what its linear layers multiply in, where the target has a choice.
        times: where the stages' times come from, in words.
    """

    name: str
    kind: str
    target: str
    available: bool
    model: str
    parameters: int
    keys: tuple[KeyUse, ...]
    warnings: tuple[SpecWarning, ...]
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
    arithmetic: Mapping[str, Arithmetic] = dataclasses.field(default_factory=dict)
    ignored_keys: tuple[str, ...] = ()
    times: str = ""

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
            *(f"multiply {level}: {arithmetic}" for level, arithmetic in self.arithmetic.items()),
            *(f"tuned    {kernel}" for kernel in self.tuned),
            f"disk     {size(self.peak_disk)}, {size(self.free_disk)} free in {self.where}",
            f"time     ~{duration(self.seconds)}, {self.times}",
        )

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data for JSON."""
        fields = dataclasses.asdict(self) | {"where": str(self.where), "seconds": self.seconds}
        if self.static is not None:
            fields["static"]["graphs"] = [
                {**dataclasses.asdict(graph), "nbytes": graph.nbytes} for graph in self.static.graphs
            ]
        fields["warnings"] = to_json(self.warnings)["warnings"]
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
            InputError: E1710 memory, E1711 disk, E1507 a folder that can't be written.
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
        require_disk(self.name, self.peak_disk, self.free_disk, self.where)
        require_permission(self.where)


def make_plan(
    source: Path | str | Mapping[str, Any] | LoadedSpec,
    overrides: Sequence[str] = (),
    allow_rtn: bool = False,
    allow_pickle: bool = False,
) -> Plan:
    """Work out the plan of a spec.

    Args:
        source: a YAML file, the same as a mapping, or what was read of either.
        overrides: ``key.path=value`` strings, as of ``--set``; not for what was read before.
        allow_rtn: as for a compile.
        allow_pickle: as for a compile.

    Raises:
        XamcError: what a compile would raise for the spec and the checkpoint's headers.
    """
    loaded = source if isinstance(source, LoadedSpec) else load_spec(source, overrides)
    with LocatedErrors(loaded):
        return _make_plan(loaded, allow_rtn, allow_pickle)


def _make_plan(loaded: LoadedSpec, allow_rtn: bool, allow_pickle: bool) -> Plan:
    spec = loaded.spec
    require_supported(spec)
    caps = CAPS[spec.backend.type]
    checkpoint = open_checkpoint(spec.frontend.checkpoint, spec.frontend.type, allow_pickle)
    config = checkpoint.config
    request = target_request(spec, caps, allow_rtn)[0] if caps.available else None
    if request is not None:
        require_group_size(checkpoint, request.quantize)
    if request is not None and not caps.dynamic_shapes:
        request = static_request(spec, caps, request)
    passes = _passes(spec, config, request, caps)
    planned = planned_files(checkpoint, spec, request, caps)
    weights, static, gears = planned.weights, planned.static, planned.gears
    parameters = parameter_count(checkpoint)
    workers = packing_workers(spec.workspace.workers)
    stages = tuple(planned_stages(spec, checkpoint, weights, workers, caps)) if caps.available else ()
    tuned: tuple[str, ...] = ()
    if request is not None and request.tune:
        from xamc.compiler.plan.tune import planned_tuning  # it knows the kernels, and with them NumPy

        kernels, what, seconds = planned_tuning(config, request)
        tuned = tuple(str(kernel) for kernel in kernels)
        stage = PlannedStage("tune", what, seconds, BASE_BYTES + workers * CODEGEN_BYTES)
        at = next(index for index, other in enumerate(stages) if other.name == "codegen")
        stages = (*stages[:at], stage, *stages[at:])
    arithmetic: dict[str, Arithmetic] = {}
    if request is not None and len(caps.activations) > 1:
        from xamc.targets.cpu.arithmetic import level_arithmetic
        from xamc.targets.kernels.isa import Isa

        arithmetic = {isa.name: level_arithmetic(isa, request) for isa in Isa.rising(request.cpu_levels)}
    where_from = ""
    if request is not None:
        from xamc.compiler.plan.compile_times import measured, recipe
        from xamc.compiler.stages.export import export_key, twin_group

        key = export_key(config, spec.verify.passes == "each", twin_group(request), request.tp)
        stages, where_from = measured(recipe(spec, request, checkpoint), caps.name, stages, key)
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
    return Plan(
        name=spec.name,
        kind=model_kind(spec).name,
        target=caps.name,
        available=caps.available,
        model=f"{config.model_type}, {config.num_layers} layers",
        parameters=parameters,
        keys=key_uses(loaded, caps.name),
        warnings=(
            *loaded.warnings,
            *(SpecWarning("", text) for text in checkpoint.warnings),
            *(SpecWarning("", text) for text in length_warnings(spec, config, request)),
            *(SpecWarning("", text) for text in _too_large(weights if running is None else running.total)),
        ),
        ignored_keys=checkpoint.ignored_keys,
        stages=stages,
        passes=passes,
        phases=tuple(_phases(spec, caps, context)),
        files=planned.files,
        peak_memory=max((stage.peak_bytes for stage in stages), default=0),
        peak_disk=needed_bytes(planned, destination),
        free_memory=available_bytes(),
        free_disk=free_bytes(destination),
        kv_cache=per_token * cached * rows,
        running=running,
        where=destination,
        static=static,
        gears=gears,
        tuned=tuned,
        arithmetic=arithmetic,
        times=where_from,
    )


def _too_large(nbytes: int) -> Iterator[str]:
    """A warning about an artifact that this machine can compile, streaming its weights, and can't run."""
    available = available_bytes()
    if nbytes > available:
        yield (
            f"running the artifact on this machine takes about {size(nbytes)} of memory, {size(available)} are "
            "available: store fewer bits, or run it on another"
        )


def _passes(spec: Spec, config: ModelConfig, request: TargetRequest | None, caps: TargetCaps) -> tuple[str, ...]:
    """Names of the passes in order, without those the spec disables."""
    if request is None:
        return ()
    from xamc.compiler.stages.pass_names import (  # they know the passes, and with them onnx
        pass_names,
        require_pass_names,
    )
    from xamc.targets.registry import StaticTarget, target

    chosen = target(caps.name)
    chosen.check(request)
    require_pass_names(spec, chosen, request)
    names = pass_names(chosen, request)
    if isinstance(chosen, StaticTarget) and request.kv_dtype == "int8":
        names.insert(names.index("shard"), "kv_int8")
        if request.unbiased_keys and has_key_biases(config):
            names.insert(names.index("weight_storage"), "key_bias_apart")
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
