"""Weights: streamed from the checkpoint, quantized and packed into one file, which the cache keeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xamc.artifact.manifest import Weights, plan_layout
from xamc.artifact.records import to_json
from xamc.ir.weights.fingerprint import fingerprint, reading_modules
from xamc.jobs.cache import stage_key
from xamc.jobs.progress import size
from xamc.targets.pack_weights import PackedWeight, pack_weights
from xamc.targets.stored_bytes import WEIGHTS_FILE
from xamc.targets.target import Work

_PACKING = "xamc.targets.pack_weights:pack_weights"

Buffers = tuple[tuple[str, str, tuple[int, ...]], ...]
"""(name, dtype, shape) of every buffer of the weights file, in order."""


def write_weights(work: Work[Any], buffers: Buffers, weights: Sequence[PackedWeight]) -> tuple[Path, Weights]:
    """The stage that writes the weights file, or takes it from the cache; the file, and its table for the manifest.

    Raises:
        InputError: what reading the checkpoint finds (damage, NaN, float16 overflow), or a full disk.
    """
    entries, nbytes = plan_layout(buffers)
    table = Weights(WEIGHTS_FILE, nbytes, entries)
    inputs = {
        "buffers": [to_json(entry) for entry in entries],
        "weights": [
            {
                "sources": [fingerprint(tensor) for _, tensor in weight.sources],
                "format": None if weight.layout is None else to_json(weight.layout.format),
                "offsets": list(weight.offsets),
            }
            for weight in weights
        ],
    }
    sources = (tensor for weight in weights for _, tensor in weight.sources)
    total = sum(weight.parameters for weight in weights)
    with work.progress.stage("weights") as stage:
        key = stage_key("weights", __name__, (_PACKING, *reading_modules(sources)), inputs)

        def build(folder: Path) -> None:
            # a process costs half a second to start: one is enough for a small model
            workers = work.workers if total > 50_000_000 else 1
            pack_weights(weights, nbytes, folder / WEIGHTS_FILE, workers, stage.counter(total, "parameters"))

        folder = work.cache.get(key) or work.cache.publish(key, build)
        stage.result(f"{total / 1e6:.0f} M parameters in {size(nbytes)}", work.cache.state("weights"))
    return folder / WEIGHTS_FILE, table
