"""Whole compiles that share a stage cache: two of one spec at once, one that can't write it, one whose child dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.onnx_models import SHAPES, write

XAMC = [sys.executable, "-m", "xamc", "compile"]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph's: its compile has child processes and all stages, and takes seconds."""
    folder = tmp_path_factory.mktemp("shared")
    write("audio", folder / "audio.onnx")
    frontend = {"checkpoint": str(folder / "audio.onnx"), "type": "onnx", "shape": SHAPES["audio"]}
    document = {"name": "audio", "frontend": frontend, "backend": {"type": "tvm_cpu", "dtype": "fp32"}}
    (folder / "build.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return folder / "build.yaml"


def start(spec: Path, out: Path, cache: Path, *prefix: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*prefix, *XAMC, str(spec), "-o", str(out)],
        env={**os.environ, "XAMC_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def files(folder: Path) -> dict[str, bytes]:
    """All files' bytes but the report's, which holds times."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name != "report.json"}


@pytest.fixture(scope="module")
def together(spec: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[str]]:
    """Two compiles of one spec into one folder at once, with an empty cache: cache, artifact, what they said."""
    folder = tmp_path_factory.mktemp("together")
    running = [start(spec, folder / "out", folder / "cache") for _ in range(2)]
    said = [process.communicate(timeout=500)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    return folder / "cache", folder / "out", said


def test_two_compiles_at_once_make_one_artifact(together: tuple[Path, Path, list[str]], spec: Path) -> None:
    cache, out, said = together
    assert any("another compile is making" in text for text in said)
    assert sorted(out.parent.iterdir()) == [cache, out]  # no staging folder is left
    assert not list((cache / "locks").iterdir())
    alone = start(spec, out.parent / "again", cache)
    text = alone.communicate(timeout=500)[0]
    assert alone.returncode == 0 and "cached" in text and "waiting" not in text
    assert files(out.parent / "again") == files(out)


def test_a_read_only_cache_is_read(together: tuple[Path, Path, list[str]], spec: Path, tmp_path: Path) -> None:
    """Mounted, as permissions don't bind root."""
    cache, out, _ = together
    mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    prefix = ["unshare", "-m", "sh", "-c", mount, str(cache)]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user can't mount a folder read-only")
    before = files(cache)
    process = start(spec, tmp_path / "out", cache, *prefix)
    text = process.communicate(timeout=500)[0]
    assert process.returncode == 0, text
    assert "can't be written" in text and "cached" in text
    assert files(tmp_path / "out") == files(out) and files(cache) == before


def test_a_child_that_crashes_is_an_error_with_a_reproducer(spec: Path, tmp_path: Path) -> None:
    process = start(spec, tmp_path / "out", tmp_path / "cache")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    killed = 0
    while not killed and process.poll() is None:
        for child in children.read_text(encoding="ascii").split():
            command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            if b"xamc.jobs.child" in command:
                os.kill(int(child), signal.SIGSEGV)
                killed = int(child)
        time.sleep(0.02)
    text = process.communicate(timeout=500)[0]
    assert killed and process.returncode in (4, 70), text
    assert "E152" in text and "SIGSEGV" in text and "reproduce" in text
    assert not (tmp_path / "out").exists() and list(tmp_path.iterdir()) == [tmp_path / "cache"]
    after = start(spec, tmp_path / "out", tmp_path / "cache")
    assert after.wait(timeout=500) == 0
