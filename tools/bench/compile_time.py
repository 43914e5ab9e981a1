"""How long code generation takes for a model of many layers, per width of its weights: wall clock and CPU time.

    python -m tools.bench.compile_time [--shape internlm3-8b] [--layers 48] [--width w4 ...] [--json]

The checkpoint has all headers and no data (its files are holes), as code generation reads names, shapes and dtypes
only. Export and graph passes run too, untimed; the timed step is what the stage `codegen` does of a compile without
proofs (`verify.passes: "off"`): from the rewritten graph to the shared library, in its child processes, with a stage
cache that is empty. The wall clock means something on an idle machine; CPU time, of all processes together, nearly
everywhere.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from tools.make_checkpoint import DTYPES, SHAPES, safetensors_header, tensor_layout, tokenizer_json
from xamc.compiler.frontends import open_checkpoint
from xamc.compiler.spec import load_spec
from xamc.compiler.stages.export import export
from xamc.compiler.stages.job import CompileOptions, Job
from xamc.compiler.stages.target_options import target_options
from xamc.jobs.cache import StageCache
from xamc.jobs.progress import Progress
from xamc.targets.cpu.library import generate
from xamc.targets.registry import target
from xamc.verify.driver import rewrite

WIDTHS: dict[str, dict[str, Any]] = {
    "w4": {"dtype": "int4", "quantize": {"type": "w4a16_rtn", "group_size": 32}},
    "w8": {"dtype": "int8", "quantize": {"type": "w8a16_rtn"}},
    "fp16": {"dtype": "fp16", "quantize": None},
}
LIMIT_SECONDS = 60.0
"""What 48 layers may take on two idle cores."""


@dataclass(frozen=True)
class Measured:
    """One code generation: seconds by the wall clock, of CPU time, and by step."""

    shape: str
    layers: int
    width: str
    mcpu: str
    wall: float
    cpu: float
    steps: dict[str, float]


def hollow_checkpoint(folder: Path, shape: str, layers: int) -> Path:
    """A checkpoint of `shape` whose files have headers, and holes for data."""
    config = {**SHAPES[shape], "num_hidden_layers": layers, "torch_dtype": "float16"}
    layout = tensor_layout(config)
    folder.mkdir(parents=True)
    header = safetensors_header(list(layout), layout, "float16")
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(header)
        stream.truncate(
            len(header) + sum(math.prod(s) for s in layout.values()) * np.dtype(DTYPES["float16"][1]).itemsize
        )
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_bytes(tokenizer_json())
    return folder


def measure(folder: Path, shape: str, layers: int, width: str, mcpu: str) -> Measured:
    """Generates the code of the checkpoint in `folder` / checkpoint.

    Args:
        folder: for the checkpoint (made when absent) and the stage cache (exports are kept between widths).
        shape: one of `SHAPES`.
        layers: instead of the shape's own.
        width: one of `WIDTHS`.
        mcpu: CPU level.
    """
    checkpoint_folder = folder / "checkpoint"
    if not checkpoint_folder.is_dir():
        hollow_checkpoint(checkpoint_folder, shape, layers)
    options = WIDTHS[width]
    frontend = {"checkpoint": str(checkpoint_folder), "type": "huggingface", "shape": {"input_ids": [[512], [8192]]}}
    if options["quantize"]:
        frontend["quantize"] = options["quantize"]
    spec = load_spec(
        {
            "name": "compile-time",
            "frontend": frontend,
            "backend": {"type": "tvm_cpu", "dtype": options["dtype"], "compile": {"mcpu": mcpu}},
            "workspace": {"path": str(folder / "deploy")},
        }
    ).spec
    cpu = target(spec.backend.type)
    request = cpu.request(target_options(spec, cpu.caps, False)[0])
    with StageCache(folder, folder / "cache") as cache, StageCache(folder, enabled=False) as fresh:
        job = Job(CompileOptions(), cache, Progress(Console(quiet=True)), 1)
        exported = export(job, open_checkpoint(checkpoint_folder, "huggingface"), False, 32)
        rewritten = rewrite(exported.program, None, cpu.passes(request))
        before, started = os.times(), time.perf_counter()
        generated = generate(rewritten.program, request, None, fresh, None)
        wall, after = time.perf_counter() - started, os.times()
    used = sum(after[:4]) - sum(before[:4])
    return Measured(
        shape,
        layers,
        width,
        generated.libraries[0][1].cpu.mcpu,
        round(wall, 2),
        round(used, 2),
        dict(generated.seconds),
    )


def main() -> int:
    """Command line: see the module's docstring. Status 1 when a width takes longer than `LIMIT_SECONDS`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="internlm3-8b", choices=sorted(SHAPES))
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--width", nargs="+", default=list(WIDTHS), choices=list(WIDTHS))
    parser.add_argument("--mcpu", default="native")
    parser.add_argument("--json", action="store_true", help="a JSON object per line instead of a table")
    options = parser.parse_args()
    slow = []
    with tempfile.TemporaryDirectory(prefix="xamc-compile-time-") as name:
        for width in options.width:
            measured = measure(Path(name), options.shape, options.layers, width, options.mcpu)
            if measured.wall > LIMIT_SECONDS:
                slow.append(width)
            if options.json:
                print(json.dumps(asdict(measured)), flush=True)
                continue
            steps = ", ".join(f"{step} {seconds:.1f}" for step, seconds in measured.steps.items())
            print(
                f"{measured.shape} x {measured.layers} layers, {width:<4} {measured.mcpu}: {measured.wall:.1f} s of "
                f"wall clock, {measured.cpu:.1f} s of CPU time ({steps})",
                flush=True,
            )
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
