"""CPU features, threads, and memory-mapped weights."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime.toy import config
from xamc.artifact.manifest import Code, Cpu, Generation, KvCache, Manifest, Quantization, Weights
from xamc.errors import InputError, MisuseError, UnsupportedError
from xamc.jobs.processor import cpu_features
from xamc.runtime.cpu_features import best_code, check_cpu, why_not_run
from xamc.runtime.memory import aligned_zeros, available_bytes, map_file
from xamc.runtime.threads import check_threads, default_threads, format_cpu_list, parse_cpu_list, use_cpus

CPUINFO = "processor\t: 0\nflags\t\t: fpu sse4_2 avx2 fma\n\nprocessor\t: 1\nflags\t\t: fpu sse4_2 avx2 fma avx512f\n"


def test_features_are_those_all_cpus_have(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(CPUINFO)
    assert cpu_features(path) == {"fpu", "sse4_2", "avx2", "fma"}
    check_cpu(Cpu("x86-64-v3", ("avx2", "fma")), path)
    with pytest.raises(
        UnsupportedError, match=r"E1607 this CPU lacks avx512f, avx512_vnni|E1607.*avx512_vnni, avx512f"
    ):
        check_cpu(Cpu("znver4", ("avx2", "avx512f", "avx512_vnni")), path)
    assert cpu_features()


def _manifest(*features: str) -> Manifest:
    """An artifact whose libraries need one more feature each."""
    codes = [Code(f"code/{count}.so", Cpu(f"level{count}", features[:count])) for count in range(1, len(features) + 1)]
    return Manifest(
        name="toy",
        target="tvm_cpu",
        xamc_version="0",
        spec={},
        model=config(9),
        context_limit=8,
        prefill_chunk=8,
        max_batch=1,
        kv=KvCache("float32"),
        functions=(),
        phases=(),
        code_file=codes[0].file,
        weights=Weights("weights.bin", 0, ()),
        cpu=codes[0].cpu,
        quantization=Quantization(),
        tokenizer="tokenizer",
        generation=Generation(None, ()),
        variants=tuple(codes[1:]),
    )


def test_the_best_library_that_a_cpu_can_run_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(CPUINFO)
    fat = _manifest("sse4_2", "avx2", "avx512f")
    assert best_code(fat, path).file == "code/2.so", "only one of the two CPUs has avx512f"
    other = tmp_path / "other"
    other.write_text(CPUINFO.replace("fma\n\n", "fma avx512f\n\n"))
    assert best_code(fat, other).file == "code/3.so"
    assert why_not_run(fat.cpus, other) == ""


def test_a_cpu_that_can_run_no_library_is_told_what_the_lowest_one_needs(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(CPUINFO)
    fat = _manifest("ssse4", "avx512f")
    assert why_not_run(fat.cpus, path) == "ssse4, which level1 code needs"
    with pytest.raises(UnsupportedError, match=r"E1607 this CPU lacks ssse4, which .*level1.*x86-64-v4"):
        best_code(fat, path)


@pytest.mark.parametrize(
    ("text", "cpus"), [("0", {0}), ("0-3,8", {0, 1, 2, 3, 8}), ("0-6:3, 1", {0, 1, 3, 6}), ("2-2", {2})]
)
def test_lists_of_cpus(text: str, cpus: set[int]) -> None:
    assert parse_cpu_list(text) == cpus
    assert parse_cpu_list(format_cpu_list(cpus)) == cpus


@pytest.mark.parametrize("text", ["", "a", "3-1", "0,,1", "-1", "0-4:0", "9999", "1:2", "0-"])
def test_what_is_no_list_of_cpus(text: str) -> None:
    with pytest.raises(MisuseError, match="E1660"):
        parse_cpu_list(text)


def test_cpus_of_other_processes_are_refused_and_ours_are_used() -> None:
    allowed = os.sched_getaffinity(0)
    with pytest.raises(MisuseError, match=r"E1660 .*may not run on CPU 8000"):
        use_cpus("8000")
    try:
        first = min(allowed)
        assert use_cpus(str(first)) == os.sched_getaffinity(0) == {first}
        assert default_threads() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_the_age_of_a_process_is_counted_from_its_very_start() -> None:
    code = "import time; time.sleep(0.2); from xamc.runtime.startup import seconds_since_start as s; print(s())"
    started = time.monotonic()
    age = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 0.2 <= age <= time.monotonic() - started + 0.02


@pytest.mark.parametrize("threads", [0, -1, 1025, 2.5, "4", True])
def test_impossible_numbers_of_threads(threads: Any) -> None:
    with pytest.raises(MisuseError, match="E1608"):
        check_threads(threads)


def test_more_threads_than_cpus_are_as_many_as_the_cpus(caplog: pytest.LogCaptureFixture) -> None:
    cpus = len(os.sched_getaffinity(0))
    assert check_threads(cpus) == cpus and not caplog.records
    assert check_threads(cpus + 97) == cpus
    assert f"{cpus} threads are used instead of {cpus + 97}" in caplog.text


@pytest.mark.parametrize("shape", [(1,), (3, 5), (1000, 1000)])
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint16])
def test_arrays_are_aligned(shape: tuple[int, ...], dtype: type) -> None:
    array = aligned_zeros(shape, dtype)
    assert array.ctypes.data % 64 == 0 and array.shape == shape and array.dtype == dtype
    assert not array.any()
    array[...] = 1
    assert array.all()


def test_mapped_files_are_shared_and_private(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(range(200)))
    mapped = map_file(path, 200)
    assert mapped.ctypes.data % 64 == 0 and mapped.tolist() == list(range(200))
    mapped[0] = 9
    assert path.read_bytes()[0] == 0


def test_weights_may_be_larger_than_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    nbytes = 2**40
    with path.open("wb") as file:
        file.truncate(nbytes)  # sparse: takes no disk
    mapped = map_file(path, nbytes)
    assert len(mapped) == nbytes and mapped[-1] == 0


@pytest.mark.parametrize(("name", "nbytes"), [("weights.bin", 201), ("missing.bin", 1)])
def test_missing_weights_are_named(tmp_path: Path, name: str, nbytes: int) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(200))
    with pytest.raises(InputError, match=rf"E1611.*{name}"):
        map_file(tmp_path / name, nbytes)


def test_available_memory(tmp_path: Path) -> None:
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:  100 kB\nMemAvailable:   50 kB\n")
    assert available_bytes(path) == 51200
    assert available_bytes(tmp_path / "none") is None
