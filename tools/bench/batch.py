"""`python -m tools.bench.batch`: tokens per second of a batch that decodes, beside what the machine allows.

Each batch is as many prompts of 64 different tokens, and 64 greedy tokens for each. A step reads the weights once for
all rows, and each row's keys and values: so a batch of two may be twice as fast as one as long as memory is the limit,
and no faster than its multiply-adds from there on. The roofline is the lower of both: the read bandwidth probed around
the measurement over the bytes of a step, and the arithmetic peak of the weights' width over its operations.

Batches take turns within a round. Results are for this machine; artifacts are those of the race, below build/bench.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from tools.bench.__main__ import SCRATCH, progress
from tools.bench.engines import BenchError, EngineChoice, Worker
from tools.bench.lineup import MODELS, Row
from tools.bench.machine import describe
from tools.bench.pages import level_pages, publish
from tools.bench.peers.prepare import Preparation
from tools.bench.probe import BandwidthProbe, Peak, arithmetic_peaks, compile_loops
from xamc.artifact.read import read_artifact
from xamc.model.kv_cache import kv_bytes_per_token

BATCHES = (1, 2, 4, 8)
PROMPT, NEW_TOKENS = 64, 64
WIDTHS = {"w4": 4, "w8": 8, "fp16": 16, "bf16": 16}
ADAPTER = "tools.bench.adapters.xamc_batch"


@dataclass(frozen=True)
class Work:
    """What a decode step takes.

    Attributes:
        weight_bytes: read once per step.
        row_bytes: keys and values that each row reads, at the middle of its answer.
        row_operations: a multiply-add is two.
    """

    weight_bytes: int
    row_bytes: int
    row_operations: int

    def limit(self, batch: int, bandwidth: float, peak: float) -> float:
        """The most tokens/s of a batch; bytes/s and operations/s of the machine, 0 where unknown."""
        seconds = 0.0
        if bandwidth:
            seconds = (self.weight_bytes + batch * self.row_bytes) / bandwidth
        if peak:
            seconds = max(seconds, batch * self.row_operations / peak)
        return batch / seconds if seconds else 0.0


@dataclass(frozen=True)
class Result:
    """One measurement.

    Attributes:
        model, weights, threads, batch, repeat: of what.
        tokens_per_s: of all rows together, behind each row's first.
        read_gb_per_s: the bandwidth probed around it, the mean of both probes.
        limit_tokens_per_s: the roofline.
        load: processes that wanted a CPU in the minute before, those of the measurement included.
        measured: when, UTC.
    """

    model: str
    weights: str
    threads: int
    batch: int
    repeat: int
    tokens_per_s: float
    read_gb_per_s: float
    limit_tokens_per_s: float
    load: float
    measured: str


def work_of(engine: EngineChoice) -> Work:
    """From the artifact's manifest."""
    manifest = read_artifact(engine.path).manifest
    model = manifest.model
    matrices = engine.layers_count + model.vocab_size * model.hidden_size
    context = PROMPT + NEW_TOKENS // 2
    return Work(engine.token_bytes, context * kv_bytes_per_token(model, manifest.kv.dtype), 2 * matrices)


def peak_of(width: int, threads: int, peaks: Sequence[Peak]) -> float:
    """The highest peak that weights of a width admit: integers below 16 bits."""
    kinds = ("bf16", "fp32") if width >= 16 else ("int8", "bf16", "fp32")
    return max((p.rate for p in peaks if p.kind in kinds and p.threads == threads), default=0.0)


def measure(
    engine: EngineChoice,
    threads: int,
    batches: Sequence[int],
    repeats: int,
    probe: BandwidthProbe,
    peak: float,
    say: Callable[[str], None],
) -> list[Result]:
    """Rounds of all batches in turn, in one process; a first, unrecorded round warms it up."""
    work, found = work_of(engine), []
    vocabulary = read_artifact(engine.path).manifest.model.vocab_size
    with Worker(engine, threads, SCRATCH / "batch.log") as worker:
        worker.ask(do="load")
        for repeat in range(-1, repeats):
            for batch in batches:
                say(f"{engine.model} {engine.weights}, {threads} threads, round {repeat + 1}: batch {batch}")
                rows = [[(7919 * (31 * row + at) + 101) % vocabulary for at in range(PROMPT)] for row in range(batch)]
                if repeat < 0:
                    worker.ask(do="generate", ids=rows, new_tokens=4, seconds=0)
                    continue
                before = probe.gigabytes_per_s(threads)
                answer = worker.ask(do="generate", ids=rows, new_tokens=NEW_TOKENS, seconds=0)
                read = (before + probe.gigabytes_per_s(threads)) / 2
                rate = batch * (NEW_TOKENS - 1) / answer["rest_seconds"]
                found.append(
                    Result(
                        engine.model,
                        engine.weights,
                        threads,
                        batch,
                        repeat,
                        round(rate, 2),
                        round(read, 2),
                        round(work.limit(batch, read * 1e9, peak), 2),
                        round(os.getloadavg()[0], 1),
                        time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
                    )
                )
    return found


def table(results: Sequence[Result]) -> list[str]:
    """The lines of one model, kind of weights and number of threads: medians, and the median fraction of the limit."""
    lines = ["| batch | tok/s in all (smallest–largest) | to batch 1 | roofline tok/s | of roofline | load |"]
    lines.append("|---:|---:|---:|---:|---:|---:|")
    medians = {
        batch: statistics.median(r.tokens_per_s for r in results if r.batch == batch)
        for batch in sorted({r.batch for r in results})
    }
    for batch, median in medians.items():
        mine = [r for r in results if r.batch == batch]
        rates = [r.tokens_per_s for r in mine]
        limits = [r for r in mine if r.limit_tokens_per_s]
        share = statistics.median(r.tokens_per_s / r.limit_tokens_per_s for r in limits) if limits else 0.0
        limit = statistics.median(r.limit_tokens_per_s for r in mine)
        ratio = f"{median / medians[1]:.2f}x" if 1 in medians else "–"
        load = statistics.median(r.load for r in mine)
        lines.append(
            f"| {batch} | {median:,.0f} ({min(rates):,.0f}–{max(rates):,.0f}) | {ratio} | {limit:,.0f} | {share:.0%} "
            f"| {load:.0f} |"
        )
    return lines


def page(results: Sequence[Result], peaks: Sequence[Peak], machine: dict[str, str]) -> str:
    """The page of `docs/benchmarks`."""
    lines = [
        "# Batch decode: tokens per second in all",
        "",
        "Written by `make bench BENCH=batch`; raw values are in [batch.csv](batch.csv). On this machine: "
        + ", ".join(f"{name} {value}" for name, value in machine.items())
        + ".",
        "",
        f"Prompts of {PROMPT} tokens and {NEW_TOKENS} greedy tokens for each row; medians of rounds in which all",
        "batches took turns. The roofline is the lower of two limits: read bandwidth, probed around each measurement,",
        "over the bytes of a step (weights once, keys and values of every row), and the arithmetic peak over its",
        "operations. Load is how many processes wanted a CPU meanwhile: far above the number of threads, these numbers",
        "mean little.",
        "",
        *(f"- {p.kind}, {p.threads} threads: {p.rate / 1e9:,.0f} G operations/s by {p.instruction}" for p in peaks),
        "",
    ]
    for model, weights, threads in dict.fromkeys((r.model, r.weights, r.threads) for r in results):
        mine = [r for r in results if (r.model, r.weights, r.threads) == (model, weights, threads)]
        lines += [f"## {model}, {weights} weights, {threads} threads", "", *table(mine), ""]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 1 when an engine failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    keys = [model.key for model in MODELS]
    parser.add_argument("--models", nargs="+", choices=keys, default=keys)
    parser.add_argument("--weights", nargs="+", choices=WIDTHS, default=["w4", "w8", "fp16"])
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--threads", nargs="+", type=int, default=[2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--artifact", type=Path, help="measure this artifact instead; it must be of the one model named"
    )
    parser.add_argument("--out", type=Path, default=level_pages(), help="folder of batch.csv and batch.md")
    options = parser.parse_args(arguments)
    SCRATCH.mkdir(parents=True, exist_ok=True)
    loops = compile_loops(SCRATCH)
    peaks, probe = arithmetic_peaks(loops, options.threads), BandwidthProbe(loops=loops)
    results: list[Result] = []
    try:
        with progress() as say:
            for model in (model for model in MODELS if model.key in options.models):
                for weights in options.weights:
                    engine = _engine(model.key, weights, options.artifact, say)
                    for threads in options.threads:
                        peak = peak_of(WIDTHS[weights], threads, peaks)
                        results += measure(engine, threads, options.batches, options.repeats, probe, peak, say)
    except BenchError as error:
        print(f"tools.bench.batch: {error}", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "batch.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Result)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(result) for result in results)
    text = page(results, peaks, describe())
    (options.out / "batch.md").write_text(text, encoding="utf-8")
    if options.out == level_pages():
        publish()
    print("\n".join(line for line in text.splitlines() if line.startswith(("|", "#"))))
    return 0


def _engine(model: str, weights: str, artifact: Path | None, say: Callable[[str], None]) -> EngineChoice:
    """The race's artifact, behind the adapter for batches."""
    preparation = Preparation(next(m for m in MODELS if m.key == model), say)
    choice = preparation.choice(Row("xamc", weights, WIDTHS[weights]))
    return replace(choice, kind=ADAPTER, path=artifact or choice.path)


if __name__ == "__main__":
    sys.exit(main())
