"""What the disk test takes for the size of a disk; the test itself takes long and mounts disks (make reliability)."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tools.reliability import disk
from tools.reliability.disk import DiskTest
from tools.reliability.kill import Place, computed
from tools.reliability.routes import ROUTES

PAGE = 4096


@pytest.fixture
def test(tmp_path: Path) -> DiskTest:
    """As after an undisturbed compile: the artifact has the cache's own files, by hard links."""
    test = object.__new__(DiskTest)
    test.root, test.route, test.template = tmp_path, ROUTES["CPU"], Place(tmp_path / "template")
    for stage, pages in (("export", 10), ("codegen", 20), ("weights", 4)):
        entry = test.template.cache / "v1" / f"{stage}-1"
        entry.mkdir(parents=True)
        (entry / "file").write_bytes(bytes(pages * PAGE - 5))
    (test.template.cache / "digests.json").write_bytes(b"{}")
    test.template.artifact.mkdir(parents=True)
    (test.template.artifact / "model.so").hardlink_to(test.template.cache / "v1/codegen-1/file")
    (test.template.artifact / "manifest.json").write_bytes(b"{}")
    return test


def test_a_file_of_two_names_is_counted_once_and_what_the_cache_holds_is_not(test: DiskTest) -> None:
    assert test.needed() == (4 + 1 + 1) * PAGE  # weights, digests.json and the manifest


def test_disks_end_within_each_of_the_slow_stages(test: DiskTest) -> None:
    assert test.needed_within("export", 0.5) == (1 + 5) * PAGE
    assert test.needed_within("codegen", 0.25) == (1 + 10 + 5) * PAGE


def test_whoever_ends_the_test_ends_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = os.fork()
    if not pid:
        time.sleep(60)
        os._exit(0)

    def ended(pid: int) -> int:
        raise SystemExit(143)

    monkeypatch.setattr(disk, "finish", ended)
    with pytest.raises(SystemExit):
        disk._finish_or_end(pid, Place(tmp_path))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9 and computed(pid) == 0
