"""`make bench --keep`: what stays of an earlier run, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.bench.__main__ import _arguments
from tools.bench.engines import BenchError
from tools.bench.kept import ENVIRONMENT, SAMPLES, Kept, keep, write_environment
from tools.bench.samples import Sample, SampleFile

MACHINE = {"cpu": "some", "numpy": "1"}


def sample(engine: str, width: int, value: float) -> Sample:
    stage = "speed" if engine else "peak"
    return Sample(stage, "m", engine, width, 2, 0, "decode", value, 1.0, 1.0, "2026-01-01T00:00:00Z", "command")


def pages(folder: Path) -> None:
    SampleFile(folder / SAMPLES).add([sample("", 0, 5.0), sample("xamc w4", 4, 1.0), sample("xamc fp16", 16, 2.0)])
    write_environment(folder, MACHINE, Kept(), "first", [4, 16])


def test_other_widths_stay_with_their_times(tmp_path: Path) -> None:
    pages(tmp_path)
    kept = keep(tmp_path, MACHINE, [16])
    assert [(s.engine, s.value) for s in kept.samples] == [("xamc w4", 1.0)], "a run measures its own peaks"
    assert kept.times == {4: "first"}
    assert kept.when("second", [16]) == "4-bit first, 16-bit second"
    write_environment(tmp_path, MACHINE, kept, "second", [16])
    assert json.loads((tmp_path / ENVIRONMENT).read_text())["times"] == {"4": "first", "16": "second"}
    assert keep(tmp_path, MACHINE, [4]).when("third", [4]) == "4-bit third, 16-bit second"


def test_a_run_of_everything_has_one_time(tmp_path: Path) -> None:
    assert Kept().when("now", [4, 8, 16]) == "now"
    write_environment(tmp_path, MACHINE, Kept(), "now", [4, 8])
    assert json.loads((tmp_path / ENVIRONMENT).read_text()) == {
        "times": {"4": "now", "8": "now"},
        "machine": MACHINE,
        "command": "make bench",
    }


def test_nothing_is_kept_of_another_machine(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="nothing to keep"):
        keep(tmp_path, MACHINE, [16])
    pages(tmp_path)
    with pytest.raises(BenchError, match=r"other packages \(numpy, torch\)"):
        keep(tmp_path, {"cpu": "some", "numpy": "2", "torch": "3"}, [16])


def test_what_has_no_time_can_not_be_kept(tmp_path: Path) -> None:
    pages(tmp_path)
    (tmp_path / ENVIRONMENT).write_text(json.dumps({"machine": MACHINE, "times": {"16": "first"}}))
    with pytest.raises(BenchError, match="does not say when 4 bits were measured"):
        keep(tmp_path, MACHINE, [16])


@pytest.mark.parametrize("options", [["--rows", "w4"], ["--engines", "xamc"], ["--models", "smollm2-135m"]])
def test_only_whole_widths_can_be_measured_again(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _arguments(["--keep", *options])
    assert "--keep takes every engine and model of a width" in capsys.readouterr().err
