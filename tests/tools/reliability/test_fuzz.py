"""A bounded slice of the fuzzing, and that the tool notices what it is there for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.reliability import fuzz as fuzz_module
from tools.reliability.formats import FORMATS, Format
from tools.reliability.fuzz import fuzz, make_input, shares

SLICE = 1500  # inputs of all formats together
SEED = 77


@pytest.mark.parametrize("name", FORMATS)
def test_a_slice_of_every_format(name: str, tmp_path: Path) -> None:
    found = fuzz(name, shares(SLICE, list(FORMATS))[name], SEED, tmp_path)
    assert found.tried >= 30 and found.failures == {}


def _crash(content: bytes, folder: Path) -> None:
    os.abort()


def _hang(content: bytes, folder: Path) -> None:
    while True:
        pass


def _stuck(content: bytes, folder: Path) -> None:
    while True:
        time.sleep(60)


def _grow(content: bytes, folder: Path) -> None:
    bytearray(8 * 2**30)


def _defect(content: bytes, folder: Path) -> None:
    {}["x"]


def _process(content: bytes, folder: Path) -> None:
    try:
        subprocess.run([sys.executable, "-c", ""], check=False)
    except BaseException:
        return  # an escape that is hidden is one all the same


def _write(content: bytes, folder: Path) -> None:
    (folder.parent / "escaped").write_bytes(content)


def _run(content: bytes, folder: Path) -> None:
    (folder / "evil.py").write_text("")
    sys.path.insert(0, str(folder))
    __import__("evil")


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (_crash, "SIGABRT"),
        (_hang, "Hang"),
        (_stuck, "stuck"),
        (_grow, "MemoryError"),
        (_defect, "KeyError"),
        (_process, "subprocess.Popen"),
        (_write, "Escaped"),
        (_run, "Escaped"),
    ],
)
def test_what_must_not_happen_is_noticed(
    read: Callable[[bytes, Path], None], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter([lambda content, folder: None])  # the valid example is read before the fork

    def reading(content: bytes, folder: Path) -> None:
        next(calls, read)(content, folder)

    monkeypatch.setattr(fuzz_module, "SECONDS", 0.3)
    monkeypatch.setattr(fuzz_module, "STUCK_SECONDS", 2.0 if read is _stuck else 60.0)
    monkeypatch.setitem(fuzz_module.FORMATS, "bad", Format(lambda folder: [b"x"], reading, 1))  # type: ignore[arg-type]
    found = fuzz("bad", 1, SEED, tmp_path)
    assert found.failed == 1 and words in next(iter(found.failures)), found.failures
    assert not (tmp_path.parent / "escaped").exists()


def test_inputs_follow_from_seed_and_number(tmp_path: Path) -> None:
    seeds = FORMATS["config.json"].seeds(tmp_path)
    first = [make_input("config.json", seeds, SEED, number) for number in range(60)]
    again = [make_input("config.json", seeds, SEED, number) for number in reversed(range(60))]
    assert first == again[::-1] and len(set(first)) > 50
    assert first != [make_input("config.json", seeds, SEED + 1, number) for number in range(60)]
