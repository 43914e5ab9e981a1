"""`make bench-long`: decode speed and memory of the CPU target over contexts of up to 128k tokens, on a 1.1B shape.

    python -m tools.bench.long_context                                  # 0.5k to 64k tokens; takes hours on two cores
    python -m tools.bench.long_context --contexts 512 4096 --kv int8
    python -m tools.bench.long_context --contexts 512 4096 16384 32768 65536 131072

The model is synthetic, of TinyLlama-1.1B's shape, with linear RoPE scaling from its 2,048 positions to the longest
context. What is measured is what a user runs: one process loads the artifact and asks for a few tokens behind longer
and longer beginnings of one random text. Each prompt is prefilled in chunks from where the one before it ended, as its
beginning is in the KV cache. After each answer the process's peak resident set is compared with what `xamc plan`
announces for that context; more than that fails the run.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SHAPE = "tinyllama-1.1b"
CONTEXTS = (512, 4096, 16384, 32768, 65536)
CHUNK, DECODED = 512, 16
MIB = 2**20


@dataclass(frozen=True)
class Row:
    """One context.

    Attributes:
        context: tokens of the prompt.
        kv_dtype: of the KV cache.
        threads: of the kernels.
        prefilled: tokens of the prompt that were computed; the rest was cached.
        prefill_tokens_per_s: of those.
        decode_tokens_per_s: of the tokens behind the prompt.
        kv_mib: bytes of keys and values that one decoded token reads.
        peak_rss_mib: of the process until then.
        announced_mib: by `xamc plan`, for this context.
    """

    context: int
    kv_dtype: str
    threads: int
    prefilled: int
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    kv_mib: float
    peak_rss_mib: float
    announced_mib: float

    @property
    def is_within(self) -> bool:
        """Whether the process took no more than was announced."""
        return self.peak_rss_mib <= self.announced_mib


def spec_of(checkpoint: Path, workspace: Path, context: int, kv: str, weights: str) -> dict[str, Any]:
    """The build file as a mapping."""
    quantize = {"w4": {"type": "w4a16_rtn"}, "w8": {"type": "w8a16_rtn"}, "fp16": None}[weights]
    return {
        "name": f"long-{context}-{weights}-kv-{kv}",
        "frontend": {
            "checkpoint": str(checkpoint),
            "shape": {"input_ids": [[min(CHUNK, context)], [context]]},
            **({"quantize": quantize} if quantize else {}),
        },
        "backend": {"type": "tvm_cpu"},
        # random weights say nothing about quality
        "verify": {"passes": "off", "prompts": ["a"]},
        "runtime": {"max_batch": 1, "kv_dtype": kv},
        "workspace": {"path": str(workspace)},
    }


def make_artifact(folder: Path, context: int, kv: str, weights: str) -> tuple[Path, dict[str, Any]]:
    """Checkpoint and artifact, made once per folder, and the spec."""
    from tools.make_checkpoint import SHAPES, write_checkpoint

    checkpoint = folder / f"{SHAPE}-{context}"
    if not (checkpoint / "config.json").is_file():
        config = dict(SHAPES[SHAPE])
        factor = max(1.0, context / config["max_position_embeddings"])
        config["rope_scaling"] = {"rope_type": "linear", "factor": factor}
        write_checkpoint(checkpoint, config, dtype="float16", seed=0, progress=True)
    spec = spec_of(checkpoint, folder, context, kv, weights)
    artifact = folder / spec["name"]
    if not (artifact / "manifest.json").is_file():
        file = folder / f"{spec['name']}.yaml"
        file.write_text(json.dumps(spec), encoding="utf-8")  # JSON is YAML
        subprocess.run([sys.executable, "-m", "xamc", "compile", str(file)], check=True, cwd=ROOT)
    return artifact, spec


def measure(artifact: Path, contexts: list[int], threads: int | None, decoded: int) -> None:
    """The worker: prints a JSON object per context. It imports what `xamc run` does, so that its memory is a user's."""
    from xamc import runtime

    model = runtime.load_language_model(artifact, threads)
    seed = 12345
    text = []
    for _ in range(max(contexts)):  # a random text without NumPy's generators, which a user's process does not load
        seed = (1103515245 * seed + 12345) % 2**31
        text.append(seed % model.manifest.model.vocab_size)
    for context in contexts:
        start = time.perf_counter()
        prompt = text[: context - decoded]
        answer = model.generate(prompt, decoded, ignore_eos=True)
        found = {
            "context": context,
            "threads": model.threads,
            "prefilled": answer.prompt_tokens - answer.reused_tokens,
            "prefill_tokens_per_s": answer.prefill_tokens_per_s,
            "decode_tokens_per_s": answer.decode_tokens_per_s,
            "peak_rss": peak_rss(),
            "seconds": time.perf_counter() - start,
        }
        print(json.dumps(found), flush=True)


def peak_rss() -> int:
    """This process's largest resident set so far, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM")


def run(artifact: Path, spec: dict[str, Any], contexts: list[int], threads: int | None, decoded: int) -> Iterator[Row]:
    """Runs the worker and compares what it says with the plan."""
    from xamc.compiler.plan import make_plan

    command = [sys.executable, "-m", "tools.bench.long_context", "--worker", str(artifact), "--decoded", str(decoded)]
    command += ["--contexts", *map(str, contexts), *(["--threads", str(threads)] if threads else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as worker:
        assert worker.stdout is not None
        for line in worker.stdout:
            found = json.loads(line)
            spec["frontend"]["shape"]["input_ids"] = [[min(CHUNK, found["context"])], [found["context"]]]
            running = make_plan(spec).running
            assert running is not None
            yield Row(
                context=found["context"],
                kv_dtype=spec["runtime"]["kv_dtype"],
                threads=found["threads"],
                prefilled=found["prefilled"],
                prefill_tokens_per_s=round(found["prefill_tokens_per_s"], 1),
                decode_tokens_per_s=round(found["decode_tokens_per_s"], 2),
                kv_mib=round(running.kv_sequence / MIB, 1),
                peak_rss_mib=round(found["peak_rss"] / MIB, 1),
                announced_mib=round(running.total / MIB, 1),
            )
    if worker.returncode:
        raise SystemExit(f"the worker ended with {worker.returncode}")


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", type=int, nargs="+", default=list(CONTEXTS))
    parser.add_argument("--kv", default="fp16", choices=("fp32", "fp16", "bf16", "int8"))
    parser.add_argument("--weights", default="w4", choices=("w4", "w8", "fp16"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--decoded", type=int, default=DECODED, help="tokens of each answer")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "long", help="checkpoint and artifact")
    parser.add_argument("--out", type=Path, help="a CSV file for the results")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    contexts = sorted(options.contexts)
    if options.worker:
        measure(options.worker, contexts, options.threads, options.decoded)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    artifact, spec = make_artifact(options.folder.absolute(), contexts[-1], options.kv, options.weights)
    rows = []
    for row in run(artifact, spec, contexts, options.threads, options.decoded):
        rows.append(row)
        print(
            f"{row.context:7d} tokens: decode {row.decode_tokens_per_s:6.2f} tokens/s over {row.kv_mib:.0f} MiB of "
            f"{row.kv_dtype} keys and values, prefill of {row.prefilled} at {row.prefill_tokens_per_s:.0f} tokens/s, "
            f"peak {row.peak_rss_mib:.0f} MiB of {row.announced_mib:.0f} announced",
            flush=True,
        )
    if options.out:
        with options.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Row)])
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)
    beyond = [row.context for row in rows if not row.is_within]
    if beyond:
        raise SystemExit(f"more memory than announced at {', '.join(map(str, beyond))} tokens")


if __name__ == "__main__":
    main()
