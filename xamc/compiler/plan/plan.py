"""What a compile would do and take, worked out from headers alone: no weight is read, nothing heavy is imported.

Bytes of files are computed exactly as the packed layouts are; memory and time are estimates from measured runs
(see `docs/benchmarks`), rounded up. `Plan.require_room` refuses what this machine can't hold.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xamc.artifact.staging import free_bytes
from xamc.compiler.frontends import open_checkpoint
from xamc.compiler.plan.compile_times import measured, recipe
from xamc.compiler.plan.disk_space import needed_bytes, require_disk, require_permission
from xamc.compiler.plan.files import plan_for_target
from xamc.compiler.plan.stages import planned_stages
from xamc.compiler.spec import KeyUse, LoadedSpec, Spec, SpecWarning, key_uses, load_spec
from xamc.compiler.spec.locations import LocatedErrors
from xamc.compiler.spec.model_kind import model_kind, require_supported
from xamc.compiler.spec.problems import to_json
from xamc.compiler.stages.context import context_lengths, length_warnings
from xamc.compiler.stages.export import export_key, twin_group
from xamc.compiler.stages.group_sizes import require_group_size
from xamc.compiler.stages.target_options import target_options
from xamc.errors import InputError, MisuseError
from xamc.jobs.memory import available_bytes
from xamc.jobs.progress import duration, size
from xamc.model.config import ModelConfig
from xamc.passes.runner import require_known_names
from xamc.targets.planned import PlannedFile, PlannedStage, RunningMemory, Table
from xamc.targets.registry import CAPS
from xamc.targets.registry import target as target_named


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
        warnings: of the spec, then of the checkpoint, the lengths and this machine.
        ignored_keys: keys of config.json that have no effect.
        dies, tables, lines, facts: of the target, see `TargetPlan`.
        times: where the stages' times come from, in words.
    """

    name: str
    kind: str
    target: str
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
    dies: tuple[tuple[str, int], ...] | None = None
    tables: tuple[Table, ...] = ()
    lines: tuple[str, ...] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ignored_keys: tuple[str, ...] = ()
    times: str = ""

    @property
    def seconds(self) -> float:
        """Time of all stages."""
        return sum(stage.seconds for stage in self.stages)

    def totals(self) -> tuple[str, ...]:
        """The last lines of the printed plan."""
        model = f"model    {self.model}, {self.parameters / 1e6:.0f} M parameters"
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
            *self.lines,
            f"disk     {size(self.peak_disk)}, {size(self.free_disk)} free in {self.where}",
            f"time     ~{duration(self.seconds)}, {self.times}",
        )

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data for JSON."""
        fields = dataclasses.asdict(self) | {"where": str(self.where), "seconds": self.seconds}
        for shown in ("dies", "tables", "lines"):
            del fields[shown]
        fields |= fields.pop("facts")
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
        if self.dies is None:
            raise MisuseError(
                "E1713", f"{self.target} has no dies", fix="leave --die-memory out, or plan for backend.type: tvm_vacc"
            )
        large = [(graph, nbytes) for graph, nbytes in self.dies if nbytes > die_memory]
        if large:
            names = ", ".join(f"{graph} ({size(nbytes)})" for graph, nbytes in large)
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
    target = target_named(spec.backend.type)
    checkpoint = open_checkpoint(spec.frontend.checkpoint, spec.frontend.type, allow_pickle)
    config = checkpoint.config
    request = target.request(target_options(spec, target.caps, allow_rtn)[0])
    require_group_size(checkpoint, request.quantize)
    pipeline = target.passes(request)
    require_known_names(spec.passes.disable, spec.passes.expect, pipeline.names, pipeline.required)
    planned = plan_for_target(target, request, spec, checkpoint, in_full=True)
    key = export_key(config, spec.verify.passes == "each", twin_group(request), request.tp)
    estimated = tuple(planned_stages(spec, checkpoint, planned))
    stages, where_from = measured(recipe(spec, request, checkpoint), spec.backend.type, estimated, key)
    running = planned.running
    texts = (
        *checkpoint.warnings,
        *length_warnings(spec, config),
        *_too_large(planned.weights if running is None else running.total),
    )
    return Plan(
        name=spec.name,
        kind=model_kind(spec).name,
        target=spec.backend.type,
        model=f"{config.model_type}, {config.num_layers} layers",
        parameters=sum(math.prod(tensor.shape) for tensor in checkpoint.tensors.values()),
        keys=key_uses(loaded, spec.backend.type),
        warnings=(*loaded.warnings, *(SpecWarning("", text) for text in texts)),
        ignored_keys=checkpoint.ignored_keys,
        stages=stages,
        passes=tuple(name for name in pipeline.names if name not in spec.passes.disable),
        phases=tuple(_phases(spec, config)),
        files=planned.files,
        peak_memory=max((stage.peak_bytes for stage in stages), default=0),
        peak_disk=needed_bytes(planned, spec.workspace.path),
        free_memory=available_bytes(),
        free_disk=free_bytes(spec.workspace.path),
        kv_cache=planned.kv_cache,
        running=running,
        where=spec.workspace.path,
        dies=planned.dies,
        tables=planned.tables,
        lines=planned.lines,
        facts=planned.facts,
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


def _phases(spec: Spec, config: ModelConfig) -> Iterator[PlannedPhase]:
    if CAPS[spec.backend.type].dynamic_shapes:
        limit, chunk = context_lengths(spec, config)
        yield PlannedPhase("prefill", f"1 to {chunk} a call, any number of calls", spec.tp)
        yield PlannedPhase("decode", f"1 a call, up to {limit} in all", spec.tp)
        return
    for length in dict.fromkeys(spec.prefill_lengths):
        yield PlannedPhase("prefill", str(length), spec.tp)
    for length in dict.fromkeys(spec.total_lengths):
        yield PlannedPhase("decode", f"1 of {length}", spec.tp)
