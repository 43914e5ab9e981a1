"""`python -m tools.bench.graphs`: ONNX models compiled for the CPU against ONNX Runtime.

    python -m tools.bench.graphs [--work DIR] [--models REGEX] [--threads 1] [--seconds 8]

Models are exported with random weights and compiled with `xamc compile` (kept in the work folder for another run), in
float32. Both engines are then measured in one process per model and number of threads, run by run in turns, so that
whatever else the machine does meets both; ONNX Runtime has its own default, all optimizations. Writes graphs.csv and
graphs.md.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tools.bench.graph_models import CASES, GraphCase, export
from tools.bench.pages import level_pages, publish
from xamc.jobs.cache import tool_version
from xamc.jobs.processor import cpu_model
from xamc.targets.kernels.isa import Isa

CSV, PAGE = "graphs.csv", "graphs.md"
_LEAST_RUNS = 5
_PAUSE = 0.1  # seconds; idle threads of an engine spin for a while, on the other's CPUs


@dataclass(frozen=True)
class Row:
    """A line of the csv: milliseconds of a run of each engine, and how far their results are apart.

    The wall clock is what a user sees. CPU time, of all threads, is what is left to compare on a busy machine, and only
    with one thread: idle threads of an engine spin.
    """

    model: str
    threads: int
    runs: int
    xamc_best_ms: float
    xamc_median_ms: float
    ort_best_ms: float
    ort_median_ms: float
    xamc_cpu_ms: float
    ort_cpu_ms: float
    deviation: float
    date: str


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for models and artifacts; default: a temporary one")
    parser.add_argument("--models", metavar="REGEX", default="", help="models whose names it matches")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1],
        help="default: 1; the engines share a process, where idle threads of one disturb the other's",
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=8.0, help="of a measurement of both engines")
    parser.add_argument("--out", type=Path, default=level_pages())
    parser.add_argument(
        "--measure", nargs=4, metavar=("ARTIFACT", "ONNX", "THREADS", "SECONDS"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.measure:
        artifact, onnx, threads, seconds = options.measure
        print(json.dumps(measure(Path(artifact), Path(onnx), int(threads), float(seconds))))
        return 0
    rows = {(row.model, row.threads): row for row in read_rows(options.out / CSV)}
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        for case in CASES:
            if not re.search(options.models, case.name):
                continue
            onnx, artifact = prepare(case, work)
            for threads in options.threads:
                row = measured(case, onnx, artifact, threads, options.seconds)
                rows[row.model, row.threads] = row
                print(row, flush=True)
                write(list(rows.values()), options.out)
    if options.out == level_pages():
        publish()
    return 0


def prepare(case: GraphCase, work: Path) -> tuple[Path, Path]:
    """The ONNX file and its artifact, made unless they are there."""
    name = re.sub(r"\W+", "_", case.name)
    onnx, artifact = work / f"{name}.onnx", work / name
    work.mkdir(parents=True, exist_ok=True)
    if not onnx.is_file():
        export(case, onnx)
    if not artifact.is_dir():
        spec = {
            "name": name,
            "frontend": {"type": "onnx", "checkpoint": str(onnx.absolute()), "dtype": "fp32"},
            "backend": {"type": "tvm_cpu", "dtype": "fp32"},
            "workspace": {"path": str(work.absolute())},
        }
        build = work / f"{name}.yaml"
        build.write_text(json.dumps(spec))
        subprocess.run([sys.executable, "-m", "xamc", "compile", str(build)], check=True)
    return onnx, artifact


def measured(case: GraphCase, onnx: Path, artifact: Path, threads: int, seconds: float) -> Row:
    """Measures in a process of its own, since thread pools stay as they were first made."""
    command = [sys.executable, "-m", "tools.bench.graphs", "--measure", str(artifact), str(onnx)]
    done = subprocess.run(
        [*command, str(threads), str(seconds)], check=True, capture_output=True, text=True, env=os.environ
    )
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return Row(case.name, threads, date=datetime.datetime.now(datetime.UTC).date().isoformat(), **found)


def measure(artifact: Path, onnx: Path, threads: int, seconds: float) -> dict[str, Any]:
    """Runs both engines in turns for some seconds."""
    import onnxruntime

    from xamc.runtime import load_graph

    ours = load_graph(artifact, threads)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    theirs = onnxruntime.InferenceSession(str(onnx), settings, providers=["CPUExecutionProvider"])
    given = theirs.get_inputs()[0]
    rng = np.random.default_rng(0)
    x = rng.integers(0, 30000, given.shape) if "int" in given.type else rng.standard_normal(given.shape)
    feeds = {given.name: x.astype(np.int64 if "int" in given.type else np.float32)}
    expected, actual = theirs.run(None, feeds)[0], next(iter(ours.run(feeds).values()))
    times: tuple[list[float], list[float]] = ([], [])
    computed: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < _LEAST_RUNS:
        for engine, spent, cpu in zip((partial(ours.run, feeds), partial(theirs.run, None, feeds)), times, computed):
            time.sleep(_PAUSE)
            engine()
            start, start_cpu = time.perf_counter(), time.process_time()
            engine()
            spent.append((time.perf_counter() - start) * 1e3)
            cpu.append((time.process_time() - start_cpu) * 1e3)
    figures = [round(figure, 3) for spent in times for figure in (min(spent), statistics.median(spent))]
    figures += [round(min(cpu), 3) for cpu in computed]
    names = ("xamc_best_ms", "xamc_median_ms", "ort_best_ms", "ort_median_ms", "xamc_cpu_ms", "ort_cpu_ms")
    deviation = float(np.abs(actual - expected).max() / np.abs(expected).max())
    return {"runs": len(times[0]), **dict(zip(names, figures)), "deviation": float(f"{deviation:.1e}")}


def read_rows(path: Path) -> list[Row]:
    """The rows of an earlier run; none if there was none."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        kinds: dict[str, type] = {"model": str, "date": str, "threads": int, "runs": int}
        lines = list(csv.DictReader(file))
    return [Row(**{name: kinds.get(name, float)(text) for name, text in line.items()}) for line in lines]


def write(rows: Sequence[Row], out: Path) -> None:
    """Writes graphs.csv and graphs.md."""
    order = {case.name: place for place, case in enumerate(CASES)}
    rows = sorted(rows, key=lambda row: (order.get(row.model, len(order)), row.threads))
    out.mkdir(parents=True, exist_ok=True)
    with (out / CSV).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    (out / PAGE).write_text(page(rows), encoding="utf-8")


def page(rows: Sequence[Row]) -> str:
    """The page, in Markdown."""
    lines = [
        "# ONNX models on the CPU",
        "",
        f"Written by `python -m tools.bench.graphs`; every figure is in [{CSV}]({CSV}). Models of transformers with",
        "random weights, images of 224 x 224, 128 tokens, batch 1, float32; on one machine "
        f"({cpu_model()}, {Isa.host().name}), run by run in turns with",
        f"ONNX Runtime {tool_version('onnxruntime')} (all optimizations on), each behind a pause and a run that is "
        "not counted. Times are of the fastest run, medians in "
        "brackets; above 1 xamc is faster. CPU time, of one thread, is what can be compared on a busy machine.",
        "",
        "| model | threads | xamc, ms | ONNX Runtime, ms | ratio, fastest | medians | CPU time | deviation |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        ratios = f"{row.ort_best_ms / row.xamc_best_ms:.2f} | {row.ort_median_ms / row.xamc_median_ms:.2f}"
        ratios += f" | {row.ort_cpu_ms / row.xamc_cpu_ms:.2f}" if row.threads == 1 else " | "
        ours, theirs = (
            f"{best:.1f} ({median:.1f})"
            for best, median in (
                (row.xamc_best_ms, row.xamc_median_ms),
                (row.ort_best_ms, row.ort_median_ms),
            )
        )
        lines.append(f"| {row.model} | {row.threads} | {ours} | {theirs} | {ratios} | {row.deviation:.0e} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
