"""What compiles took on this machine, kept beside the stage cache, so that a plan says what the next one will take.

A recipe stands for all that a compile's stages depend on: the model's files, what the spec asks of the target, the
sources of xamc and the versions of its tools. For each recipe that was compiled there is a small file with the seconds
of every stage, made and taken from the cache, and the names of its cache entries::

    <cache>/compiles/<recipe>.json

Of another recipe nothing is known but how this machine's times compare to the estimates of `plan_stages`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from xamc.artifact.records import RecordError, from_json, to_json
from xamc.artifact.staging import write_file
from xamc.compiler.frontends import Checkpoint
from xamc.compiler.plan.stages import planned_stages
from xamc.compiler.spec import Spec
from xamc.errors import InputError
from xamc.ir.weights.fingerprint import file_identity
from xamc.jobs.cache import StageCache, StageKey, default_cache_folder, is_kept, tool_version
from xamc.jobs.import_closure import all_sources
from xamc.jobs.progress import StageRecord
from xamc.targets.kernels.isa import Isa
from xamc.targets.planned import PlannedStage, TargetPlan
from xamc.targets.request import Request

FOLDER = "compiles"
_TOOLS = ("apache-tvm", "torch", "transformers", "onnx", "onnx-ir", "onnxscript", "numpy")
# stages of the table whose results the cache keeps → the stages of their keys
_KEYS_OF = {
    "export": ("export",),
    "tune": ("problems", "tune"),
    "codegen": ("codegen", "proof", "kernel_proof", "reference"),
    "weights": ("weights",),
}
_KEPT = 64  # files; the oldest go
_TAKEN_SECONDS = 0.3  # to take a result from the cache, where that was never measured


@dataclass(frozen=True)
class Compiles:
    """What is known of a recipe.

    Attributes:
        made: stage → seconds when it ran.
        taken: stage → seconds when its result was in the cache.
        estimated: stage → seconds that were expected of it on a machine nothing is known of.
        keys: stage → names of its cache entries.
        target: what it was compiled for.
    """

    made: Mapping[str, float] = field(default_factory=dict)
    taken: Mapping[str, float] = field(default_factory=dict)
    estimated: Mapping[str, float] = field(default_factory=dict)
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    target: str = ""


def recipe(spec: Spec, request: Request, checkpoint: Checkpoint) -> str:
    """64 hex digits for what a compile's stages depend on.

    Raises:
        InputError: E1111, a file of the checkpoint is gone.
    """
    content = {
        "target": spec.backend.type,
        "request": to_json(request),
        "verify": to_json(spec.verify),
        "files": [file_identity(path) for path in checkpoint.files],
        "host": Isa.host().name,
        "sources": all_sources(),
        "tools": {tool: tool_version(tool) for tool in _TOOLS},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class Recording:
    """A compile whose times are kept when it has ended.

    Attributes:
        recipe: what it depends on.
        estimates: what was expected of it on a machine nothing is known of.
        target: what it is for.
    """

    recipe: str
    estimates: tuple[PlannedStage, ...]
    target: str

    @staticmethod
    def of(spec: Spec, request: Request, checkpoint: Checkpoint, planned: TargetPlan) -> Recording:
        """For the compile of a spec, of which the target planned this."""
        stages = planned_stages(spec, checkpoint, planned)
        return Recording(recipe(spec, request, checkpoint), tuple(stages), spec.backend.type)

    def keep(self, records: Iterable[StageRecord], cache: StageCache) -> None:
        """Keeps what the stages of a table took; a cache that can't be written is left as it is."""
        folder = cache.folder / FOLDER
        before = _read(folder / f"{self.recipe}.json") or Compiles()
        made, taken, keys = dict(before.made), dict(before.taken), dict(before.keys)
        missed = {key.stage for key in cache.misses}
        for record in records:
            stages = _KEYS_OF.get(record.name)
            found = tuple(str(key) for key in (*cache.hits, *cache.misses) if key.stage in (stages or ()))
            if found:
                keys[record.name] = found
            # what the cache does not keep is quick where everything else came from there: digests are known
            was_taken = not (missed & set(stages) if stages else missed)
            (taken if was_taken else made)[record.name] = record.seconds
        known = Compiles(made, taken, {stage.name: stage.seconds for stage in self.estimates}, keys, self.target)
        with contextlib.suppress(InputError, OSError):
            write_file(folder / f"{self.recipe}.json", lambda path: _write(path, known))
            for old in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)[_KEPT:]:
                old.unlink(missing_ok=True)


def measured(
    name: str, target: str, stages: Sequence[PlannedStage], export_key: StageKey
) -> tuple[tuple[PlannedStage, ...], str]:
    """The stages with the times of this machine, and in words where the times come from.

    Args:
        name: the recipe.
        target: what it is for; stages of one name take other times on other targets.
        stages: as estimated for a machine nothing is known of.
        export_key: the cache's key of the export, which models share that are compiled in other ways.
    """
    folder = default_cache_folder() / FOLDER
    known = _read(folder / f"{name}.json")
    others = [compiles for path in folder.glob("*.json") if (compiles := _read(path)) is not None]
    alike = [compiles for compiles in others if compiles.target == target]
    machine = _speeds(others).get("")
    speeds = _speeds(alike) or ({} if machine is None else {"": machine})
    shown = tuple(_measured(stage, known or Compiles(), speeds, export_key) for stage in stages)
    if known is not None:
        if all(stage.cached for stage in shown if stage.name in _KEYS_OF):
            shown = tuple(replace(stage, seconds=known.taken.get(stage.name, stage.seconds)) for stage in shown)
        return shown, "measured when it was compiled here before"
    if speeds:
        count = len(alike or others)
        return shown, f"estimated from {count} other compile{'s' if count > 1 else ''} on this machine"
    return shown, "estimated for 2 cores of 2.5 GHz; nothing has been compiled here yet"


def _measured(stage: PlannedStage, known: Compiles, speeds: Mapping[str, float], export_key: StageKey) -> PlannedStage:
    keys = (str(export_key),) if stage.name == "export" else known.keys.get(stage.name, ())
    if keys and all(map(is_kept, keys)):
        seconds = known.taken.get(stage.name, min(stage.seconds, _TAKEN_SECONDS))
        return replace(stage, seconds=seconds, cached=True, what=f"{stage.what}; taken from the stage cache")
    usual = speeds.get(stage.name, speeds.get("", 1.0))
    return replace(stage, seconds=known.made.get(stage.name, stage.seconds * usual))


def _speeds(compiles: Iterable[Compiles]) -> dict[str, float]:
    """Stage → seconds per estimated second, the median of all compiles; ``""`` for stages that never ran."""
    ratios: dict[str, list[float]] = {}
    for one in compiles:
        for stage, seconds in one.made.items():
            if one.estimated.get(stage, 0.0) > 0:
                ratios.setdefault(stage, []).append(seconds / one.estimated[stage])
    speeds = {stage: statistics.median(values) for stage, values in ratios.items()}
    # of the stages that take most of the time
    long = [speeds[stage] for stage in ("export", "codegen", "weights") if stage in speeds]
    return speeds | ({"": statistics.median(long)} if long else {})


def _read(path: Path) -> Compiles | None:
    """The file's content; None when there is none, or no such content."""
    try:
        return from_json(Compiles, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecordError):
        return None


def _write(path: Path, compiles: Compiles) -> None:
    content: Any = to_json(compiles)
    path.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
