"""`make bench`: a fair race of xamc against other engines on this machine, and xamc's fidelity; writes the pages.

    python -m tools.bench                                  # everything; results go to docs/benchmarks/LEVEL
    python -m tools.bench --quick --models smollm2-135m    # one short round, to build/bench/quick
    python -m tools.bench --engines xamc llama_cpp --widths 4 --threads 2
    python -m tools.bench --widths 16 --keep               # 16 bits again; the pages' other widths stay

Peers are installed into environments of their own and their models made from the same checkpoint, once, below
build/bench. An interrupted run goes on where it stopped, by whole rounds, as long as machine, packages and models are
the same; ``--fresh`` begins again.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich.console import Console

from tools.bench import corpus, tables
from tools.bench.engines import ROOT, BenchError, EngineChoice, write_checkpoints
from tools.bench.fidelity import WINDOW, WINDOWS, Fidelity, measure_fidelity
from tools.bench.kept import SAMPLES, Kept, keep, write_environment
from tools.bench.lineup import KINDS, MODELS, ROWS, WIDTHS, Row
from tools.bench.machine import describe
from tools.bench.pages import RATIOS, level_pages, publish
from tools.bench.peers.environments import environment, versions
from tools.bench.peers.prepare import Preparation
from tools.bench.peers.prepare import describe as describe_engine
from tools.bench.probe import BandwidthProbe, arithmetic_peaks, compile_loops
from tools.bench.results import Results
from tools.bench.samples import Sample, SampleFile, now
from tools.bench.speed import (
    PREFILLS,
    Plan,
    estimate_minutes,
    measure_answers,
    measure_speed,
    measure_start,
)

START_REPEATS = 2
SCRATCH = ROOT / "build/bench"
PROMPT_TOKENS = 120_000
_BUSY = 0.15  # of the CPUs; above it others use the machine too
Say = Callable[[str], None]


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    keys = [model.key for model in MODELS]
    parser.add_argument("--repeats", type=int, default=3, help="rounds per number of threads")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--engines", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--models", nargs="+", choices=keys, default=keys)
    parser.add_argument("--widths", type=int, nargs="+", choices=WIDTHS, default=list(WIDTHS), help="bits per weight")
    parser.add_argument("--rows", nargs="+", help="only these weights, e.g. w4 Q4_0 int4")
    parser.add_argument("--prefills", type=int, nargs="+", default=list(PREFILLS), help="lengths of prompts")
    parser.add_argument("--windows", type=int, default=WINDOWS, help="windows of text for fidelity; 0: no fidelity")
    parser.add_argument("--out", type=Path, help="for pages and raw values; default: docs/benchmarks/LEVEL")
    parser.add_argument("--quick", action="store_true", help="one round, 512 tokens, no fidelity, to build/bench/quick")
    parser.add_argument("--prepare", action="store_true", help="only install peers and make models")
    parser.add_argument(
        "--keep", action="store_true", help="widths that are not measured stay on the pages as they are"
    )
    parser.add_argument("--fresh", action="store_true", help="forget what an interrupted run measured")
    options = parser.parse_args(arguments)
    if options.quick:
        options.repeats, options.windows, options.prefills = 1, 0, [512]
    options.prefills = sorted(options.prefills)
    options.out = options.out or (SCRATCH / "quick" if options.quick else level_pages())
    if options.keep and (options.rows or {*options.engines} != {*KINDS} or {*options.models} != {*keys}):
        parser.error("--keep takes every engine and model of a width; leave --rows, --engines and --models out")
    return options


@contextmanager
def progress() -> Iterator[Say]:
    """Shows what is going on: a line that renews itself on a terminal, else only the milestones, one per line."""
    console, started = Console(stderr=True), time.monotonic()
    if not console.is_terminal:
        last = [""]

        def quiet(text: str) -> None:
            # rounds and engines come by the hundred; who reads a log wants to see where it is, not every turn
            milestone = text.split(", round")[0].split(": ")[0] if "threads" in text else text
            if milestone != last[0]:
                print(f"[{time.monotonic() - started:5.0f} s] {milestone}", file=sys.stderr, flush=True)
            last[0] = milestone

        yield quiet
        return
    with console.status("") as status:

        def show(text: str) -> None:
            status.update(f"[{time.monotonic() - started:5.0f} s] {text}")

        yield show


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 1 when an engine failed."""
    options = _arguments(arguments)
    try:
        with progress() as say:
            _race(options, say)
    except BenchError as error:
        Console(stderr=True).print(f"make bench: {error}", style="red", soft_wrap=True, markup=False)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this stopped", file=sys.stderr)
        return 130
    return 0


def _race(options: argparse.Namespace, say: Say) -> None:
    cpus = len(os.sched_getaffinity(0))
    threads = sorted({count for count in options.threads if count <= cpus})
    plan = Plan(options.repeats, threads, options.prefills)
    SCRATCH.mkdir(parents=True, exist_ok=True)
    engines, references = _prepare(options, options.widths, say)
    if options.prepare:
        return
    machine = describe()
    kept = keep(options.out, machine, options.widths) if options.keep else Kept()
    # what stays on the pages is described by its models, too
    shown = _prepare(options, {*options.widths, *kept.times}, say)[0] if options.keep else engines
    run = _run_folder({**machine, "plan": str(plan)}, engines, options.fresh)
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    file, log = SampleFile(run / SAMPLES), run / "workers.log"
    loops = compile_loops(SCRATCH)
    if not any(s.stage == "peak" for s in file.samples):
        say("arithmetic peaks")
        file.add([_peak(*asdict(peak).values()) for peak in arithmetic_peaks(loops, threads)])
    probe = BandwidthProbe(loops=loops)
    _announce(engines, plan, file, probe, say)
    busy = _busy_share()
    for model in options.models:
        _measure(model, engines, references[model], plan, probe, file, log, say)
    results = Results([*file.samples, *kept.samples], shown)
    options.out.mkdir(parents=True, exist_ok=True)
    note = "" if busy < _BUSY else f"**The machine was busy**: others used {busy:.0%} of its CPUs when this began."
    write_environment(options.out, machine, kept, when, options.widths)
    _publish(results, machine, kept.when(when, options.widths), options.out, note, run, say)
    if options.windows:
        _fidelity(options, engines, machine, when, run, max(threads), say)
    if options.out == level_pages():
        publish()
    shutil.rmtree(run)
    print(f"done; see {os.path.relpath(options.out, ROOT)}", file=sys.stderr)


def _prepare(
    options: argparse.Namespace, widths: Collection[int], say: Say
) -> tuple[list[EngineChoice], dict[str, EngineChoice]]:
    """Environments, checkpoints, artifacts and converted models; what is there is kept."""
    rows = [row for row in ROWS if row.kind in options.engines and row.width in widths]
    rows = [row for row in rows if not options.rows or row.weights in options.rows]
    if not rows:
        raise BenchError("no engine is left; see --engines, --widths and --rows")
    engines, references = [], {}
    for model in MODELS:
        if model.key in options.models:
            preparation = Preparation(model, say)
            engines += [preparation.choice(row) for row in rows]
            references[model.key] = preparation.reference()
    return engines, references


def _measure(
    model: str,
    engines: Sequence[EngineChoice],
    reference: EngineChoice,
    plan: Plan,
    probe: BandwidthProbe,
    file: SampleFile,
    log: Path,
    say: Say,
) -> None:
    mine = [engine for engine in engines if engine.model == model]
    ids = _prompt_ids(model)
    count = max(plan.threads)
    measure_answers(reference, mine, count, ids, file, log, say)
    for repeat in range(min(START_REPEATS, plan.repeats)):
        for engine in mine:
            if not file.has("start", model, count, repeat, [engine.name]):
                say(f"{model}: start of {engine.name}, {repeat + 1} of {min(START_REPEATS, plan.repeats)}")
                file.add(measure_start(engine, count, repeat, plan, ids, log))
    for width in sorted({engine.width for engine in mine}):
        racers = [engine for engine in mine if engine.width == width]
        # most threads first: if a run is cut short, what most people ask for is there
        for threads in sorted(plan.threads, reverse=True):
            measure_speed(racers, threads, plan, ids, probe, file, log, say)


def _prompt_ids(model: str) -> corpus.I64:
    """Token ids of prose; the synthetic model's vocabulary is smaller, and any of its tokens is as good as another."""
    chosen = next(m for m in MODELS if m.key == model)
    tokenizer = SCRATCH / "models" / MODELS[0].key / "hf/tokenizer.json"
    if not tokenizer.exists():
        Preparation(MODELS[0], lambda text: None).reference()
    ids = corpus.tokens(tokenizer, corpus.prose()[: 5 * PROMPT_TOKENS])
    return ids if chosen.shape is None else ids % 31_000 + 300


def _announce(engines: Sequence[EngineChoice], plan: Plan, file: SampleFile, probe: BandwidthProbe, say: Say) -> None:
    most = max(plan.threads)
    operations = max((s.value for s in file.samples if s.quantity == "fp32" and s.threads == most), default=5e10)
    models = {e.model: e.weights_count for e in engines}
    sizes = [(count, sum(e.model == model for e in engines)) for model, count in models.items()]
    minutes = estimate_minutes(sizes, plan, operations, probe.gigabytes_per_s(most) * 1e9)
    print(f"{len(engines)} engines, about {minutes:.0f} minutes on a quiet machine", file=sys.stderr, flush=True)


def _peak(kind: str, threads: int, rate: float, instruction: str) -> Sample:
    return Sample("peak", "", "", 0, threads, 0, kind, rate, 0.0, 0.0, now(), instruction)


def _busy_share(seconds: float = 2.0) -> float:
    """Share of the CPUs' time that others use, 0 to 1; this process sleeps meanwhile."""

    def times() -> tuple[int, int]:
        values = [int(v) for v in Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]]
        return sum(values), values[3] + values[4]

    total, idle = times()
    time.sleep(seconds)
    later_total, later_idle = times()
    return 1 - (later_idle - idle) / max(1, later_total - total)


def _publish(
    results: Results, machine: Mapping[str, str], when: str, out: Path, note: str, run: Path, say: Say
) -> None:
    (out / SAMPLES).unlink(missing_ok=True)
    SampleFile(out / SAMPLES).add(results.samples)
    (out / "speed.md").write_text(tables.speed_page(results, machine, when, note), encoding="utf-8")
    _write_rows(out / "engines.csv", [_row(engine) for engine in results.engines])
    say("drawing")
    python = environment("plots", say)
    for model in results.models():
        data = run / f"{model}.json"
        data.write_text(json.dumps(tables.bars(results, model)), encoding="utf-8")
        command = [str(python), str(ROOT / "tools/bench/plots.py"), str(data), str(out / f"speed-{model}.svg")]
        if subprocess.run(command, check=False).returncode:
            raise BenchError(f"drawing {model} failed; its data is {data}")
    (out / RATIOS).write_text(tables.ratios_section(results, machine, when), encoding="utf-8")


def _row(engine: EngineChoice) -> dict[str, Any]:
    """An engine with the versions of its environment: of what it imports, not of everything that is installed."""
    theirs = ("llama-cpp-python", "openvino", "openvino-genai", "onnxruntime-genai", "onnxruntime", "numpy")
    ours = ("xamc", "apache-tvm", "apache-tvm-ffi", "torch", "transformers", "numpy")
    known = versions(engine.python)
    names = ours if engine.kind in ("xamc", "transformers") else theirs
    return {**describe_engine(engine), "versions": " ".join(f"{n}=={known[n]}" for n in names if n in known)}


def _fidelity(
    options: argparse.Namespace,
    engines: Sequence[EngineChoice],
    machine: Mapping[str, str],
    when: str,
    run: Path,
    threads: int,
    say: Say,
) -> None:
    """xamc's artifacts of the real model beside transformers, over real text."""
    ours = [e for e in engines if e.kind == "xamc" and e.model == MODELS[0].key]
    if not ours:
        return
    # no race: fp32 shows what compiling alone costs
    ours.append(Preparation(MODELS[0], say).choice(Row("xamc", "fp32", 32)))
    checkpoints = write_checkpoints(SCRATCH, ["bf16", "fp32"])
    reference = next(c for c in checkpoints if c.weights == "fp32")
    ids = corpus.windows(ours[0].path / "tokenizer/tokenizer.json", options.windows, WINDOW)
    others = [*ours, *(c for c in checkpoints if c.weights != "fp32")]
    results = measure_fidelity(reference, others, ids, run, threads, say)
    _write_rows(options.out / "fidelity.csv", [asdict(r) for r in results], [f.name for f in fields(Fidelity)])
    (options.out / "fidelity.md").write_text(tables.fidelity_page(results, dict(machine), when), encoding="utf-8")


def _run_folder(settings: Mapping[str, str], engines: Sequence[EngineChoice], fresh: bool) -> Path:
    """The folder of this run's samples: the same one only for the same machine, plan, packages and models."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for engine in engines:
        manifest = engine.path / "manifest.json"
        digest.update(f"{engine.model} {engine.name} {engine.source} {engine.options}".encode())
        digest.update(manifest.read_bytes() if manifest.exists() else b"")
        environment_stamp = engine.python.parent.parent / ".installed"
        digest.update(environment_stamp.read_bytes() if environment_stamp.exists() else b"")
    folder = SCRATCH / f"run-{digest.hexdigest()[:12]}"
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    return folder


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]], names: Sequence[str] = ()) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names or list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
