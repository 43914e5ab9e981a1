"""Fidelity: how far each artifact is from transformers in fp32, over real text.

At every position both give a distribution of the next token. Reported per artifact, over all positions:

- KL divergence Σ p·ln(p/q) in nats, p transformers fp32, q the artifact: mean and 99th percentile (Kullback and
  Leibler, 1951);
- top-1 agreement: share of positions where both have the same likeliest token;
- perplexity exp(mean -ln q(next token of the text)), and the reference's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.bench.corpus import I64
from tools.bench.engines import EngineChoice, Worker

WINDOWS, WINDOW = 8, 512
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Fidelity:
    """One engine's distance from the reference.

    Attributes:
        engine: as in tables.
        positions: how many were compared.
        mean_kl, p99_kl: KL divergence in nats.
        top1: share of equal likeliest tokens, 0 to 1.
        perplexity: over the text; the last token of a window has no successor and is left out.
    """

    engine: str
    positions: int
    mean_kl: float
    p99_kl: float
    top1: float
    perplexity: float


def log_softmax(logits: NDArray[np.floating[Any]]) -> F64:
    """Natural logarithms of the probabilities, in float64: float32 would show its own rounding in small divergences.

    Args:
        logits: [T, V].
    """
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: F64 = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def compare(engine: str, reference: Any, logits: Any, ids: I64, block: int = 64) -> Fidelity:
    """Distance of `logits` from `reference`.

    Args:
        engine: name.
        reference: float32[N, T, V]; may be mapped from a file.
        logits: like it.
        ids: int64[N, T], the text.
        block: positions at a time, which bounds memory.
    """
    divergences, same, losses = [], [], []
    for row in range(len(ids)):
        for start in range(0, ids.shape[1], block):
            stop = min(start + block, ids.shape[1])
            expected, got = log_softmax(reference[row, start:stop]), log_softmax(logits[row, start:stop])
            divergences.append((np.exp(expected) * (expected - got)).sum(axis=-1))
            same.append(expected.argmax(axis=-1) == got.argmax(axis=-1))
            following = ids[row, start + 1 : stop + 1]
            losses.append(-got[np.arange(len(following)), following])
    divergence = np.concatenate(divergences)
    return Fidelity(
        engine=engine,
        positions=len(divergence),
        mean_kl=float(divergence.mean()),
        p99_kl=float(np.percentile(divergence, 99)),
        top1=float(np.concatenate(same).mean()),
        perplexity=float(np.exp(np.concatenate(losses).mean())),
    )


def measure_fidelity(
    reference: EngineChoice,
    engines: Sequence[EngineChoice],
    ids: I64,
    folder: Path,
    threads: int,
    say: Callable[[str], None],
) -> list[Fidelity]:
    """Runs the reference once, then every engine, each in its own process, on the same windows.

    Args:
        reference: transformers fp32.
        engines: what is compared with it.
        ids: int64[N, T].
        folder: scratch for logits, N·T·V·4 bytes twice.
        threads: of every engine.
        say: shows progress.
    """
    expected = folder / "reference.npy"
    got = folder / "logits.npy"
    log = folder / "fidelity.log"
    results = []
    try:
        say(f"fidelity: {reference.name}")
        logits_of(reference, ids, expected, threads, log)
        values = np.load(expected, mmap_mode="r")
        results.append(compare(reference.name, values, values, ids))
        for engine in engines:
            say(f"fidelity: {engine.name}")
            logits_of(engine, ids, got, threads, log)
            results.append(compare(engine.name, values, np.load(got, mmap_mode="r"), ids))
    finally:
        for file in (expected, got):
            file.unlink(missing_ok=True)
    return results


def logits_of(engine: EngineChoice, ids: I64, out: Path, threads: int, log: Path) -> None:
    """Saves an engine's logits of the rows of `ids`, float32[N, T, V], to the file `out`, from a process of its own."""
    with Worker(engine, threads, log) as worker:
        worker.ask(do="load")
        worker.ask(do="logits", ids=ids.tolist(), out=str(out))
