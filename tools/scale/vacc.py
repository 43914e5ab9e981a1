"""The VACC part of `make scale`: the 8.8 B model in 4 ranks, float16 and int8, one after the other.

Specs are build files as the vendor writes them: lengths 1024 and 2048, tp 4, merged parameters, two workers.
"""

from __future__ import annotations

import json

from tools.scale.results import Results
from tools.scale.scratch import GIB, Scratch
from tools.watched_run import disk_bytes

PEAK_MEMORY = 4 * GIB
EXTRA_DISK = 2 * 10**9
GRAPHS = 8

SPEC = """\
name: scale-vacc-{name}
frontend:
  checkpoint: {checkpoint}
  type: huggingface
  shape:
    input_ids: [[1024], [2048]]
  model_kwargs:
    tp: 4
    b2s: true
    model_arch: vacc
{quantize}backend:
  type: tvm_vacc
  dtype: {dtype}
  merge_params: true
  compile:
    data_type: 0
    gather_data_vccl_dsp_enable: true
workspace:
  path: {workspace}
  workers: 2
"""
SETTINGS = {
    "fp16": {"quantize": "", "dtype": "fp16"},
    "int8": {"quantize": "  quantize:\n    type: w8a16_gptq\n", "dtype": "int8"},
}


def measure_vacc(scratch: Scratch, checkpoint: int, results: Results) -> None:
    """Compiles both specs, each from nothing, and counts what came out.

    Args:
        scratch: holds the checkpoint.
        checkpoint: its bytes.
        results: where the figures go.
    """
    for name, fields in SETTINGS.items():
        scratch.prepare()
        step = f"vacc {name}"
        spec = scratch.root / f"vacc_{name}.yaml"
        text = SPEC.format(name=name, checkpoint=scratch.checkpoint, workspace=scratch.deploy, **fields)
        spec.write_text(text, encoding="utf-8")
        watched, report = scratch.compile(spec=spec, options=["--allow-rtn"])
        folder = scratch.deploy / f"scale-vacc-{name}"
        artifact = disk_bytes([folder])
        results.add(step, "time", watched.seconds, "s")
        for stage in report["stages"]:
            results.add(step, f"time of {stage['name']}", stage["seconds"], "s")
            results.add(step, f"peak PSS of {stage['name']}", stage["peak_bytes"] / GIB, "GiB")
        results.add(step, "peak PSS, seen from outside", watched.peak_pss / GIB, "GiB", PEAK_MEMORY / GIB)
        results.add(step, "artifact", artifact / 1e9, "GB")
        results.add(
            step, "peak disk beyond both", (watched.peak_disk - checkpoint - artifact) / 1e9, "GB", EXTRA_DISK / 1e9
        )
        graphs = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["graphs"]
        # a target is an upper bound: graphs that are missing count here
        results.add(step, "graphs missing of eight", GRAPHS - len(graphs), "", 0.0)
        folders = {graph["code"].split("/")[0] for graph in graphs}
        results.notes.append(f"`scale-vacc-{name}` holds {', '.join(f'`{place}`' for place in sorted(folders))}.")
