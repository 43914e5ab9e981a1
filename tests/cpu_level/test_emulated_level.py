"""The suite at another CPU level: every process believes in it, and its code runs on narrower machines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cpu_level.emulated_level import FLAGS, emulated, real_levels, real_machine
from tests.targets.kernels import test_integer_linear, test_linear
from tests.targets.kernels.harness import LEVELS_HERE, assembly
from xamc.artifact.packing import WeightFormat
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.linear import linear

WIDE = [level for level in real_levels().values() if level.lanes == 16]
V3 = real_levels()["x86-64-v3"]
needs_avx2 = pytest.mark.skipif(V3 not in LEVELS_HERE, reason="needs a processor of x86-64-v3")

SAID = """
import json, sys
import xamc.runtime.cpu_features as runtime
from xamc.artifact.manifest import Cpu
assert "xamc.targets.kernels.isa" not in sys.modules
from xamc.jobs.processor import cpu_model
from xamc.targets.kernels.isa import LEVELS, Isa
host, wide = Isa.host(), LEVELS["x86-64-v4+vnni+bf16"]
print(json.dumps({
    "host": host.name, "mcpu": host.mcpu, "attributes": host.attributes, "lanes": host.lanes, "model": cpu_model(),
    "known": Isa.by_name(host.name) is host, "lacking": runtime.missing_features(Cpu(wide.name, wide.cpu_flags)),
}))
"""
CHILD = """
import subprocess, sys
sys.exit(subprocess.run([sys.executable, "-P", "-c", sys.argv[1]]).returncode)
"""


def said(level: str, repository: Path) -> dict[str, object]:
    """What a child's child finds out about its machine."""
    begin = f"from tests.cpu_level.emulated_level import begin; begin({level!r})"
    environment = {name: value for name, value in os.environ.items() if name != FLAGS}
    done = subprocess.run(
        [sys.executable, "-c", begin + CHILD, SAID],
        cwd=repository, env={**environment, "PYTHONPATH": str(repository)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_every_process_below_is_of_the_level(repository: Path) -> None:
    machine = real_machine()
    wide = said("x86-64-v4+vnni+bf16", repository)
    assert wide["host"] == "x86-64-v4+vnni+bf16" and wide["lanes"] == 16 and wide["known"] and wide["lacking"] == []
    assert (wide["mcpu"], wide["attributes"]) == (machine.mcpu, list(machine.attributes)), "code for this machine"
    narrow = said("x86-64-v2", repository)
    assert (narrow["host"], narrow["mcpu"], narrow["lanes"]) == ("x86-64-v2", "x86-64-v2", 4)
    assert "avx2" in narrow["lacking"] and "avx512_bf16" in narrow["lacking"]  # type: ignore[operator]
    assert narrow["model"] == wide["model"], "the processor keeps its name"


def test_a_level_that_the_machine_has_stays_as_it_is() -> None:
    machine = real_machine()
    assert emulated(machine, machine) is machine
    assert all(emulated(level, WIDE[-1]) is level for level in WIDE)
    other = real_levels()["aarch64"]
    assert emulated(other, V3) is other
    vnni = emulated(WIDE[2], WIDE[1])
    assert vnni.emulate_bf16_dot and not vnni.emulate_vnni and not vnni.emulate_wide, "only what is lacking"


@pytest.mark.parametrize("wide", WIDE, ids=lambda isa: isa.name)
@pytest.mark.parametrize("kind", ["uint4", "int8"])
def test_the_code_of_wide_levels_needs_no_more_than_the_machine_has(kind: str, wide: Isa) -> None:
    isa = emulated(wide, V3)
    text = assembly(linear(64, 64, WeightFormat(kind, 32), isa, m="any", activations="int8"), isa)  # type: ignore[arg-type]
    assert "%ymm" in text and not any(word in text for word in ("%zmm", "%ymm16", "vpdpbusd", "vdpbf16ps"))


@needs_avx2
@pytest.mark.parametrize("wide", WIDE, ids=lambda isa: isa.name)
@pytest.mark.parametrize("fmt", test_integer_linear.FORMATS[1:3], ids=test_linear.name)
def test_wide_levels_multiply_integers_on_a_machine_with_avx2(fmt: WeightFormat, wide: Isa) -> None:
    test_integer_linear.check(fmt, emulated(wide, V3), 50, "any", (1, 3, 33), extras=True)


@pytest.mark.parametrize("level", ["x86-64-v5", "aarch64"])
def test_a_level_that_cannot_be_emulated_is_refused(level: str, repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/targets/kernels/test_isa.py"],
        cwd=repository, env={**{n: v for n, v in os.environ.items() if n != FLAGS}, "XAMC_TEST_LEVEL": level},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "XAMC_TEST_LEVEL: " in done.stderr and level in done.stderr
