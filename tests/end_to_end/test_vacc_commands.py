"""VACC on the command line: the artifact's folder, who can read it, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
import yaml

from tests.checkpoints import write_tiny
from tests.end_to_end.models import spec
from tests.end_to_end.test_bad_input import change_config, one_nan
from tests.end_to_end.vacc_models import VARIANTS, VaccWorkshop, build
from tests.worker import Worker
from xamc.artifact.manifest import MANIFEST
from xamc.cli import main as cli
from xamc.compiler.pipeline import Compiled, compile_spec
from xamc.compiler.stages.job import CompileOptions
from xamc.errors import InputError
from xamc.jobs.progress import size

Result = tuple[int, str, str]
NAME = "llama-tp2"
FOLDERS = ("decode_32_rank0", "decode_32_rank1", "prefill_16_rank0", "prefill_16_rank1")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs a command line in this process: (exit code, stdout, stderr), both with single spaces."""

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        status = cli.run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, " ".join(captured.out.split()), " ".join(captured.err.split())

    return run


@pytest.fixture(scope="module")
def vacc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VaccWorkshop]:
    yield VaccWorkshop(tmp_path_factory.mktemp("vacc_commands"))


@pytest.fixture(scope="module")
def artifact(vacc: VaccWorkshop) -> Compiled:
    return vacc.compiled(NAME)


def write(folder: Path, document: dict[str, Any]) -> Path:
    path = folder / "build.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_three_pieces_per_graph_and_rank(artifact: Compiled) -> None:
    found = {str(path.relative_to(artifact.path)) for path in artifact.path.rglob("*") if path.is_file()}
    pieces = {f"{folder}/mod.{kind}" for folder in FOLDERS for kind in ("so", "json", "params")}
    assert pieces <= found
    others = {path.split("/")[0] for path in found - pieces}
    assert others == {"manifest.json", "report.json", "tokenizer", "golden"}
    assert (artifact.path / "tokenizer/tokenizer.json").is_file()
    assert {file.path for file in artifact.manifest.files} == found - {"manifest.json", "report.json"}


def test_every_piece_says_that_it_is_simulated(artifact: Compiled) -> None:
    for folder in FOLDERS:
        graph = json.loads((artifact.path / folder / "mod.json").read_text())
        kind, length, rank = folder.split("_")
        assert graph["executes_on"] == "host-simulator" and graph["tp"] == 2
        assert (graph["phase"]["kind"], graph["phase"]["length"], f"rank{graph['rank']}") == (kind, int(length), rank)
    manifest = json.loads((artifact.path / MANIFEST).read_text())
    assert manifest["executes_on"] == "host-simulator" and manifest["ranks"] == 2
    assert any("runs in the host's simulator" in stage["detail"] for stage in artifact.report["stages"])


def test_tvms_loader_reads_what_the_graph_describes(artifact: Compiled) -> None:
    for folder in FOLDERS:
        described = json.loads((artifact.path / folder / "mod.json").read_text())["params"]
        loaded = tvm.runtime.load_param_dict_from_file(str(artifact.path / folder / "mod.params"))
        assert {name: (list(t.shape), str(t.dtype)) for name, t in loaded.items()} == {
            entry["name"]: (entry["shape"], entry["dtype"]) for entry in described
        }
        assert all(np.isfinite(tensor.numpy()).all() for tensor in loaded.values())


def test_merged_parameters_are_one_file_per_rank(artifact: Compiled) -> None:
    nodes = {folder: (artifact.path / folder / "mod.params").stat().st_ino for folder in FOLDERS}
    assert nodes["decode_32_rank0"] == nodes["prefill_16_rank0"] != nodes["prefill_16_rank1"]
    assert nodes["decode_32_rank1"] == nodes["prefill_16_rank1"]
    code = {folder: (artifact.path / folder / "mod.so").stat().st_ino for folder in FOLDERS}
    assert code["decode_32_rank0"] == code["decode_32_rank1"] != code["prefill_16_rank0"]


def test_sizes_count_a_file_once(artifact: Compiled, vacc: VaccWorkshop, command: Callable[..., Result]) -> None:
    files = {path.stat().st_ino: path.stat().st_size for path in artifact.path.rglob("*") if path.is_file()}
    own = sum((artifact.path / name).stat().st_size for name in ("manifest.json", "report.json"))
    status, out, err = command("compile", write(artifact.path.parent, vacc.build(NAME)))
    assert status == 0, err
    assert f"{artifact.path.name} {size(sum(files.values()) - own)}" in out and "simulator" in out


def test_inspect_and_verify(artifact: Compiled, command: Callable[..., Result]) -> None:
    status, out, err = command("inspect", artifact.path)
    assert status == 0 and "host-simulator" in out and "2 ranks" in out and "prefill_16_rank1/mod.params" in out, err
    status, out, err = command("verify", artifact.path)
    assert status == 0 and "off by" in out and "are what the manifest says" in out, err
    damaged = artifact.path.parent / "damaged"
    compile_spec(build_of(artifact, "damaged"), options=CompileOptions(output=damaged, use_cache=True))
    piece = damaged / "decode_32_rank1/mod.json"
    text = piece.read_text()
    piece.unlink()
    piece.write_text(text.replace('"tp": 2', '"tp": 3'))
    status, out, err = command("verify", damaged)
    assert status == 1 and "decode_32_rank1/mod.json" in err


@pytest.mark.parametrize("piece", ["mod.params", "mod.json"])
def test_swapped_ranks_do_not_run(
    piece: str, artifact: Compiled, tmp_path: Path, command: Callable[..., Result]
) -> None:
    """Both ranks' files have one size, and would make text that looks no worse."""
    copy = tmp_path / "swapped"
    shutil.copytree(artifact.path, copy)
    first, second = (copy / f"decode_32_rank{rank}" / piece for rank in (0, 1))
    assert piece != "mod.params" or first.stat().st_size == second.stat().st_size
    assert first.read_bytes() != second.read_bytes()
    first.rename(copy / "kept")
    second.rename(first)
    (copy / "kept").rename(second)
    status, out, err = command("run", copy, "--prompt", "a", "--max-new-tokens", 2)
    assert status == 1 and not out and "E1505" in err and f"decode_32_rank0/{piece}" in err


def build_of(artifact: Compiled, name: str) -> dict[str, Any]:
    """The build file of the artifact's checkpoint, under another name."""
    return build(artifact.path.parents[1] / VARIANTS[NAME].family, name, VARIANTS[NAME])


def test_run_says_simulated(artifact: Compiled, command: Callable[..., Result]) -> None:
    status, out, err = command("run", artifact.path, "--target", "vacc", "--prompt", "a", "--max-new-tokens", 5)
    assert status == 0 and "simulated for tvm_vacc, not run on a card" in err
    status, out, err = command("run", artifact.path, "--prompt", "a", "--max-new-tokens", 5, "--json")
    answer = json.loads(out)
    assert status == 0 and answer["simulated"] is True and answer["executes_on"] == "host-simulator"
    assert len(answer["token_ids"]) in range(1, 6)


def test_run_for_vacc_refuses_another_target(vacc: VaccWorkshop, command: Callable[..., Result]) -> None:
    document = spec(vacc.checkpoint("llama"), backend={"type": "reference", "dtype": "fp32"})
    other = compile_spec(document | {"name": "for-the-reference"})
    status, _, err = command("run", other.path, "--target", "vacc", "--prompt", "a")
    assert status == 2 and "E1705" in err and "compiled for reference" in err


def test_known_mistakes_are_warnings(vacc: VaccWorkshop, tmp_path: Path, command: Callable[..., Result]) -> None:
    """Keys that the vendor's own files have wrong: the same artifact comes out, and every mistake is mentioned."""
    document = vacc.build(NAME)
    document["model"] = document.pop("name")
    document["workspace"]["work_dir"] = document["workspace"].pop("path")
    document["workspace"]["save_lgo"] = True
    document["backend"]["compile"]["atention_split_num"] = 16
    document["backend"]["quantize"] = {"alibrate_mode": "percentile"}
    document["frontend"]["model_kwargs"]["b2S"] = True
    target = tmp_path / "artifact"
    status, _, err = command("compile", write(tmp_path, document), "-o", target, "--json")
    assert status == 0, err
    for word in ("model is read as name", "workspace.work_dir is read as", "save_lgo", "atention_split_num",
                 "alibrate_mode", "b2S"):  # fmt: skip
        assert word in err, f"{word} is not mentioned"
    assert (target / "prefill_16_rank0/mod.so").is_file()


@pytest.mark.parametrize("kind", ["chatglm", "baichuan"])
def test_a_family_without_support_exits_3(kind: str, tmp_path: Path, command: Callable[..., Result]) -> None:
    folder = write_tiny(tmp_path / kind, "llama")
    change_config(folder, model_type=kind)
    status, _, err = command("compile", write(tmp_path, build(folder, kind, VARIANTS[NAME])))
    assert status == 3 and kind in err and "Traceback" not in err
    assert not list(tmp_path.glob("vacc_deploy/**/*"))


def test_gptq_exits_3(vacc: VaccWorkshop, tmp_path: Path, command: Callable[..., Result]) -> None:
    status, _, err = command("compile", write(tmp_path, vacc.build("mistral-w8")))
    assert status == 3 and "E1408" in err and "--allow-rtn" in err


def test_a_foreign_folder_is_never_replaced(vacc: VaccWorkshop, tmp_path: Path) -> None:
    """Such as the vendor's own output, which has the same layout and no manifest of ours."""
    theirs = tmp_path / "prefill_16_rank0" / "mod.params"
    theirs.parent.mkdir()
    theirs.write_bytes(b"theirs")
    with pytest.raises(InputError) as caught:
        compile_spec(vacc.build(NAME), options=CompileOptions(output=tmp_path))
    assert caught.value.code == "E1501" and theirs.read_bytes() == b"theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["prefill_16_rank0"]


def test_a_failing_compile_leaves_nothing(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "llama", "llama")
    one_nan(folder)
    with pytest.raises(InputError, match="NaN"):
        compile_spec(build(folder, "nan", VARIANTS[NAME]))
    assert not list((tmp_path / "vacc_deploy").iterdir())


def test_compiled_again_it_is_the_same(vacc: VaccWorkshop, worker: Worker, tmp_path: Path) -> None:
    """Byte by byte, without a cache, and in another process than before: digests of all files are in the manifest."""
    first = vacc.compiled(NAME)
    again = CompileOptions(use_cache=False, output=tmp_path / "again")
    with worker.active():
        second = compile_spec(vacc.build(NAME), options=again)
    assert len(first.manifest.files) > 3 * len(FOLDERS)
    assert (first.path / MANIFEST).read_bytes() == (second.path / MANIFEST).read_bytes()
