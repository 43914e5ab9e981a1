"""`make scale`: compiles and runs a synthetic InternLM3-8B and measures memory, disk and time against the targets.

    python -m tools.scale                    # all 48 layers: 17.6 GB of checkpoint, needs 30 GB of disk; takes long
    python -m tools.scale --layers 2         # a try in minutes; its results stay below build/

Everything happens in one scratch folder (XAMC_SCALE_DIR, default build/scale), cache and temporary files included, so
that the disk it takes can be summed; the folder is deleted at the end. The steps: make the checkpoint; compile it;
run the artifact; compile again after a change of `backend`; compile once more, from nothing, under a memory limit;
then, one after the other, compile it for VACC in four ranks with float16 and with int8 weights.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import sys
import time
from pathlib import Path

from rich.console import Console

from tools.bench.machine import describe
from tools.memory_limit import choose_limit
from tools.scale.results import Results
from tools.scale.scratch import GIB, ScaleError, Scratch
from tools.scale.vacc import measure_vacc
from tools.watched_run import disk_bytes

ROOT = Path(__file__).parents[2]
SHAPE = "internlm3-8b"
MIB = 2**20
PEAK_PSS = 3 * GIB
EXTRA_DISK = 2 * 10**9
RUN_EXTRA = 300 * MIB
RECOMPILE_SHARE = 0.25
BACKEND_CHANGE = "backend.compile.mcpu=x86-64-v2"
PROMPT = "The compiler reads a model and writes a program. " * 12
NEW_TOKENS = 8


def make_checkpoint(scratch: Scratch, layers: int | None, results: Results) -> int:
    """Writes the checkpoint, unless it is there; returns its bytes.

    Raises:
        ScaleError: the tool failed.
    """
    done = scratch.checkpoint / f".layers-{layers or 'all'}"
    if not done.exists():
        shutil.rmtree(scratch.checkpoint, ignore_errors=True)
        few = ["--layers", str(layers)] if layers else []
        tool = str(ROOT / "tools/make_checkpoint.py")
        made = scratch.watch([tool, "--shape", SHAPE, "--out", str(scratch.checkpoint), *few])
        if made.status:
            raise ScaleError(f"making the checkpoint failed: exit {made.status}")
        done.touch()
        results.add("checkpoint", "time", made.seconds, "s")
    size = disk_bytes([scratch.checkpoint])
    results.add("checkpoint", "size", size / 1e9, "GB")
    return size


def measure_compile(scratch: Scratch, checkpoint: int, results: Results) -> float:
    """The first compile, from nothing; returns its seconds."""
    watched, report = scratch.compile()
    artifact = disk_bytes([scratch.artifact])
    results.add("compile", "time", watched.seconds, "s")
    for stage in report["stages"]:
        results.add("compile", f"time of {stage['name']}", stage["seconds"], "s")
        results.add("compile", f"peak PSS of {stage['name']}", stage["peak_bytes"] / GIB, "GiB")
    results.add("compile", "peak PSS, seen from outside", watched.peak_pss / GIB, "GiB", PEAK_PSS / GIB)
    results.add("compile", "peak PSS, by its own report", report["peak_bytes"] / GIB, "GiB", PEAK_PSS / GIB)
    results.add("compile", "artifact", artifact / 1e9, "GB")
    allowed = checkpoint + artifact + EXTRA_DISK
    results.add("compile", "peak disk", watched.peak_disk / 1e9, "GB", allowed / 1e9)
    results.add("compile", "peak disk beyond both", (watched.peak_disk - checkpoint - artifact) / 1e9, "GB", 2.0)
    results.add(
        "compile", "disk afterwards beyond both", (disk_bytes([scratch.root]) - checkpoint - artifact) / 1e9, "GB"
    )
    return watched.seconds


def measure_run(scratch: Scratch, results: Results) -> None:
    """Runs the artifact on one prompt.

    Raises:
        ScaleError: it failed.
    """
    weights = json.loads((scratch.artifact / "manifest.json").read_text(encoding="utf-8"))["weights"]["nbytes"]
    length = ["--max-new-tokens", str(NEW_TOKENS), "--ignore-eos", "--json"]
    watched = scratch.watch(["-m", "xamc", "run", str(scratch.artifact), "--prompt", PROMPT, *length])
    if watched.status:
        raise ScaleError(f"running the artifact failed: exit {watched.status}")
    answer = json.loads(watched.output)
    results.add("run", "weights", weights / MIB, "MiB")
    results.add("run", "peak PSS", watched.peak_pss / MIB, "MiB", (weights + RUN_EXTRA) / MIB)
    results.add("run", "peak PSS beyond the weights", (watched.peak_pss - weights) / MIB, "MiB", RUN_EXTRA / MIB)
    results.add("run", "time, load and exit included", watched.seconds, "s")
    for key in ("prompt_tokens", "prefill_tokens_per_s", "decode_tokens_per_s"):
        if key in answer:
            results.add("run", key.replace("_per_s", "").replace("_", " "), answer[key], "1/s" if "per" in key else "")


def measure_recompile(scratch: Scratch, first: float, results: Results) -> None:
    """Compiles again after a change of `backend` only."""
    watched, report = scratch.compile([BACKEND_CHANGE])
    results.add("recompile", "time", watched.seconds, "s")
    for stage in report["stages"]:
        results.add("recompile", f"time of {stage['name']} ({stage['state']})", stage["seconds"], "s")
    results.add("recompile", "share of the first compile", watched.seconds / first, "", RECOMPILE_SHARE)


def measure_limited(scratch: Scratch, cgroup: Path | None, results: Results) -> None:
    """Compiles from nothing under a limit of 3 GiB."""
    limit = choose_limit(PEAK_PSS, cgroup)
    print(f"  limited            enforced by {limit.name}", flush=True)
    scratch.prepare()
    try:
        watched, _ = scratch.compile(limit=limit)
    except OSError as error:
        raise ScaleError(f"the memory limit can't be set: {error}") from error
    results.notes.append(f"The limited compile passed; its limit of 3 GiB was enforced by {limit.name}.")
    results.add("limited compile", "time", watched.seconds, "s")
    results.add("limited compile", "peak PSS", watched.peak_pss / GIB, "GiB", PEAK_PSS / GIB)


CPU_TITLE = "A model of 8.8 B parameters"
CPU_TEXT = f"compiled to 4 bits and run. The recompile follows `--set {BACKEND_CHANGE}`."
VACC_TITLE = "A model of 8.8 B parameters in four ranks"
VACC_TEXT = (
    "compiled for VACC by build files as the vendor writes them: lengths 1024 and 2048, tp 4, merged parameters, two "
    "workers; float16, then int8 per channel (`w8a16_gptq` with `--allow-rtn`). Nothing was run, no card was involved."
)


def write_report(path: Path, title: str, text: str, results: Results, layers: int | None) -> None:
    """Writes `path`.csv and `path`.md."""
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = describe()
    with path.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("step", "quantity", "value", "unit", "target"))
        writer.writerows(results.rows)
        writer.writerows(("machine", key, value, "", "") for key, value in machine.items())
    lines = [
        f"# {title}",
        "",
        f"Written by `make scale` on {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}; raw values are in "
        f"[{path.name}.csv]({path.name}.csv). A synthetic checkpoint of InternLM3-8B's shape "
        f"({layers or 48} layers, fp16 safetensors in shards, random weights) is {text}",
        "",
        "All figures are of this machine: " + ", ".join(f"{key} {value}" for key, value in machine.items()) + ".",
        "",
        "Memory is the peak of the summed PSS over the process tree, sampled every 100 ms from outside. Disk is what",
        "checkpoint, artifact, cache and temporary files take together, sampled every second; a file with several hard",
        "links counts once.",
        "",
        *[line for note in results.notes for line in (note, "")],
        "| step | quantity | value | target | |",
        "|---|---|---:|---:|---|",
    ]
    for step, quantity, value, unit, target in results.rows:
        wanted = "" if target is None else f"≤ {target:,.4g} {unit}"
        verdict = "" if target is None else ("met" if value <= target else "**missed**")
        lines.append(f"| {step} | {quantity} | {value:,.4g} {unit} | {wanted} | {verdict} |")
    path.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"→ {path.with_suffix('.md')}")


def main() -> int:
    """Entry point; 1 when a step failed or a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, help="fewer layers than 48: a try; results go below build/")
    parser.add_argument("--keep", action="store_true", help="leave the scratch folder, to look at or to try again")
    parser.add_argument("--no-limited", action="store_true", help="leave out the compile under a memory limit")
    parser.add_argument("--cgroup", type=Path, help="a memory cgroup in which a child may be made, for the limit")
    parser.add_argument("--only", choices=("cpu", "vacc"), help="one of the two parts")
    parser.add_argument("--out", type=Path, help="where the pages and raw values go")
    options = parser.parse_args()
    out = options.out or (ROOT / "build/scale-report" if options.layers else ROOT / "docs/benchmarks")
    results, vacc = Results(), Results()
    try:
        scratch = Scratch(Path(os.environ.get("XAMC_SCALE_DIR") or ROOT / "build/scale"))
        try:
            scratch.prepare()
            checkpoint = make_checkpoint(scratch, options.layers, results)
            if options.only != "vacc":
                first = measure_compile(scratch, checkpoint, results)
                measure_run(scratch, results)
                measure_recompile(scratch, first, results)
                if not options.no_limited:
                    measure_limited(scratch, options.cgroup, results)
                write_report(out / "scale", CPU_TITLE, CPU_TEXT, results, options.layers)
            if options.only != "cpu":
                measure_vacc(scratch, checkpoint, vacc)
                write_report(out / "scale_vacc", VACC_TITLE, VACC_TEXT, vacc, options.layers)
        finally:
            if not options.keep:
                scratch.remove()
    except ScaleError as error:
        Console(stderr=True).print(f"make scale: {error}", style="red", soft_wrap=True)
        return 1
    missed = [*results.missed(), *vacc.missed()]
    for quantity in missed:
        print(f"missed: {quantity}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
