"""What a target is: the one protocol that the compiler drives, and what goes in and out of it.

A target is a package: ``caps.py`` with its ``CAPS``, ``keys.py`` with its ``KEYS``, both read whenever a spec is, and
``target.py`` with its ``TARGET``, imported when something is planned or compiled for it. `xamc.targets.registry` is
told the package's name, and nothing else has to know it. docs/add-a-target.md walks through one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from xamc.jobs.cache import StageCache
from xamc.jobs.progress import Progress
from xamc.model.config import ModelConfig
from xamc.passes.pipeline import Pipeline
from xamc.targets.caps import TargetCaps
from xamc.targets.onnx_target import OnnxTarget
from xamc.targets.planned import PlannedModel, TargetPlan
from xamc.targets.request import Request, TargetOptions
from xamc.verify.driver import Rewritten

R = TypeVar("R", bound=Request)


@dataclass(frozen=True)
class Work(Generic[R]):
    """What a target makes an artifact of.

    Attributes:
        name: of the model, as in the spec.
        request: what the target read of the spec.
        config: the model's.
        rewritten: the program after the target's passes, of each bucket and rank where there are such, and its twin.
        context_limit, prefill_chunk, max_batch: tokens of a sequence and of a prefill call, and sequences at once.
        expect: `passes.expect`, for passes that the target runs itself.
        folder: of the artifact, for large files that are not worth a copy; `Built.files` names them all the same.
        cache: where results of stages are kept.
        progress: where the target's own stages show.
        workers: processes that may work at the same time.
        dump: folder for readable IR, or None.
    """

    name: str
    request: R
    config: ModelConfig
    rewritten: Rewritten
    context_limit: int
    prefill_chunk: int
    max_batch: int
    expect: Mapping[str, int]
    folder: Path
    cache: StageCache
    progress: Progress
    workers: int
    dump: Path | None


@dataclass(frozen=True)
class Built:
    """What a target made.

    Attributes:
        files: path in the artifact → its content, or a file: of the stage cache, or one that lies there already.
        fields: of the manifest: all but those that say where the model comes from.
        weights: bytes of all weights; small models are run at once.
        report: entries of the build report.
        answers: whether the artifact gives logits, which can be compared.
        notes: what is said of the artifact at the end: when it was run, and when it was not.
    """

    files: Mapping[str, Path | bytes]
    fields: Mapping[str, Any]
    weights: int
    report: Mapping[str, Any] = field(default_factory=dict)
    answers: bool = True
    notes: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Target(Generic[R]):
    """One target. The compiler calls its functions from top to bottom, the first three also for `xamc plan`.

    Attributes:
        caps: what it can do.
        request: what it reads of a spec; refuses, before anything is exported, what it could not build.
        passes: the graph passes of a request.
        plan: what `build` would write and take, from headers alone.
        build: makes the artifact's files and says what the manifest says of them; shows its stages in `Work.progress`.
        onnx: how it takes models of `frontend.type: onnx`; None where it takes none.

    Each raises errors of ours; nothing is published then.
    """

    caps: TargetCaps
    request: Callable[[TargetOptions], R]
    passes: Callable[[R], Pipeline]
    plan: Callable[[PlannedModel, R], TargetPlan]
    build: Callable[[Work[R]], Built]
    onnx: OnnxTarget | None = None
