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
from tests.end_to_end import references
from tests.end_to_end.models import Workshop, states
from tests.worker import Worker
from xamc.artifact.golden import read_golden
from xamc.artifact.manifest import MANIFEST
from xamc.artifact.manifest_file import dumps
from xamc.artifact.read import read_artifact
from xamc.cli import main as cli
from xamc.compiler.pipeline import Compiled
from xamc.errors import InputError, UnsupportedError
from xamc.ir.tolerances import tolerance
from xamc.jobs.progress import size
from xamc.runtime import load
from xamc.targets.kernels.isa import LEVELS, Isa
from xamc.verify.metrics import relative_error

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
        [sys.executable, "-c", "from xamc.cli.main import main; main()", "compile", *arguments],
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


def test_a_vendor_file_is_planned_for_its_card_and_rounds_only_with_leave(
    built: Built, command: Callable[..., Result]
) -> None:
    status, out, _ = command("plan", built.file, "--allow-rtn", "--json")
    assert status == 0
    plan = json.loads(out)
    assert plan["target"] == "tvm_vacc" and plan["static"]["ranks"] == 4
    status, _, err = command("compile", built.file)
    assert status == 3
    assert "w8a16_gptq" in err and "--allow-rtn" in err
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
    ("override", "code", "words", "place"),
    [
        ("passes.disable=[swigluu]", "E1306", "did you mean swiglu?", "^^^^^^^"),
        ("passes.disable=[norms, kv_cache]", "E1314", "can't do without kv_cache", "^^^^^^^^"),
        ("passes.expect={swiglu: 3}", "E1307", "swiglu matched 2 times, not 3", "^"),
        ("passes.expect={concat_projections: 9}", "E1307", "concat_projections matched", "^"),
        ("verify.prompts=[Hi, '']", "E1311", "the prompt '' has no token", "^^"),
    ],
)
def test_wishes_that_can_not_be_met(
    override: str, code: str, words: str, place: str, built: Built, command: Callable[..., Result]
) -> None:
    """The key is underlined, also where a child process found the fault."""
    status, _, err = command("compile", built.file, *ON_CPU, "--allow-rtn", "--set", "name=override", "--set", override)
    assert status == 1 and code in err and words in err, err
    column = override.rindex(override.split("=")[1].strip("[{}]").split(" ")[-1]) + 1
    assert f"--set:4:{column}" in err and f" {place} " in err
    assert not (built.artifact.parent / "override").exists()


def test_wishes_that_passes_meet(built: Built, command: Callable[..., Result]) -> None:
    override = "passes.expect={swiglu: 2, rope_cache: 2}"
    status, _, err = command("compile", built.file, *ON_CPU, "--allow-rtn", "--set", "name=met", "--set", override)
    assert status == 0, err


def test_python_errors_name_the_key(built: Built) -> None:
    with pytest.raises(InputError, match="quantise"):
        xamc.compiler.compile(built.file, frontend={"quantise": {"type": "w8a16_rtn"}}, passes={"expct": {}})


def test_verify_accepts_what_was_compiled(built: Built, command: Callable[..., Result]) -> None:
    status, out, _ = command("verify", built.artifact, "--json")
    assert status == 0
    result = json.loads(out)
    assert result["golden"]["positions"] > 0 and result["golden"]["deviation"] == 0


def test_inspect_shows_every_stage(built: Built, command: Callable[..., Result]) -> None:
    """Also the one that writes the report."""
    status, out, _ = command("inspect", built.artifact, "--json")
    report = json.loads(out)["report"]
    names = ["spec", "frontend", "export", "passes", "codegen", "weights", "publish"]
    assert status == 0 and [stage["name"] for stage in report["stages"]] == names
    publish = report["stages"][-1]
    assert publish["seconds"] > 0 and publish["peak_bytes"] > 0 and publish["state"] == "ok"
    assert publish["detail"] == size(sum(file.nbytes for file in read_artifact(built.artifact).manifest.files))
    assert report["golden"] == {"prompts": 1, "not_run": None}


PROMPTS = ("Hello", "The capital of France is", "人工智能")


@pytest.fixture(scope="module")
def level_above() -> str:
    """A CPU level whose code this machine can't execute."""
    host = Isa.host()
    above = [
        level.name for level in LEVELS.values() if not (set(level.cpu_flags) <= set(host.cpu_flags) or level.is_arm)
    ]
    if not above:
        pytest.skip(f"this machine executes every level up to {host.name}")
    return above[0]


@pytest.mark.parametrize("final", [False, True], ids=["", "with transformers"])
def test_an_artifact_for_a_cpu_above_this_one(
    final: bool, level_above: str, built: Built, command: Callable[..., Result], worker: Worker
) -> None:
    """It is published without logits of its own, and everyone is told; transformers' are recorded if asked for."""
    name = f"above-{final}"
    overrides = [f"name={name}", f"backend.compile.mcpu={level_above}", f"verify.final={str(final).lower()}"]
    overrides.append(f"verify.prompts={json.dumps(PROMPTS)}")
    arguments = [part for override in overrides for part in ("--set", override)]
    with worker.active():
        status, out, err = command("compile", built.file, *ON_CPU, *arguments, "--allow-rtn")
    assert status == 0, err
    assert "not run here" in out and "neither kernels nor golden logits have been run" in out
    path = built.artifact.parent / name
    report = json.loads((path / "report.json").read_text())
    assert level_above in report["golden"]["not_run"] and any("kernels" in text for text in report["warnings"])
    golden = read_golden(path / "golden")
    assert level_above in golden.not_run and len(golden.samples) == len(PROMPTS)
    for sample in golden.samples:
        assert sample.logits is None and (sample.reference is not None) is final
        if sample.reference is not None:
            assert sample.reference.shape == (len(sample.token_ids), 272) and np.isfinite(sample.reference).all()
    status, out, _ = command("verify", path)
    assert status == 0 and "not run" in out and "this CPU lacks" in out and level_above in out
    status, _, err = command("run", path, "--prompt", "Hi")
    assert status == 3 and "E1607" in err


def test_what_is_recorded_for_every_prompt(workshop: Workshop, command: Callable[..., Result]) -> None:
    """What was recorded is what transformers computes for each; `xamc verify` checks all of them."""
    folder = workshop.checkpoint("internlm3", "vendor")
    verify = {"passes": "off", "final": True, "prompts": list(PROMPTS)}
    backend = {"type": "reference", "dtype": "fp32"}
    compiled = workshop.compiled(folder, "prompts", backend=backend, verify=verify)
    golden = read_golden(compiled.path / "golden")
    lengths = [len(sample.token_ids) for sample in golden.samples]
    assert len(set(lengths)) == len(PROMPTS) and not golden.not_run
    model = references.as_llama(folder)
    for sample in golden.samples:
        assert sample.logits is not None and sample.reference is not None
        (expected,) = references.answers(model, [sample.token_ids], np.zeros((1, 0), np.int64))
        assert relative_error(sample.reference, expected) <= tolerance("export_fp32")
        assert relative_error(sample.logits, expected) <= tolerance("cpu_fp32")
    final = compiled.report["final"]
    assert final["relative_error"] <= tolerance("cpu_fp32") and final["top1_agreement"] == 1
    status, out, _ = command("verify", compiled.path, "--json")
    result = json.loads(out)["golden"]
    assert status == 0 and (result["prompts"], result["positions"]) == (len(PROMPTS), sum(lengths))


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
