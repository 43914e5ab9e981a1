"""Compiling as a person does: a vendor's file, overrides, the cache, dumps, expectations, and the artifact's checks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import yaml

import xamc.compiler
from tests.end_to_end.models import Workshop, states
from xamc.compiler import cli
from xamc.compiler.artifact.manifest import MANIFEST, dumps
from xamc.compiler.artifact.read import read_artifact
from xamc.compiler.errors import InputError, UnsupportedError
from xamc.compiler.pipeline import Compiled
from xamc.runtime import load

VENDOR = "build_configs/vacc/internlm3_8b_int8_vacc.yaml"
ON_CPU = ("--set", "backend.type=tvm_cpu", "--set", "verify.passes=off")
Result = tuple[int, str, str]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs a command line in this process: (exit code, stdout, stderr with single spaces)."""

    def run(*arguments: object) -> Result:
        status = cli.run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, " ".join(captured.err.split())

    return run


@dataclass(frozen=True)
class Built:
    """The vendor's file with a tiny checkpoint in it, and what two compiles of it gave."""

    file: Path
    reference: Compiled
    artifact: Path
    output: str
    dump: Path


@pytest.fixture(scope="module")
def built(workshop: Workshop, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """First for the reference target with the Python API, then for the CPU with the command line."""
    folder = tmp_path_factory.mktemp("vendor")
    document = yaml.safe_load((repository / VENDOR).read_text())
    document["frontend"]["checkpoint"] = str(workshop.checkpoint("internlm3", "vendor"))
    document["frontend"]["shape"]["input_ids"] = [[16], [64]]
    document["workspace"]["path"] = str(folder / "deploy")
    file = folder / "build.yaml"
    file.write_text(yaml.safe_dump(document))
    reference = xamc.compiler.compile(
        file, name="by-api", allow_rtn=True, backend={"type": "reference"}, verify={"passes": "off"}
    )
    dump = folder / "dump"
    arguments = [str(file), *ON_CPU, "--set", "name=on-cpu", "--allow-rtn", "--dump-ir", str(dump)]
    done = subprocess.run(
        [sys.executable, "-c", "from xamc.compiler.cli import main; main()", "compile", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "160"},
    )
    assert done.returncode == 0, done.stderr
    return Built(file, reference, folder / "deploy" / "on-cpu", done.stdout + done.stderr, dump)


@pytest.fixture
def artifact(built: Built, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(built.artifact, tmp_path / "artifact"))


def test_a_vendor_file_is_planned_and_refused_for_its_card(built: Built, command: Callable[..., Result]) -> None:
    status, out, _ = command("plan", built.file, "--allow-rtn", "--json")
    assert status == 0
    plan = json.loads(out)
    assert plan["target"] == "tvm_vacc"
    status, _, err = command("compile", built.file, "--allow-rtn")
    assert status == 3
    assert "tvm_vacc is not available yet" in err and "--set backend.type=tvm_cpu" in err
    assert not (built.file.parent / "deploy" / "internlm3-8b-instruct-int8-tp4-1024-2048").exists()


def test_a_calibrated_type_is_refused_without_leave(built: Built, command: Callable[..., Result]) -> None:
    status, _, err = command("compile", built.file, *ON_CPU)
    assert status == 3 and "E1408" in err and "w8a16_gptq" in err and "--allow-rtn" in err
    with pytest.raises(UnsupportedError, match="E1408"):
        xamc.compiler.compile(built.file, backend={"type": "tvm_cpu"})


def test_a_vendor_file_compiles_for_the_cpu(built: Built) -> None:
    assert "tp" in built.output and "w8a16_gptq was asked for, w8a16_rtn is used" in built.output
    assert any("tp" in line and "1" in line and "warning" in line for line in built.output.splitlines()), built.output
    manifest = read_artifact(built.artifact).manifest
    assert (manifest.quantization.requested, manifest.quantization.used) == ("w8a16_gptq", "w8a16_rtn")
    assert (manifest.name, manifest.target, manifest.prefill_chunk, manifest.context_limit) == (
        "on-cpu",
        "tvm_cpu",
        16,
        64,
    )
    assert all(phase.ranks == 1 for phase in manifest.phases)
    answer = load(built.artifact).generate("Hi", 5, ignore_eos=True)
    assert len(answer.token_ids) == 5


def test_a_change_of_the_backend_exports_nothing_again(built: Built) -> None:
    assert built.reference.manifest.target == "reference"
    report = json.loads((built.artifact / "report.json").read_text())
    stages = {stage["name"]: stage["state"] for stage in report["stages"]}
    assert (stages["export"], stages["codegen"]) == ("cached", "ok")


def test_the_same_compile_again_takes_everything_from_the_cache(built: Built) -> None:
    document = yaml.safe_load(built.file.read_text())
    before = json.dumps(document)
    again = xamc.compiler.compile(
        document, name="again", allow_rtn=True, backend={"type": "tvm_cpu"}, verify={"passes": "off"}
    )
    assert json.dumps(document) == before
    assert again.path == built.artifact.parent / "again"
    found = states(again)
    assert found["export"] == found["codegen"] == found["weights"] == "cached"
    ids = np.arange(5, 25)[None]
    np.testing.assert_array_equal(load(again.path).logits(ids), load(built.artifact).logits(ids))
    # the cache and both artifacts hold the weights once
    assert (again.path / again.manifest.weights.file).stat().st_nlink >= 3


def test_dumps_are_readable(built: Built) -> None:
    texts = {path.name: path.read_text() for path in built.dump.iterdir()}
    assert len(texts) > 10
    exported = next(text for name, text in texts.items() if name.startswith("10-export"))
    assert "Attention" in exported and "model.layers.1.self_attn" in exported
    quantized = next(text for name, text in texts.items() if "quantize_weights" in name)
    assert "DequantizeLinear" in quantized and "DequantizeLinear" not in exported
    kernels = next(text for name, text in texts.items() if name.startswith("30-kernels"))
    assert "def decode" in kernels and "def prefill_last" in kernels


@pytest.mark.parametrize(
    ("wish", "code", "words"),
    [
        ("passes.disable=[swigluu]", "E1306", "did you mean swiglu?"),
        ("passes.expect={swiglu: 3}", "E1307", "swiglu matched 2 times, not 3"),
        ("passes.expect={concat_projections: 9}", "E1307", "concat_projections matched"),
    ],
)
def test_wishes_that_passes_do_not_meet(
    wish: str, code: str, words: str, built: Built, command: Callable[..., Result]
) -> None:
    status, _, err = command("compile", built.file, *ON_CPU, "--allow-rtn", "--set", "name=wish", "--set", wish)
    assert status == 1 and code in err and words in err, err
    assert not (built.artifact.parent / "wish").exists()


def test_wishes_that_passes_meet(built: Built, command: Callable[..., Result]) -> None:
    wish = "passes.expect={swiglu: 2, rope_cache: 2}"
    status, _, err = command("compile", built.file, *ON_CPU, "--allow-rtn", "--set", "name=met", "--set", wish)
    assert status == 0, err


def test_python_errors_name_the_key(built: Built) -> None:
    with pytest.raises(InputError, match="quantise"):
        xamc.compiler.compile(built.file, frontend={"quantise": {"type": "w8a16_rtn"}}, passes={"expct": {}})


def test_verify_accepts_what_was_compiled(built: Built, command: Callable[..., Result]) -> None:
    status, out, _ = command("verify", built.artifact, "--json")
    assert status == 0
    result = json.loads(out)
    assert result["golden"]["positions"] > 0 and result["golden"]["deviation"] == 0


@pytest.mark.parametrize(
    "name", ["weights.bin", "code/model.so", "tokenizer/tokenizer.json", "golden/golden.safetensors"]
)
def test_verify_names_a_damaged_file(name: str, artifact: Path, command: Callable[..., Result]) -> None:
    path = artifact / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.chmod(0o644)
    path.write_bytes(content)
    status, _, err = command("verify", artifact)
    assert status == 1 and "E1505" in err and name in err


def test_verify_names_a_missing_file(artifact: Path, command: Callable[..., Result]) -> None:
    (artifact / "weights.bin").unlink()
    status, _, err = command("verify", artifact)
    assert status == 1 and "weights.bin" in err


def test_a_short_file_is_refused_when_loaded(artifact: Path) -> None:
    path = artifact / "weights.bin"
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(InputError, match=r"weights\.bin"):
        load(artifact)


def test_an_artifact_for_another_cpu_is_refused(artifact: Path, command: Callable[..., Result]) -> None:
    manifest = read_artifact(artifact).manifest
    other = replace(manifest.cpu, features=(*manifest.cpu.features, "flux_capacitor"))
    (artifact / MANIFEST).write_text(dumps(replace(manifest, cpu=other)))
    with pytest.raises(UnsupportedError, match=r"E1607.*flux_capacitor"):
        load(artifact)
    status, _, err = command("run", artifact, "--prompt", "Hi")
    assert status == 3 and "flux_capacitor" in err and "backend.compile.mcpu" in err


def test_a_folder_of_someone_else_is_never_replaced(
    built: Built, artifact: Path, tmp_path: Path, command: Callable[..., Result]
) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    (artifact / "notes.txt").write_text("mine")
    for folder, file in ((foreign, "thesis.txt"), (artifact, "notes.txt")):
        before = sorted(path.name for path in folder.iterdir())
        status, _, err = command("compile", built.file, *ON_CPU, "--allow-rtn", "-o", folder)
        assert status == 1 and "E1501" in err
        assert sorted(path.name for path in folder.iterdir()) == before
        assert (folder / file).is_file()
