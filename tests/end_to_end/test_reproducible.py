"""The same inputs give the same bytes, a termination leaves nothing, and no file of a checkpoint is ever run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

from tests.checkpoints import write_tiny
from tests.cpu_level.emulated_level import python_path
from tests.end_to_end.models import Workshop, spec
from xamc.cli import main as cli

MAIN = [sys.executable, "-P", "-c", "from xamc.cli.main import main; main()"]
REPOSITORY = Path(__file__).parents[2]


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """An own TMPDIR and stage cache below `folder`."""
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    own = {"TMPDIR": str(folder / "tmp"), "XAMC_CACHE": str(folder / "cache"), "PYTHONPATH": python_path(REPOSITORY)}
    return {**os.environ, **own, **variables}


def write_spec(folder: Path, checkpoint: Path, target: str) -> Path:
    document = spec(checkpoint, backend={"type": target, "dtype": "fp32"}, workspace={"path": "out"}) | {"name": "tiny"}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "build.yaml").write_text(yaml.safe_dump(document))
    return folder / "build.yaml"


def test_another_process_folder_and_cache_give_the_same_bytes(workshop: Workshop, tmp_path: Path) -> None:
    """The first takes what other tests have made from the session's cache; the second makes everything itself."""
    places = (tmp_path / "first", tmp_path / "second place")
    for place, variables in zip(places, ({}, {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "3"})):
        checkpoint = place / "model"
        shutil.copytree(workshop.checkpoint("llama"), checkpoint)
        path = write_spec(place, checkpoint, "tvm_cpu")
        own = environment(place, SOURCE_DATE_EPOCH="1700000000", **variables)
        if place == places[0]:
            own["XAMC_CACHE"] = os.environ["XAMC_CACHE"]
        done = subprocess.run(
            [*MAIN, "compile", str(path), "-o", str(place / "out/tiny")],
            env=own, cwd=place, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert [name for name in os.listdir(place / "tmp") if name.startswith("xamc")] == []
    first, second = (
        {
            str(path.relative_to(place / "out")): (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime)
            for path in sorted((place / "out").rglob("*"))
        }
        for place in places
    )
    assert [name for name in first if first[name] != second.get(name)] == [] and first.keys() == second.keys()
    assert not any(str(tmp_path).encode() in content for content, _ in first.values())
    assert cli.run(["diff", str(places[0] / "out/tiny"), str(places[1] / "out/tiny")]) == 0


def test_termination_without_a_cache_leaves_nothing(tmp_path: Path) -> None:
    checkpoint = write_tiny(tmp_path / "model", "llama")
    out = tmp_path / "out"
    path = write_spec(tmp_path, checkpoint, "reference")
    with subprocess.Popen(
        [*MAIN, "compile", str(path), "--no-cache", "-o", str(out / "tiny")],
        env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        while not list(out.glob(".xamc-scratch-*/v1/.xamc-export-*/request.json")) and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143 and "SIGTERM" in err, err
    assert list(out.iterdir()) == []
    assert [name for name in os.listdir(tmp_path / "tmp") if name.startswith("xamc")] == []


def test_python_beside_the_weights_is_never_run(workshop: Workshop, tmp_path: Path) -> None:
    """From within the checkpoint's folder, in every process of a compile."""
    checkpoint, trace = tmp_path / "model", tmp_path / "trace"
    shutil.copytree(workshop.checkpoint("internlm"), checkpoint)
    trap = f"open({str(trace)!r}, 'a').write(__name__ + '\\n')\n"
    for name in (
        "torch",
        "yaml",
        "json",
        "numpy",
        "sitecustomize",
        "modeling_internlm",
        "tokenization_internlm",
        "tvm",
    ):
        (checkpoint / f"{name}.py").write_text(trap)
    config = checkpoint / "config.json"
    content = config.read_text().rstrip().removesuffix("}")
    config.write_text(f'{content}, "auto_map": {{"AutoModelForCausalLM": "modeling_internlm.Evil"}}}}')
    path = write_spec(tmp_path, checkpoint, "reference")
    own = environment(tmp_path, XAMC_CACHE=os.environ["XAMC_CACHE"])
    done = subprocess.run(
        [*MAIN, "compile", str(path), "-o", str(tmp_path / "out/tiny")],
        env=own, cwd=checkpoint, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not trace.exists(), trace.read_text()
