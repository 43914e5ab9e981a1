"""Weights: streamed from the checkpoint, quantized and packed into one file, which the cache keeps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from xamc.artifact.manifest import Weights, plan_layout
from xamc.artifact.records import to_json
from xamc.compiler.stages.job import Job
from xamc.ir.weights.fingerprint import fingerprint, reading_modules
from xamc.jobs.cache import stage_key
from xamc.jobs.progress import Stage
from xamc.targets.pack_weights import pack_weights
from xamc.targets.request import Generated

FILE = "weights.bin"
_PACKING = "xamc.targets.pack_weights:pack_weights"


@dataclass(frozen=True)
class WrittenWeights:
    """The weights file in the cache, and its table for the manifest."""

    path: Path
    table: Weights


def write_weights(job: Job, generated: Generated, stage: Stage) -> WrittenWeights:
    """Writes the weights file, or takes it from the cache.

    Raises:
        InputError: what reading the checkpoint finds (damage, NaN, float16 overflow), or a full disk.
    """
    entries, nbytes = plan_layout(generated.buffers)
    table = Weights(FILE, nbytes, entries)
    inputs = {
        "buffers": [to_json(entry) for entry in entries],
        "weights": [
            {
                "sources": [fingerprint(tensor) for _, tensor in weight.sources],
                "format": None if weight.layout is None else to_json(weight.layout.format),
                "offsets": list(weight.offsets),
            }
            for weight in generated.weights
        ],
    }
    sources = (tensor for weight in generated.weights for _, tensor in weight.sources)
    key = stage_key("weights", __name__, (_PACKING, *reading_modules(sources)), inputs)
    total = sum(weight.parameters for weight in generated.weights)

    def build(folder: Path) -> None:
        done = 0

        def advance(parameters: int) -> None:
            nonlocal done
            done += parameters
            stage.progress(done, total, "parameters")

        # a process costs half a second to start: one is enough for a small model
        workers = job.workers if total > 50_000_000 else 1
        pack_weights(generated.weights, nbytes, folder / FILE, workers, advance)

    folder = job.cache.get(key) or job.cache.publish(key, build)
    return WrittenWeights(folder / FILE, table)
