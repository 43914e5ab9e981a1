from __future__ import annotations

import errno
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import xamc
from xamc.errors import InputError
from xamc.jobs import cache as cache_module
from xamc.jobs.cache import StageCache, StageKey, cache_info, prune, stage_key

KEY = StageKey("export", "ab" * 32)


def _fill(content: bytes = b"x" * 100) -> object:
    def build(folder: Path) -> None:
        (folder / "sub").mkdir()
        (folder / "sub/graph.onnx").write_bytes(content)

    return build


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, warnings: list[str]) -> StageCache:
    return StageCache(tmp_path / "scratch", tmp_path / "cache", warn=warnings.append)


def test_result_is_found_again_by_another_compile(tmp_path: Path, cache: StageCache) -> None:
    assert cache.get(KEY) is None
    place = cache.publish(KEY, _fill())  # type: ignore[arg-type]
    assert (place / "sub/graph.onnx").read_bytes() == b"x" * 100
    cache.close()
    with StageCache(tmp_path / "scratch", tmp_path / "cache") as again:
        assert again.get(KEY) == place
        assert again.digests(place)["sub/graph.onnx"].nbytes == 100
        assert (again.hits, again.misses) == ([KEY], [])


def test_failed_build_keeps_nothing(tmp_path: Path, cache: StageCache) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_bytes(b"")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        cache.publish(KEY, build)
    assert cache.get(KEY) is None
    assert list((tmp_path / "cache/v1").iterdir()) == []


def test_full_disk_is_named_and_keeps_nothing(tmp_path: Path, cache: StageCache) -> None:
    def build(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "weights.bin"))

    with pytest.raises(InputError) as caught:
        cache.publish(KEY, build)
    assert caught.value.code == "E1506" and "weights.bin" in caught.value.message
    assert list((tmp_path / "cache/v1").iterdir()) == []


@pytest.mark.parametrize("damage", ["truncated", "missing", "no entry", "entry garbled", "other key"])
def test_damaged_entry_is_named_and_built_again(cache: StageCache, warnings: list[str], damage: str) -> None:
    place = cache.publish(KEY, _fill())  # type: ignore[arg-type]
    file = place / "sub/graph.onnx"
    if damage == "truncated":
        file.chmod(0o644)
        file.write_bytes(b"x" * 99)
    elif damage == "missing":
        file.unlink()
    elif damage == "no entry":
        (place / "entry.json").unlink()
    elif damage == "entry garbled":
        (place / "entry.json").write_text("{")
    else:
        place.rename(cache._entry_folder(StageKey("export", "cd" * 32)))
    key = StageKey("export", "cd" * 32) if damage == "other key" else KEY
    assert cache.get(key) is None
    assert len(warnings) == 1 and str(key) in warnings[0]
    again = cache.publish(key, _fill(b"y"))  # type: ignore[arg-type]
    assert (again / "sub/graph.onnx").read_bytes() == b"y"


def test_unusable_cache_costs_time_not_the_compile(tmp_path: Path, warnings: list[str]) -> None:
    (tmp_path / "cache").write_text("a file in its place")
    with StageCache(tmp_path / "scratch", tmp_path / "cache", warn=warnings.append) as cache:
        place = cache.publish(KEY, _fill())  # type: ignore[arg-type]
        assert place.is_relative_to(tmp_path / "scratch")
        assert cache.digests(place)["sub/graph.onnx"].nbytes == 100
        assert cache.get(KEY) is None
    assert len(warnings) == 1 and "can't be written" in warnings[0]
    assert not place.exists()


def test_read_only_cache_is_read(
    tmp_path: Path, cache: StageCache, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = cache.publish(KEY, _fill())  # type: ignore[arg-type]
    cache.close()
    monkeypatch.setattr(cache_module.os, "access", lambda *_: False)  # root may write anywhere
    with StageCache(tmp_path / "scratch", tmp_path / "cache", warn=warnings.append) as again:
        assert again.get(KEY) == place
        other = again.publish(StageKey("export", "cd" * 32), _fill())  # type: ignore[arg-type]
        assert other.is_relative_to(tmp_path / "scratch")
    assert "entries are used" in warnings[0]


def test_disabled_cache_neither_reads_nor_fills(tmp_path: Path, cache: StageCache) -> None:
    cache.publish(KEY, _fill())  # type: ignore[arg-type]
    with StageCache(tmp_path / "scratch", tmp_path / "cache", enabled=False) as off:
        assert off.get(KEY) is None
        place = off.publish(KEY, _fill(b"new"))  # type: ignore[arg-type]
        assert (place / "sub/graph.onnx").read_bytes() == b"new"
    found = cache.get(KEY)
    assert found is not None and (found / "sub/graph.onnx").read_bytes() == b"x" * 100


def _race(folder: Path, built: Path) -> None:
    def build(place: Path) -> None:
        (built / str(os.getpid())).touch()
        time.sleep(0.3)
        (place / "result").write_bytes(b"r")

    with StageCache(folder / "scratch", folder / "cache") as cache:
        assert (cache.publish(KEY, build) / "result").read_bytes() == b"r"


def test_two_compiles_of_one_thing_build_it_once(tmp_path: Path) -> None:
    (tmp_path / "built").mkdir()
    context = multiprocessing.get_context("fork")
    racers = [context.Process(target=_race, args=(tmp_path, tmp_path / "built")) for _ in range(3)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(30)
    assert [racer.exitcode for racer in racers] == [0, 0, 0]
    assert len(list((tmp_path / "built").iterdir())) == 1


BUILDER = """
import sys, time
from pathlib import Path
from xamc.jobs.cache import StageCache, StageKey
def build(place):
    (place / "half").write_bytes(b"h")
    print("ready", flush=True)
    time.sleep(60)
StageCache(Path(sys.argv[1]) / "scratch", Path(sys.argv[1]) / "cache").publish(StageKey("export", "ab" * 32), build)
"""


def test_killed_builder_leaves_no_lock_and_no_entry(tmp_path: Path, cache: StageCache, warnings: list[str]) -> None:
    with subprocess.Popen([sys.executable, "-c", BUILDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.kill()
    assert cache.get(KEY) is None
    place = cache.publish(KEY, _fill())  # type: ignore[arg-type]
    assert [path.name for path in place.parent.iterdir()] == [str(KEY)]
    assert warnings == []


def test_prune_removes_what_was_used_longest_ago(tmp_path: Path, cache: StageCache) -> None:
    keys = [StageKey("export", f"{n:02d}" * 32) for n in range(3)]
    for age, key in enumerate(keys):
        place = cache.publish(key, _fill(b"x" * 1000))  # type: ignore[arg-type]
        os.utime(place / "entry.json", (1000 + age, 1000 + age))
    cache.get(keys[0])
    os.link(cache._entry_folder(keys[0]) / "sub/graph.onnx", tmp_path / "artifact_file")
    with pytest.raises(InputError, match="E1508"):
        prune(0, tmp_path / "cache")
    cache.close()
    before = cache_info(tmp_path / "cache")
    assert (before.entries, before.shared) == (3, 1000)
    assert before.nbytes == before.stages["export"]
    left = prune(before.nbytes * 2 // 3, tmp_path / "cache")
    assert left.entries == 2
    assert {path.name for path in (tmp_path / "cache/v1").iterdir()} == {str(keys[0]), str(keys[2])}
    assert prune(0, tmp_path / "cache").nbytes == 0
    assert (tmp_path / "artifact_file").read_bytes() == b"x" * 1000


def test_info_of_an_absent_cache(tmp_path: Path) -> None:
    assert cache_info(tmp_path / "none").entries == 0
    assert prune(0, tmp_path / "none").entries == 0


def test_key_changes_with_each_part_and_with_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "xamc"
    (package / "stage").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "stage/a.py").write_text("A = 1\n")
    (package / "stage/__init__.py").touch()
    (package / "other.py").write_text("B = 1\n")
    (package / "maker.py").write_text("C = 1\n")
    monkeypatch.setattr(xamc, "__file__", str(package / "__init__.py"))

    def key(stage: str = "export", tools: tuple[str, ...] = ("numpy",), **inputs: object) -> str:
        return str(stage_key(stage, "xamc.maker", ["xamc.stage.a"], inputs, list(tools)))

    first = key(checkpoint="00")
    (package / "other.py").write_text("B = 2\n")
    (package / "stage/README.md").write_text("docs")
    assert key(checkpoint="00") == first
    others = {key("lower", checkpoint="00"), key(checkpoint="01"), key(tools=(), checkpoint="00")}
    monkeypatch.setattr(cache_module, "tool_version", lambda name: "0.0.1")
    others.add(key(checkpoint="00"))
    monkeypatch.undo()
    monkeypatch.setattr(xamc, "__file__", str(package / "__init__.py"))
    (package / "stage/a.py").write_text("A = 2\n")
    others.add(key(checkpoint="00"))
    (package / "maker.py").write_text("C = 2\n")
    others.add(key(checkpoint="00"))
    assert len(others) == 6 and first not in others


def test_inputs_that_are_no_plain_values_are_refused() -> None:
    with pytest.raises(TypeError):
        stage_key("export", "xamc.jobs.cache", [], {"config": object()})


def test_what_killed_compiles_left_is_swept_by_whatever_compile_comes_next(tmp_path: Path) -> None:
    left = [
        tmp_path / "cache/v1/.xamc-export-0123-77-01234567",
        tmp_path / "out/.xamc-scratch-77-01234567",
        tmp_path / "cache/locks/export-0123",
    ]
    for folder in left:
        folder.parent.mkdir(parents=True, exist_ok=True)
    for folder in left[:2]:
        folder.mkdir()
    left[2].touch()
    with StageCache(tmp_path / "out", tmp_path / "cache") as cache:
        assert [path for path in left if path.exists()] == []
        cache.publish(KEY, _fill())  # type: ignore[arg-type]
    assert list((tmp_path / "cache/locks").iterdir()) == []


def test_a_key_knows_what_it_was_made_from() -> None:
    key = stage_key("export", "xamc", ("xamc.errors",), {"config": {"a": 1}}, ("torch", "no-such-package"))
    other = stage_key("export", "xamc", ("xamc.errors",), {"config": {"a": 2}}, ("torch", "no-such-package"))
    assert key.parts.keys() == other.parts.keys() and key.parts["tool no-such-package"] == "absent"
    assert [part for part in key.parts if key.parts[part] != other.parts[part]] == ["input config"]
