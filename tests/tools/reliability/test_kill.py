"""What the kill test calls a leftover and a whole artifact; the test itself takes long (make reliability)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools.reliability.kill import MARK, Place, artifact_state, clone, computed, graft, leftovers, survivors


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path / "trial")
    for folder in (place.temporary, place.artifact, place.cache / "v1/export-1", place.cache / "locks"):
        folder.mkdir(parents=True)
    for name in ("users", "digests.json", "v1/export-1/entry.json"):
        (place.cache / name).touch()
    return place


@pytest.mark.parametrize(
    "path",
    ["tmp/tmpabc", "out/.xamc-scratch-1-0", "out/other", "cache/v1/.xamc-export-1", "cache/locks/export-1", "cache/x"],
)
def test_leftovers(place: Place, path: str) -> None:
    assert leftovers(place) == []
    (place.root / path).mkdir()
    assert leftovers(place) == [path]


def test_a_cache_without_some_stages_and_with_them_again(place: Place, tmp_path: Path) -> None:
    other = Place(tmp_path / "other")
    clone(place, other, ("export",))
    assert list((other.cache / "v1").iterdir()) == []
    graft(place, other)
    assert (other.cache / "v1/export-1/entry.json").stat().st_nlink == 2


def test_an_artifact_that_is_not_whole(place: Place) -> None:
    assert artifact_state(place.root / "nothing") == "absent"
    assert artifact_state(place.artifact).startswith("damaged: E1504")


def test_survivors_are_found_by_their_environment(place: Place) -> None:
    environment = {**os.environ, MARK: str(place.root)}
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=environment) as process:
        assert survivors(place, 2) == [process.pid]
        process.send_signal(signal.SIGKILL)
    assert survivors(place, 2) == []


def test_what_a_process_and_its_children_have_computed() -> None:
    program = "import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', 'while True: pass'])"
    with subprocess.Popen([sys.executable, "-S", "-c", program], start_new_session=True) as process:
        try:
            end = time.monotonic() + 60
            while computed(process.pid) < 0.5 and time.monotonic() < end:
                time.sleep(0.02)
            assert 0.5 <= computed(process.pid) < 60
            own = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            assert sum(map(int, own[11:15])) < 0.4 * os.sysconf("SC_CLK_TCK"), "the child computes"
        finally:
            os.killpg(process.pid, signal.SIGKILL)
