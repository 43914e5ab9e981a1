"""`make bench`: compiles SmolLM2-135M, measures its speed and fidelity next to transformers, and writes the pages.

    python -m tools.bench                            # everything; results go to docs/benchmarks
    python -m tools.bench --repeats 1 --out build/try --engines w4 --peers bf16 --threads 2

An interrupted run goes on where it stopped, by whole rounds, as long as machine, packages and artifacts are the same;
``--fresh`` begins again.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from rich.console import Console

from tools.bench import corpus, tables
from tools.bench.engines import (
    ARTIFACTS,
    ROOT,
    TORCH_DTYPES,
    BenchError,
    EngineChoice,
    compile_artifact,
    write_checkpoints,
)
from tools.bench.fidelity import WINDOW, WINDOWS, Fidelity, measure_fidelity
from tools.bench.machine import describe
from tools.bench.speed import PREFILL_PROMPT, SampleFile, measure_speed, measure_start

START_REPEATS = 3
SCRATCH = ROOT / "build/bench"
OUT = ROOT / "docs/benchmarks"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="rounds per number of threads")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--engines", nargs="+", choices=ARTIFACTS, default=list(ARTIFACTS), help="artifacts")
    parser.add_argument("--peers", nargs="+", choices=tuple(TORCH_DTYPES), default=list(TORCH_DTYPES))
    parser.add_argument("--windows", type=int, default=WINDOWS, help="windows of text for fidelity; 0: no fidelity")
    parser.add_argument("--out", type=Path, default=OUT, help="where the pages and raw values go")
    parser.add_argument("--fresh", action="store_true", help="forget what an interrupted run measured")
    return parser.parse_args()


def main() -> int:
    """Entry point; 1 when an engine failed."""
    options = _arguments()
    cpus = len(os.sched_getaffinity(0))
    threads = sorted({count for count in options.threads if count <= cpus})
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:5.0f} s] {text}", flush=True)

    try:
        SCRATCH.mkdir(parents=True, exist_ok=True)
        artifacts = []
        for weights in options.engines:
            say(f"compile {weights}")
            artifacts.append(compile_artifact(weights, SCRATCH))
        say("checkpoints for transformers")
        # fp32 is the reference of fidelity, compared with or not
        peers = write_checkpoints(SCRATCH, sorted({*options.peers, "fp32"}))
        reference = next(peer for peer in peers if peer.weights == "fp32")
        engines = [*artifacts, *(peer for peer in peers if peer.weights in options.peers)]
        machine = describe()
        run = _run_folder(machine, engines, options.fresh)
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        tokenizer = artifacts[0].path / "tokenizer/tokenizer.json"
        _speed(engines, threads, options.repeats, tokenizer, run, say)
        samples = SampleFile(run / "speed.csv").samples
        options.out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run / "speed.csv", options.out / "speed.csv")
        page = tables.speed_page(samples, [engine.name for engine in engines], machine, when)
        (options.out / "speed.md").write_text(page, encoding="utf-8")
        if options.windows:
            ids = corpus.windows(tokenizer, options.windows, WINDOW)
            others = [engine for engine in engines if engine.name != reference.name]
            results = measure_fidelity(reference, others, ids, run, max(threads), say)
            _write_csv(options.out / "fidelity.csv", results)
            (options.out / "fidelity.md").write_text(tables.fidelity_page(results, machine, when), encoding="utf-8")
        _write_environment(options.out / "environment.json", machine, engines, when)
    except BenchError as error:
        Console(stderr=True).print(f"make bench: {error}", style="red", soft_wrap=True)
        return 1
    shutil.rmtree(run)
    say(f"done; see {options.out}")
    return 0


def _speed(
    engines: Sequence[EngineChoice],
    threads: Sequence[int],
    repeats: int,
    tokenizer: Path,
    run: Path,
    say: Callable[[str], None],
) -> None:
    file, log = SampleFile(run / "speed.csv"), run / "workers.log"
    ids = corpus.tokens(tokenizer, corpus.prose()[: 40 * PREFILL_PROMPT])
    count, repeats_of_start = max(threads), min(START_REPEATS, repeats)
    for repeat in range(repeats_of_start):
        for engine in engines:
            if not file.has("start", count, repeat, [engine.name]):
                say(f"start {repeat + 1} of {repeats_of_start}: {engine.name}")
                file.add(measure_start(engine, count, repeat, ids, log))
    for count in threads:
        measure_speed(engines, count, repeats, ids, file, log, say)


def _run_folder(machine: dict[str, str], engines: Sequence[EngineChoice], fresh: bool) -> Path:
    """The folder of this run's samples: the same one only for the same machine, packages and artifacts."""
    digest = hashlib.sha256(json.dumps(machine, sort_keys=True).encode())
    for engine in engines:
        manifest = engine.path / "manifest.json"
        digest.update(engine.name.encode() + (manifest.read_bytes() if manifest.exists() else b""))
    folder = SCRATCH / f"run-{digest.hexdigest()[:12]}"
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    return folder


def _write_csv(path: Path, results: Sequence[Fidelity]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Fidelity)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(result) for result in results)


def _write_environment(path: Path, machine: dict[str, str], engines: Sequence[EngineChoice], when: str) -> None:
    """Everything one needs to repeat it: machine, versions, and each engine's spec as text or settings."""
    described = {}
    for engine in engines:
        spec = ROOT / engine.source
        described[engine.name] = spec.read_text(encoding="utf-8") if spec.is_file() else engine.source
    record = {"time": when, "machine": machine, "command": "make bench", "engines": described}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
