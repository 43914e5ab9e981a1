"""Damaged checkpoints and full disks: exit code, file, tensor and remedy, and nothing half-published."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from tests.checkpoints import write_tiny
from tests.end_to_end.models import spec
from tests.worker import Worker
from xamc.cli import main as cli

# what needs an export uses a checkpoint that other files of this folder compile too
KIND = "internlm"
QUERY = "model.layers.0.self_attn.q_proj.weight"


def weights(folder: Path) -> Path:
    return folder / "model.safetensors"


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    tensors: dict[str, Any] = load_file(weights(folder))
    change(tensors)
    save_file(tensors, weights(folder), metadata={"format": "pt"})


def change_header(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = weights(folder).read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    weights(folder).write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])


def cut_off(folder: Path) -> None:
    os.truncate(weights(folder), weights(folder).stat().st_size - 1000)


def longer_shape(folder: Path) -> None:
    change_header(folder, lambda header: header[QUERY].update(shape=[96, 49]))


def overlapping(folder: Path) -> None:
    change_header(folder, lambda header: header[QUERY].update(data_offsets=header["model.norm.weight"]["data_offsets"]))


def huge_header(folder: Path) -> None:
    weights(folder).write_bytes((2**62).to_bytes(8, "little") + weights(folder).read_bytes()[8:])


def integers(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.update({QUERY: tensors[QUERY].astype(np.int64)}))


def absent(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.pop(QUERY))


def one_nan(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors[QUERY].__setitem__((5, 7), np.nan))


def lost_shard(folder: Path) -> None:
    next(folder.glob("model-00002-of-*.safetensors")).unlink()


def wider(folder: Path) -> None:
    change_config(folder, hidden_size=96)


def more_layers(folder: Path) -> None:
    change_config(folder, num_hidden_layers=3)


def yarn(folder: Path) -> None:
    change_config(folder, rope_scaling={"rope_type": "yarn", "factor": 4.0})


def unknown(folder: Path) -> None:
    change_config(folder, model_type="qwen4")


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama",')


# damage → exit code, and what the message must name
DAMAGES: Mapping[Callable[[Path], None], tuple[int, tuple[str, ...]]] = {
    cut_off: (1, ("model.safetensors", "truncated", "download")),
    longer_shape: (1, ("model.safetensors", QUERY)),
    overlapping: (1, ("model.safetensors", "download")),
    huge_header: (1, ("model.safetensors", "header claims", "download")),
    integers: (1, ("model.safetensors", QUERY, "I64")),
    absent: (1, (QUERY,)),
    one_nan: (1, (QUERY, "NaN")),
    lost_shard: (1, ("model-00002-of-", "missing")),
    wider: (1, ("model.embed_tokens.weight", "48")),
    more_layers: (1, ("model.layers.2.",)),
    yarn: (1, ("config.json", "yarn", "llama3")),
    unknown: (3, ("config.json", "qwen4", "qwen3")),
    no_config: (1, ("config.json",)),
    broken_config: (1, ("config.json", "JSON")),
}


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def write_spec(folder: Path, checkpoint: Path, out: Path) -> Path:
    document = spec(checkpoint, backend={"type": "reference", "dtype": "fp32"}, workspace={"path": str(out)})
    path = folder / "build.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_checkpoints(
    damage: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str], worker: Worker
) -> None:
    kind = KIND if damage is one_nan else "llama"
    checkpoint = write_tiny(tmp_path / "model", kind, shards=damage is lost_shard)
    damage(checkpoint)
    before, out = digests(checkpoint), tmp_path / "out"
    with worker.active():
        status = cli.run(["compile", str(write_spec(tmp_path, checkpoint, out))])
    shown = " ".join(capsys.readouterr().err.split())
    expected, words = DAMAGES[damage]
    assert status == expected, shown
    for word in (*words, "fix:"):
        assert word.replace(" ", "") in shown.replace(" ", ""), shown
    assert "Traceback" not in shown
    assert digests(checkpoint) == before
    assert not out.exists() or not list(out.iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB, less than the artifact takes."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this user can't mount a small file system; the test with a limit on file sizes runs")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_too_small(small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Known before anything is made."""
    checkpoint, out = write_tiny(tmp_path / "model", KIND), small_disk / "out"
    status = cli.run(["compile", str(write_spec(tmp_path, checkpoint, out))])
    shown = " ".join(capsys.readouterr().err.split())
    assert status == 1, shown
    assert "E1711" in shown and "free space" in shown
    assert not out.exists() or not list(out.iterdir())


def test_full_disk(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that something else fills up meanwhile."""
    monkeypatch.setattr("xamc.compiler.plan.disk_space.free_bytes", lambda folder: 2**30)
    checkpoint, out = write_tiny(tmp_path / "model", KIND), small_disk / "out"
    status = cli.run(["compile", str(write_spec(tmp_path, checkpoint, out))])
    shown = " ".join(capsys.readouterr().err.split())
    assert status == 1, shown
    assert "E1506" in shown and "disk is full" in shown and "free space" in shown
    assert not out.exists() or not list(out.iterdir())


def test_limit_on_file_sizes(tmp_path: Path) -> None:
    """As a quota: writing the weights into the cache fails in the middle."""
    checkpoint = write_tiny(tmp_path / "model", KIND)
    out = tmp_path / "out"
    code = (
        "import resource, sys\nfrom xamc.cli.main import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\nmain()"
    )
    path = write_spec(tmp_path, checkpoint, out)
    done = subprocess.run(
        [sys.executable, "-c", code, "compile", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "E1506" in done.stderr
    assert not out.exists() or not list(out.iterdir())
