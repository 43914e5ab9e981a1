"""`python -m tools.bench.vacc`: how far VACC's simulated graphs of SmolLM2-135M are from transformers in fp32.

Nothing here is a speed: the graphs run in a simulator on the host. Per setting, over windows of real text:

- prefill: every position of a window at once (compiled with the last-position slice left out);
- decode: the same positions one token at a time, each on the cache of those before (teacher forcing).

And the greedy text of the float16 graphs beside the CPU target's with float16 weights, up to the first difference,
with the two likeliest tokens' logits there.

With `--settings` a part is measured; rows of the other settings stay as an earlier run left them, with its date.
"""

from __future__ import annotations

import argparse
import csv
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from tools.bench import corpus
from tools.bench.engines import ROOT, BenchError, EngineChoice, write_checkpoints
from tools.bench.fidelity import Fidelity, compare, logits_of
from tools.bench.machine import describe
from tools.bench.pages import PAGES

SPEC = ROOT / "build_configs/vacc/smollm2_135m_fp16_vacc.yaml"
CPU_SPEC = ROOT / "build_configs/smollm2/smollm2_135m_fp16.yaml"
SCRATCH = ROOT / "build/bench"
WINDOWS, WINDOW = 2, 512
GREEDY_TOKENS = 64
PROMPTS = ("The history of computing began", "def fibonacci(n):", "In the middle of the night,")


@dataclass(frozen=True)
class Setting:
    """One way to compile; `sets` are overrides of the spec."""

    name: str
    sets: tuple[str, ...] = ()


_W8 = ("backend.dtype=int8", "frontend.quantize.type=w8a16_rtn")
_KV8 = ("backend.dtype=int8", "frontend.quantize.type=w16kv8")
SETTINGS = (
    Setting("fp16"),
    Setting("fp16, tp 2", ("frontend.model_kwargs.tp=2",)),
    Setting("fp16, tp 4", ("frontend.model_kwargs.tp=4",)),
    Setting("fp16, tp 8", ("frontend.model_kwargs.tp=8",)),
    Setting("w8a16", _W8),
    Setting("w8a16, tp 2", (*_W8, "frontend.model_kwargs.tp=2")),
    Setting("w16kv8", _KV8),
    Setting("w16kv8, tp 2", (*_KV8, "frontend.model_kwargs.tp=2")),
)
PHASES = ("prefill", "decode")
_GREEDY_TITLE = "## Greedy text of fp16 beside the CPU target's with fp16 weights"


@dataclass(frozen=True)
class Row(Fidelity):
    """A line of the csv; `measured` is when its run ended, in UTC."""

    measured: str


def main() -> int:
    """Entry point; 1 when a compile or an engine failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=WINDOWS, help=f"windows of {WINDOW} positions")
    parser.add_argument("--settings", nargs="+", default=[s.name for s in SETTINGS], choices=[s.name for s in SETTINGS])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=PAGES)
    options = parser.parse_args()
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:5.0f} s] {text}", flush=True)

    try:
        SCRATCH.mkdir(parents=True, exist_ok=True)
        say("transformers fp32")
        reference = write_checkpoints(SCRATCH, ["fp32"])[0]
        wanted = [setting for setting in SETTINGS if setting.name in options.settings]
        results, text = _measure(wanted, reference, options.windows, options.threads, say)
        options.out.mkdir(parents=True, exist_ok=True)
        rows, page = options.out / "vacc_fidelity.csv", options.out / "vacc_fidelity.md"
        when = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        merged = merge(read_rows(rows), [Row(**asdict(result), measured=when) for result in results])
        if not text and page.is_file():
            text = greedy_section(page.read_text(encoding="utf-8"))
        with rows.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(row) for row in merged)
        page.write_text(_page(merged, text), encoding="utf-8")
    except BenchError as error:
        print(f"tools.bench.vacc: {error}", file=sys.stderr)
        return 1
    say(f"done; see {options.out}")
    return 0


def read_rows(path: Path) -> list[Row]:
    """The rows of an earlier run; none if there was none."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Row(
                engine=row["engine"],
                positions=int(row["positions"]),
                mean_kl=float(row["mean_kl"]),
                p99_kl=float(row["p99_kl"]),
                top1=float(row["top1"]),
                perplexity=float(row["perplexity"]),
                measured=row["measured"],
            )
            for row in csv.DictReader(file)
        ]


def merge(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """New rows in place of old ones of the same name, in the order of `SETTINGS`; what is no setting any more goes."""
    known = {row.engine: row for row in (*old, *new)}
    names = [f"{setting.name}, {phase}" for setting in SETTINGS for phase in PHASES]
    return [known[name] for name in names if name in known]


def greedy_section(page: str) -> str:
    """The table of greedy text in an earlier page."""
    found = re.search(re.escape(_GREEDY_TITLE) + r"\n+(\|.*?)\n\n", page, re.DOTALL)
    return found[1] if found else ""


def _measure(
    settings: list[Setting], reference: EngineChoice, windows: int, threads: int, say: Any
) -> tuple[list[Fidelity], str]:
    log, expected, got = SCRATCH / "vacc.log", SCRATCH / "vacc_reference.npy", SCRATCH / "vacc_logits.npy"
    results: list[Fidelity] = []
    text = ""
    ids: Any = None
    for setting in settings:
        slug = setting.name.replace(", ", "-").replace(" ", "")
        for phase, sets in zip(PHASES, (("passes.disable=[insert_slice]",), ()), strict=True):
            say(f"{setting.name}: compile, {phase}")
            path = SCRATCH / f"vacc-{slug}-{phase}"
            _compile(SPEC, path, (*setting.sets, *sets, f"frontend.shape.input_ids=[[{WINDOW}],[{WINDOW}]]"))
            if ids is None:
                ids = corpus.windows(path / "tokenizer/tokenizer.json", windows, WINDOW)
                say("logits of transformers")
                logits_of(reference, ids, expected, threads, log)
            say(f"{setting.name}: logits of {ids.size} positions, {phase}")
            logits_of(EngineChoice("xamc", setting.name, path, str(SPEC)), ids, got, threads, log)
            values, mine = np.load(expected, mmap_mode="r"), np.load(got, mmap_mode="r")
            results.append(compare(f"{setting.name}, {phase}", values, mine, ids))
            print(f"    {results[-1]}", flush=True)
            if setting.name == "fp16" and phase == "decode":
                text = _greedy(path, say)
    for file in (expected, got):
        file.unlink(missing_ok=True)
    return results, text


def _compile(spec: Path, path: Path, sets: tuple[str, ...]) -> None:
    overrides = [part for override in sets for part in ("--set", override)]
    command = [sys.executable, "-m", "xamc", "compile", str(spec), "-o", str(path), *overrides, "--json"]
    if subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False).returncode:
        raise BenchError(f"compiling {spec} failed")


def _greedy(path: Path, say: Any) -> str:
    """A Markdown table: for each prompt, how many greedy tokens the simulator shares with the CPU target."""
    from xamc.runtime import load

    cpu_path = SCRATCH / "vacc-cpu-fp16"
    say("greedy text, beside the CPU target's")
    _compile(CPU_SPEC, cpu_path, ())
    mine, cpu = load(path), load(cpu_path)
    rows = ["| prompt | tokens alike | at the first difference |", "|---|---|---|"]
    for prompt in PROMPTS:
        a = mine.generate(prompt, GREEDY_TOKENS, ignore_eos=True).token_ids
        b = cpu.generate(prompt, GREEDY_TOKENS, ignore_eos=True).token_ids
        alike = next((i for i, pair in enumerate(zip(a, b, strict=True)) if pair[0] != pair[1]), len(a))
        note = "none"
        if alike < len(a):
            prefix = [*cpu.tokenizer.encode(prompt).tolist(), *b[:alike]]
            logits = cpu.logits(np.array([prefix], np.int64), positions="last")[0, 0]
            note = f"logits {logits[b[alike]]:.3f} and {logits[a[alike]]:.3f}"
        rows.append(f"| {prompt} | {alike} of {len(a)} | {note} |")
    return "\n".join(rows)


def _page(rows: Sequence[Row], text: str) -> str:
    machine = describe()
    lines = [
        "# Fidelity of VACC's simulated graphs",
        "",
        "SmolLM2-135M-Instruct. **Simulated**: no card has been involved. Written by",
        "`python -m tools.bench.vacc`; raw values in [vacc_fidelity.csv](vacc_fidelity.csv). Reference: transformers",
        "in fp32; [fidelity.md](x86-64-v3/fidelity.md) says what the numbers mean.",
        "",
        f"Text: {corpus.SOURCE}",
        "",
        "| graphs | positions | mean KL (nats) | p99 KL | top-1 alike | perplexity | measured (UTC) |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.engine} | {r.positions} | {r.mean_kl:.2e} | {r.p99_kl:.2e} | {r.top1:.2%} | {r.perplexity:.3f} "
        f"| {r.measured} |"
        for r in rows
    ]
    if text:
        lines += ["", _GREEDY_TITLE, "", text]
    lines += ["", "## Machine of the last run", "", *(f"- {key}: {value}" for key, value in machine.items()), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
