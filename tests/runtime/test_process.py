"""What a process that only runs artifacts imports, and how much memory and time it takes to be ready."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from xamc.runtime.threads import default_threads

RUN = """
import json, os, sys, time
started = time.process_time()
from xamc import runtime
model = runtime.load(sys.argv[1], int(sys.argv[2]) or None)
ready = time.process_time() - started
answer = model.chat([{"role": "user", "content": "fox"}], 5, ignore_eos=True)

def affinities():
    for task in os.listdir("/proc/self/task"):
        try:
            yield sorted(os.sched_getaffinity(int(task)))
        except ProcessLookupError:  # one that reads weights ahead may end meanwhile
            pass

peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"modules": sorted(sys.modules), "ready": ready, "peak_mib": peak / 1024, "threads": model.threads,
                  "affinities": list(affinities()),
                  "tokens": len(answer.token_ids)}))
"""


def run(
    path: Path, environment: dict[str, str] | None = None, cpus: set[int] | None = None, threads: int = 0
) -> dict[str, Any]:
    variables = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"} | (environment or {})
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(path), str(threads)],
        capture_output=True,
        text=True,
        timeout=60,
        env=variables,
        preexec_fn=None if cpus is None else lambda: os.sched_setaffinity(0, cpus),
    )
    assert (done.returncode, done.stderr) == (0, "")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_a_process_that_runs_artifacts_is_light(make_artifact: Any) -> None:
    result = run(make_artifact())
    assert result["tokens"] == 5
    assert not {"tvm", "torch", "transformers", "onnx", "onnxruntime", "onnx_ir"} & set(result["modules"])
    rooms = {name.split(".")[1] for name in result["modules"] if name.startswith("xamc.")}
    assert rooms == {"artifact", "errors", "jobs", "model", "runtime"}
    of_jobs = {name for name in result["modules"] if name.startswith("xamc.jobs.")}
    assert of_jobs == {"xamc.jobs.hidden_imports", "xamc.jobs.processor"}
    assert not {"xamc.artifact.publish", "xamc.runtime.executors.graph"} & set(result["modules"]), "they cost time"
    # Measured: 57 MiB with tokenizers and Jinja; torch alone would add 180, TVM's Python package 340.
    assert result["peak_mib"] < 90
    # Seconds of CPU time from the import to a loaded model, measured 0.24; TVM's Python package alone would add 1.7.
    assert result["ready"] < 0.9


STEADY = """
import ctypes, json, sys, tracemalloc
from xamc import runtime

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
model = runtime.load(sys.argv[1], 1, prefault=True)
seen = []

def look(row, piece):
    info = libc.mallinfo2()
    seen.append((tracemalloc.get_traced_memory()[0], info.arena + info.hblkhd))

words = {"ignore_eos": True, "repetition_penalty": 1.3}
for _ in range(3):  # Python keeps some dozens of dictionaries and lists for later ones: let it have them
    model.generate("the quick brown fox jumps over", 20, on_text=lambda row, piece: None, **words)
tracemalloc.start()
model.generate("the quick brown fox jumps over", 20, on_text=look, **words)
print(json.dumps(seen))
"""


def test_decoding_takes_no_more_memory_with_every_token(make_artifact: Any) -> None:
    """Neither Python's objects nor the C heap, which holds TVM's pool, grow beyond the answer's own few bytes."""
    done = subprocess.run(
        [sys.executable, "-c", STEADY, str(make_artifact())], capture_output=True, text=True, check=True, timeout=120
    )
    seen = json.loads(done.stdout)
    assert len(seen) > 8
    python, heap = ([entry[index] for entry in seen[3:]] for index in range(2))
    assert (python[-1] - python[0]) / (len(python) - 1) < 400  # token ids and text; a row of logits has 1,200 bytes
    assert heap[-1] == heap[0]


def test_all_cpus_are_used_and_none_is_pinned(make_artifact: Any) -> None:
    path = make_artifact()
    everything = sorted(os.sched_getaffinity(0))
    result = run(path)
    assert result["threads"] == default_threads_of(None)
    assert all(affinity == everything for affinity in result["affinities"])
    last = {everything[-1]}
    confined = run(path, cpus=last)
    assert confined["threads"] == 1 and all(affinity == sorted(last) for affinity in confined["affinities"])
    assert run(path, {"OMP_NUM_THREADS": "1"})["threads"] == 1
    assert run(path, {"OMP_NUM_THREADS": "1"}, threads=len(everything))["threads"] == len(everything)


def default_threads_of(omp: str | None) -> int:
    saved = os.environ.pop("OMP_NUM_THREADS", None)
    try:
        return default_threads()
    finally:
        if saved is not None:
            os.environ["OMP_NUM_THREADS"] = saved


@pytest.mark.parametrize(("quota", "want"), [("max 100000", None), ("100000 100000", 1), ("50000 100000", 1)])
def test_container_quota_bounds_the_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, want: int | None
) -> None:
    from xamc.runtime import threads

    file = tmp_path / "cpu.max"
    file.write_text(quota)
    monkeypatch.setattr(threads, "_CPU_QUOTA", file)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert threads.default_threads() == (want or len(os.sched_getaffinity(0)))
