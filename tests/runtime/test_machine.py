"""CPU features, threads, and memory-mapped weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from xamc.compiler.artifact.manifest import Cpu
from xamc.compiler.errors import InputError, MisuseError, UnsupportedError
from xamc.runtime.cpu_features import check_cpu, cpu_features
from xamc.runtime.memory import aligned_zeros, available_bytes, map_file
from xamc.runtime.threads import check_threads

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


@pytest.mark.parametrize("threads", [0, -1, 1025])
def test_impossible_numbers_of_threads(threads: int) -> None:
    with pytest.raises(MisuseError, match="E1608"):
        check_threads(threads)


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
