"""`make bench-long`: decode speed and memory of the CPU target over contexts of up to 128k tokens, on a 1.1B shape.

    python -m tools.bench.long_context                       # fp16 and int8 caches, linear RoPE scaling
    python -m tools.bench.long_context --kv int8 --rope dynamic --contexts 512 4096
    python -m tools.bench.long_context --real 131072         # every token prefilled; many hours on two cores

The model is synthetic, of TinyLlama-1.1B's shape, with RoPE scaled from its 2,048 positions: linearly to the longest
context, or by the dynamic NTK rule. What is measured is what a user runs: a process loads the artifact and asks for a
few tokens behind one random text.

Prompts of contexts up to `--real` tokens are prefilled, each from where the one before it ended, as its beginning is in
the KV cache. Of longer ones (`filled` in the tables) all but the last `--last` tokens, a chunk, are pseudo-random keys
and values (`Model.fill_cache`), which take as much memory and as long to read; the last tokens are prefilled behind
them, and then more are decoded. So all code runs at that length, and the peak of memory is real; only the answer means
nothing.

After each answer the process's peak resident set is compared with what `xamc plan` announces for that context; more
than that fails the run. Rows are added to a CSV file one by one, and a run that is started again goes on behind them.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SHAPE = "tinyllama-1.1b"
CONTEXTS = (512, 4096, 16384, 32768, 65536, 131072)
REAL = 16384
CHUNK, DECODED = 512, 32
PREFILL_STEP = 8 * CHUNK  # tokens between two signs of progress
DYNAMIC_FACTOR = 2.0
KV_TYPES = ("fp32", "fp16", "bf16", "int8")
ROPE_TYPES = ("linear", "dynamic")
MIB = 2**20


@dataclass(frozen=True)
class Series:
    """Contexts of one artifact.

    Attributes:
        weights: w4, w8 or fp16.
        kv_dtype: of the KV cache.
        rope: kind of scaling.
        limit: the longest context, which the artifact is compiled for.
    """

    weights: str
    kv_dtype: str
    rope: str
    limit: int

    @property
    def name(self) -> str:
        """For files."""
        return f"long-{self.limit}-{self.weights}-kv-{self.kv_dtype}-{self.rope}"


@dataclass(frozen=True)
class Row:
    """One context.

    Attributes:
        weights, kv_dtype, rope: of its series.
        context: tokens of prompt and answer.
        mode: ``real``, or ``filled`` where most of the cache is pseudo-random.
        threads: of the kernels.
        prefilled: tokens of the prompt that were computed; the rest was cached or filled.
        prefill_tokens_per_s: of those.
        decode_tokens_per_s: of the tokens behind the prompt.
        kv_mib: bytes of keys and values that one decoded token reads.
        peak_rss_mib: of the process until then.
        announced_mib: by `xamc plan`, for this context.
        measured: when, UTC.
        load: processes that wanted a CPU in the minute before, those of the measurement included.
    """

    weights: str
    kv_dtype: str
    rope: str
    context: int
    mode: str
    threads: int
    prefilled: int
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    kv_mib: float
    peak_rss_mib: float
    announced_mib: float
    measured: str
    load: float = 0.0

    @property
    def is_within(self) -> bool:
        """Whether the process took no more than was announced."""
        return self.peak_rss_mib <= self.announced_mib

    @property
    def place(self) -> tuple[str, str, str, int, int]:
        """What a page has one row of, however its cache was filled."""
        return (self.weights, self.kv_dtype, self.rope, self.context, self.threads)

    @property
    def key(self) -> tuple[str, str, str, int, str, int]:
        """What a run does once."""
        return (self.weights, self.kv_dtype, self.rope, self.context, self.mode, self.threads)


def spec_of(checkpoint: Path, workspace: Path, context: int, series: Series) -> dict[str, Any]:
    """The build file as a mapping, for a context."""
    quantize = {"w4": {"type": "w4a16_rtn"}, "w8": {"type": "w8a16_rtn"}, "fp16": None}[series.weights]
    return {
        "name": series.name,
        "frontend": {
            "checkpoint": str(checkpoint),
            "shape": {"input_ids": [[min(CHUNK, context)], [context]]},
            **({"quantize": quantize} if quantize else {}),
        },
        "backend": {"type": "tvm_cpu"},
        # random weights say nothing about quality
        "verify": {"passes": "off", "prompts": ["a"]},
        "runtime": {"max_batch": 1, "kv_dtype": series.kv_dtype},
        "workspace": {"path": str(workspace)},
    }


def make_checkpoint(folder: Path, rope: str, limit: int) -> Path:
    """The checkpoint of a kind of scaling: a config of its own beside the one set of weights."""
    from tools.make_checkpoint import SHAPES, write_checkpoint

    base, checkpoint = folder / SHAPE, folder / f"{SHAPE}-{rope}-{limit}"
    if not (base / "config.json").is_file():
        write_checkpoint(base, dict(SHAPES[SHAPE]), dtype="float16", seed=0, progress=sys.stderr.isatty())
    config = json.loads((base / "config.json").read_text())
    factor = DYNAMIC_FACTOR if rope == "dynamic" else max(1.0, limit / config["max_position_embeddings"])
    checkpoint.mkdir(exist_ok=True)
    for file in base.iterdir():
        if file.name != "config.json" and not (checkpoint / file.name).exists():
            os.link(file, checkpoint / file.name)
    scaled = config | {"rope_scaling": {"rope_type": rope, "factor": factor}}
    (checkpoint / "config.json").write_text(json.dumps(scaled, indent=2))
    return checkpoint


def make_artifact(folder: Path, series: Series) -> tuple[Path, Path]:
    """Checkpoint and artifact, made once per folder."""
    checkpoint = make_checkpoint(folder, series.rope, series.limit)
    artifact = folder / series.name
    if not (artifact / "manifest.json").is_file():
        file = folder / f"{series.name}.yaml"
        # JSON is YAML
        file.write_text(json.dumps(spec_of(checkpoint, folder, series.limit, series)), encoding="utf-8")
        subprocess.run([sys.executable, "-m", "xamc", "compile", str(file)], check=True, cwd=ROOT)
    return checkpoint, artifact


def measure(artifact: Path, contexts: Sequence[int], real: int, last: int, threads: int | None, decoded: int) -> None:
    """The worker: prints JSON objects. It imports what `xamc run` does, so that its memory is a user's."""
    from xamc import runtime

    model = runtime.load_language_model(artifact, threads)
    seed = 12345
    text = []
    for _ in range(max(contexts)):  # a random text without NumPy's generators, which a user's process does not load
        seed = (1103515245 * seed + 12345) % 2**31
        text.append(seed % model.manifest.model.vocab_size)
    for context in contexts:
        prompt = text[: context - decoded]
        computed, seconds = 0, 0.0
        if context > real:
            model.fill_cache(prompt, len(prompt) - last)
        elif model.manifest.model.rope.kind != "dynamic":  # whose keys depend on the length of the prompt
            for length in range(PREFILL_STEP, len(prompt), PREFILL_STEP):
                print(json.dumps({"context": context, "prefilled": length}), flush=True)
                part = model.generate(prompt[:length], 1, ignore_eos=True)
                computed += part.prompt_tokens - part.reused_tokens
                seconds += (part.prompt_tokens - part.reused_tokens) / part.prefill_tokens_per_s
        print(json.dumps({"context": context, "prefilled": len(prompt)}), flush=True)
        answer = model.generate(prompt, decoded, ignore_eos=True)
        computed += answer.prompt_tokens - answer.reused_tokens
        seconds += (answer.prompt_tokens - answer.reused_tokens) / answer.prefill_tokens_per_s
        found = {
            "context": context,
            "threads": model.threads,
            "prefilled": computed,
            "prefill_tokens_per_s": computed / seconds,
            "decode_tokens_per_s": answer.decode_tokens_per_s,
            "peak_rss": peak_rss(),
        }
        print(json.dumps({"found": found}), flush=True)


def peak_rss() -> int:
    """This process's largest resident set so far, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM")


def run(
    checkpoint: Path,
    artifact: Path,
    series: Series,
    contexts: Sequence[int],
    real: int,
    last: int,
    threads: int | None,
    decoded: int,
) -> Iterator[Row]:
    """Runs a worker and compares what it says with the plan."""
    from xamc.compiler.plan.plan import make_plan

    command = [sys.executable, "-m", "tools.bench.long_context", "--worker", str(artifact), "--decoded", str(decoded)]
    command += ["--contexts", *map(str, contexts), "--real", str(real), "--last", str(last)]
    command += ["--threads", str(threads)] if threads else []
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as worker:
        assert worker.stdout is not None
        for line in worker.stdout:
            message = json.loads(line)
            found = message.get("found")
            if found is None:
                say_progress(
                    f"{series.name}: {message['context']} tokens, prefill up to {message['prefilled']}", started
                )
                continue
            say_progress("", started)
            running = make_plan(spec_of(checkpoint, artifact.parent, found["context"], series)).running
            assert running is not None
            yield Row(
                weights=series.weights,
                kv_dtype=series.kv_dtype,
                rope=series.rope,
                context=found["context"],
                mode="real" if found["context"] <= real else "filled",
                threads=found["threads"],
                prefilled=found["prefilled"],
                prefill_tokens_per_s=round(found["prefill_tokens_per_s"], 1),
                decode_tokens_per_s=round(found["decode_tokens_per_s"], 2),
                kv_mib=round(running.kv_sequence / MIB, 1),
                peak_rss_mib=round(found["peak_rss"] / MIB, 1),
                announced_mib=round(running.total / MIB, 1),
                measured=time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
                load=round(os.getloadavg()[0], 1),
            )
    if worker.returncode:
        raise SystemExit(f"the worker ended with {worker.returncode}")


def say_progress(text: str, started: float) -> None:
    """One line that is written over, on terminals only."""
    if sys.stderr.isatty():
        print(
            f"\r\033[K{text and f'[{time.monotonic() - started:5.0f} s] '}{text}", end="", file=sys.stderr, flush=True
        )


def read_rows(file: Path) -> list[Row]:
    """The rows of a CSV file; none if there is no file."""
    if not file.is_file():
        return []
    kinds = {"str": str, "int": int, "float": float}
    of_field = {field.name: kinds[str(field.type)] for field in fields(Row)}
    with file.open(newline="", encoding="utf-8") as stream:
        return [Row(**{name: of_field[name](value) for name, value in line.items()}) for line in csv.DictReader(stream)]


def write_rows(rows: Iterable[Row], file: Path) -> None:
    """Writes them all, in order of their keys; the file is replaced as a whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    with part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in sorted(rows, key=lambda row: row.key))
    part.replace(file)


def page(rows: Sequence[Row]) -> str:
    """The page of `docs/benchmarks`."""
    lines = [
        "# Long contexts: decode speed and memory of the CPU target",
        "",
        "Written by `make bench-long`; raw values are in [long.csv](long.csv). TinyLlama-1.1B's shape with random",
        "weights, one sequence. Rows that are *filled* have pseudo-random keys and values in all but the last tokens,",
        "which were prefilled like every token of *real* rows: decode speed and memory are those of any cache of that",
        "length. “Announced” is what `xamc plan` says before; the run fails if a process takes more.",
        "Load is how many processes wanted a CPU meanwhile: where it is far above the number of threads, others took",
        "most of the machine, and only the columns of memory mean anything. That holds for rows without a number too.",
        "",
    ]
    names = ("context", "mode", "prefilled tokens", "at tok/s", "decode tok/s", "KV cache MiB", "peak RSS MiB")
    head = f"| {' | '.join((*names, 'announced MiB', 'load'))} |"
    for key in sorted({(r.weights, r.kv_dtype, r.rope, r.threads) for r in rows}):
        weights, kv, rope, threads = key
        lines += [f"## {weights} weights, {kv} KV cache, {rope} RoPE scaling, {threads} threads", "", head]
        lines.append("|---:|---|---:|---:|---:|---:|---:|---:|---:|")
        for row in sorted(rows, key=lambda row: row.context):
            if (row.weights, row.kv_dtype, row.rope, row.threads) == key:
                lines.append(
                    f"| {row.context:,} | {row.mode} | {row.prefilled:,} | {row.prefill_tokens_per_s:.0f} | "
                    f"{row.decode_tokens_per_s:.1f} | {row.kv_mib:,.0f} | {row.peak_rss_mib:,.0f} | "
                    f"{row.announced_mib:,.0f} | {f'{row.load:.0f}' if row.load else '–'} |"
                )
        lines.append("")
    return "\n".join(lines)


def missing(series: Series, contexts: Iterable[int], real: int, threads: int, rows: Sequence[Row]) -> list[int]:
    """The contexts that no row has yet."""
    known = {row.key for row in rows}
    modes = {context: "real" if context <= real else "filled" for context in contexts}
    key = (series.weights, series.kv_dtype, series.rope)
    return [context for context, mode in sorted(modes.items()) if (*key, context, mode, threads) not in known]


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", type=int, nargs="+", default=list(CONTEXTS))
    parser.add_argument("--real", type=int, default=REAL, help="longest context that is prefilled as a whole")
    parser.add_argument("--last", type=int, default=CHUNK, help="tokens that are prefilled of longer ones")
    parser.add_argument("--kv", nargs="+", default=["fp16", "int8"], choices=KV_TYPES)
    parser.add_argument("--rope", nargs="+", default=["linear"], choices=ROPE_TYPES)
    parser.add_argument("--weights", default="w4", choices=("w4", "w8", "fp16"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--decoded", type=int, default=DECODED, help="tokens of each answer")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "long", help="checkpoints and artifacts")
    parser.add_argument("--out", type=Path, help="folder of long.csv and long.md; default: docs/benchmarks/LEVEL")
    parser.add_argument("--fresh", action="store_true", help="measure again what long.csv has")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    contexts = sorted(options.contexts)
    if min(contexts) <= options.decoded or not 0 < options.last <= CHUNK <= options.real:
        parser.error(f"contexts are longer than --decoded, and --last is at most {CHUNK}, --real at least that")
    if options.worker:
        measure(options.worker, contexts, options.real, options.last, options.threads, options.decoded)
        return
    from tools.bench.pages import level_pages, publish
    from xamc.runtime.threads import check_threads

    out = options.out or level_pages()

    options.folder.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "long.csv"
    rows = read_rows(file)
    beyond = []
    for rope in options.rope:
        for kv in options.kv:
            series = Series(options.weights, kv, rope, max(CONTEXTS[-1], contexts[-1]))
            known = [] if options.fresh else rows
            wanted = missing(series, contexts, options.real, check_threads(options.threads), known)
            if not wanted:
                continue
            checkpoint, artifact = make_artifact(options.folder.absolute(), series)
            # what was cached with another base is no prefix, and would only add to the memory
            groups = [[context] for context in wanted] if rope == "dynamic" else [wanted]
            for group in groups:
                found = run(
                    checkpoint, artifact, series, group, options.real, options.last, options.threads, options.decoded
                )
                for row in found:
                    rows = [other for other in rows if other.place != row.place] + [row]
                    write_rows(rows, file)
                    (out / "long.md").write_text(page(rows), encoding="utf-8")
                    print(summary(row), flush=True)
                    beyond += [] if row.is_within else [f"{series.name} at {row.context} tokens"]
    if out == level_pages():
        publish()
    if beyond:
        raise SystemExit(f"more memory than announced: {', '.join(beyond)}")


def summary(row: Row) -> str:
    """One line for the terminal."""
    return (
        f"{row.context:7d} tokens, {row.mode}: decode {row.decode_tokens_per_s:6.2f} tokens/s over "
        f"{row.kv_mib:.0f} MiB of {row.kv_dtype} keys and values, prefill of {row.prefilled} "
        f"at {row.prefill_tokens_per_s:.0f} tokens/s, "
        f"peak {row.peak_rss_mib:.0f} MiB of {row.announced_mib:.0f} announced"
    )


if __name__ == "__main__":
    main()
