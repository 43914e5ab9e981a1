"""CPU levels: detection by flags, and the target each stands for."""

from itertools import pairwise
from pathlib import Path

import pytest

from xamc.errors import UnsupportedError
from xamc.jobs.processor import cpu_features
from xamc.targets.kernels.isa import LEVELS, Isa


def test_best_level_is_the_highest_whose_flags_are_all_there() -> None:
    v4 = set(LEVELS["x86-64-v4"].cpu_flags)
    assert Isa.best(v4).name == "x86-64-v4"
    assert Isa.best(v4 | {"avx512_bf16"}).name == "x86-64-v4", "bf16 without VNNI is no level of ours"
    assert Isa.best(v4 | {"avx512_bf16", "avx512_vnni"}).has_bf16_dot
    assert Isa.best(v4 - {"avx512bw"}).name == "x86-64-v3"
    assert Isa.best(v4 - {"f16c"}).name == "x86-64-v2"


def test_processor_below_the_lowest_level_is_refused_by_name_of_the_missing_flag() -> None:
    with pytest.raises(UnsupportedError, match="sse2") as caught:
        Isa.best({"vfpv4"})
    assert caught.value.code == "E1462"


def test_unknown_level_lists_the_known_ones() -> None:
    with pytest.raises(UnsupportedError, match="x86-64-v3") as caught:
        Isa.by_name("haswell")
    assert caught.value.code == "E1461"


def test_where_cpus_differ_the_host_has_what_all_of_them_have(tmp_path: Path) -> None:
    """Threads run on any of them, and the runtime refuses code that one of them lacks something for."""
    path = tmp_path / "cpuinfo"
    flags = [" ".join(LEVELS[name].cpu_flags) for name in ("x86-64-v4", "x86-64-v3")]
    path.write_text("".join(f"processor\t: {n}\nflags\t\t: fpu {text}\n\n" for n, text in enumerate(flags)))
    assert Isa.best(cpu_features(path)).name == "x86-64-v3"


def test_host_is_a_known_level() -> None:
    assert Isa.host() in LEVELS.values()


def test_levels_rise() -> None:
    for is_arm in (False, True):
        flags = [set(level.cpu_flags) for level in LEVELS.values() if level.is_arm is is_arm]
        assert all(low < high for low, high in pairwise(flags))


def test_a_processor_of_each_architecture_gets_its_own_levels() -> None:
    assert Isa.best({"sse2", "fpu"}).name == "x86-64"
    assert Isa.best({"fp", "asimd", "crc32"}).name == "aarch64"
    assert Isa.best({"fp", "asimd", "asimddp", "i8mm", "sve"}).target()["mattr"] == ["+neon", "+dotprod", "+i8mm"]
