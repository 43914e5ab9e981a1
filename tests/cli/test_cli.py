"""The commands as a shell sees them: exit codes, what is on stdout and stderr, and how fast help is."""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime import toy
from xamc.artifact import FileDigest, loading, read_artifact
from xamc.artifact.digests import sha256_of
from xamc.artifact.golden import Golden, Sample, golden_files, read_golden
from xamc.artifact.manifest import MANIFEST
from xamc.artifact.manifest_file import dumps
from xamc.cli import main as cli
from xamc.cli.commands.generate import CHAT_TOKENS
from xamc.cli.commands.sizes import parse_size
from xamc.errors import MisuseError
from xamc.runtime import load

SMOL = "build_configs/smollm2/smollm2_135m_w4.yaml"
Result = tuple[int, str, str]


@pytest.fixture
def xamc(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs a command line in this process: (exit code, stdout, stderr)."""

    def run(*arguments: object) -> Result:
        status = cli.run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy artifact for the reference target with golden logits."""
    folder = tmp_path_factory.mktemp("toy")
    tokenizer = toy.train_tokenizer()
    size = int(tokenizer.get_vocab_size())
    code = toy.write_onnx(folder / "model.onnx", size)
    path = toy.write_artifact(folder / "artifact", "reference", code, tokenizer, vocab_size=size, context_limit=200)
    prompts = [np.arange(5, 9, dtype=np.int64), np.arange(3, 5, dtype=np.int64)]
    (path / "golden").mkdir()
    add_golden(path, Golden(tuple(Sample(ids, load(path).logits(ids[None])[0]) for ids in prompts)))
    return path


def add_golden(path: Path, golden: Golden) -> None:
    """Puts golden logits into an artifact, in place of those it has."""
    manifest = read_artifact(path).manifest
    entries = {file.path: file for file in manifest.files}
    for name, content in golden_files(golden).items():
        (path / "golden" / name).write_bytes(content)
        entries[f"golden/{name}"] = FileDigest(f"golden/{name}", len(content), hashlib.sha256(content).hexdigest())
    (path / MANIFEST).write_text(dumps(replace(manifest, golden="golden", files=tuple(entries.values()))))


@pytest.fixture
def artifact(made: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "artifact"
    subprocess.run(["cp", "-r", made, copy], check=True)
    return copy


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom xamc.cli import main\nstatus = main.run(sys.argv[1:])\n"
        "heavy = {'torch', 'tvm', 'tvm_ffi', 'onnx', 'onnxruntime', 'transformers', 'numpy', 'jsonschema'}\n"
        "sys.exit(f'imported {heavy & set(sys.modules)}' if heavy & set(sys.modules) else status)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: xamc" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [["no-such-command"], ["run"], ["compile", "a.yaml", "--workers", "0"], ["cache", "prune"]],
)
def test_misuse_is_2(xamc: Callable[..., Result], arguments: list[str]) -> None:
    status, out, err = xamc(*arguments)
    assert (status, out) == (2, "")
    assert "Usage: xamc" in err


def test_without_arguments_help_and_misuse(xamc: Callable[..., Result]) -> None:
    status, out, err = xamc()
    assert status == 2 and "Usage: xamc" in out + err


def test_version(xamc: Callable[..., Result]) -> None:
    import xamc as package

    assert xamc("--version") == (0, f"xamc {package.__version__}\n", "")


def test_input_errors_are_1_and_said_on_stderr(xamc: Callable[..., Result], tmp_path: Path) -> None:
    status, out, err = xamc("compile", tmp_path / "none.yaml")
    assert status == 1 and "none.yaml" in err and "fix:" in err and "Traceback" not in err
    status, out, err = xamc("verify", tmp_path)
    assert (status, out) == (1, "") and "E1504" in err


def test_errors_are_also_data_for_scripts(xamc: Callable[..., Result], tmp_path: Path) -> None:
    status, out, err = xamc("inspect", tmp_path, "--json")
    document = json.loads(out)
    assert status == document["exit_code"] == 1
    assert document["errors"][0]["code"] == "E1504"
    assert "E1504" in err


def test_unsupported_target_is_3(xamc: Callable[..., Result]) -> None:
    ascend = "build_configs/ascend/smollm2_135m_ascend.yaml"
    status, _, err = xamc("compile", ascend, "--set", "backend.compile.route=kernels")
    assert status == 3 and "E1415" in err and "backend.compile.route: atc" in err
    status, _, err = xamc("compile", "build_configs/vacc/internlm3_8b_int8_vacc.yaml")
    assert status == 3 and "--allow-rtn" in err
    status, _, err = xamc("compile", SMOL, "--set", "frontend.quantize.type=w4a16_gptq")
    assert status == 3 and "--allow-rtn" in err


@pytest.mark.parametrize("frontend", ["pytorch", "keras", "tensorflow", "darknet", "caffe"])
def test_other_frontends_of_vamc_are_3(xamc: Callable[..., Result], frontend: str) -> None:
    """Named, with its place, for a compile and for a plan; a plan first says what is meant."""
    change = ("--set", f"frontend.type={frontend}", "--set", "frontend.checkpoint=/no/such/net.bin")
    for command in ("compile", "plan"):
        status, out, err = xamc(command, SMOL, *change)
        assert status == 3 and f"frontend.type {frontend} is not supported" in err and "^" in err
    assert "graph" in out.splitlines()[0]


def test_a_visual_tower_is_3_on_the_cpu(xamc: Callable[..., Result]) -> None:
    """It must not silently become a compile of the checkpoint's language model."""
    visual = "tests/compiler/spec/vendor/vlm_visual.yaml"
    for command in ("compile", "plan"):
        status, out, err = xamc(command, visual, "--target", "cpu")
        assert status == 3 and "E1411" in err and "visual tower" in err and "vlm_visual.yaml:12:19" in err, err
    assert "visual tower" in out.splitlines()[0]
    status, out, _ = xamc("plan", SMOL)
    assert status == 0 and "language model" in out.splitlines()[0]
    assert json.loads(xamc("plan", SMOL, "--json")[1])["kind"] == "language model"


def test_explain(xamc: Callable[..., Result]) -> None:
    status, out, _ = xamc("explain", "e1505")
    assert status == 0 and "xamc verify" in out
    assert xamc("explain", "E9999")[0] == 2
    status, out, _ = xamc("explain", "--json")
    assert status == 0 and {"E1505", "E1700"} <= set(json.loads(out))
    assert "E1505" in xamc("explain")[1]


def test_unexpected_error_is_70_with_a_log(
    xamc: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("by accident")

    monkeypatch.setenv("XAMC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("xamc.cli.doctor.examine", fail)
    status, out, err = xamc("doctor")
    assert (status, out) == (70, "")
    assert "E1700" in err and "by accident" in err and "Traceback" not in err
    (log,) = (tmp_path / "cache/logs").iterdir()
    assert str(log) in err.replace("\n", "")
    assert "Traceback" in log.read_text() and "command: xamc doctor" in log.read_text()
    assert "Traceback" in xamc("--debug", "doctor")[2]


def test_missing_compiler_package_is_4_and_names_the_extra(
    xamc: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr("xamc.cli.doctor.examine", fail)
    status, _, err = xamc("doctor")
    assert status == 4 and "xamc[compiler]" in err


def test_interrupt_is_130(xamc: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("xamc.cli.doctor.examine", interrupt)
    assert xamc("doctor")[0] == 130


def test_closed_pipe_is_silent() -> None:
    command = f"{sys.executable} -m xamc schema | head -c 10"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == "" and len(done.stdout) == 10


def test_run_prints_text_on_stdout_and_speed_on_stderr(xamc: Callable[..., Result], artifact: Path) -> None:
    expected = load(artifact).generate("the quick", max_new_tokens=4, ignore_eos=True)
    status, out, err = xamc("run", artifact, "-p", "the quick", "--max-new-tokens", 4, "--ignore-eos")
    assert (status, out) == (0, expected.text + "\n")
    assert "tokens/s" in err
    status, out, _ = xamc("run", artifact, "-p", "the quick", "--max-new-tokens", 4, "--ignore-eos", "--json")
    assert status == 0 and json.loads(out)["token_ids"] == expected.token_ids
    status, out, _ = xamc("run", artifact, "-p", "the quick", "--stop", "", "--temperature", "-1")
    assert status == 2


def test_run_reads_the_prompt_from_stdin(
    xamc: Callable[..., Result], artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("the quick"))
    status, out, _ = xamc("run", artifact, "-p", "-", "--max-new-tokens", 2)
    assert status == 0 and out == load(artifact).generate("the quick", max_new_tokens=2).text + "\n"


def test_chat_keeps_the_conversation(
    xamc: Callable[..., Result], artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("a\nb\n"))
    status, out, err = xamc("chat", artifact, "--max-new-tokens", 2, "--system", "s")
    assert status == 0
    model = load(artifact)
    history: list[dict[str, Any]] = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]
    first = model.chat(history, max_new_tokens=2)
    history += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "b"}]
    assert out == f"{first.text}\n{model.chat(history, max_new_tokens=2).text}\n"
    assert err.count("decode ") == 2


def test_an_answer_of_a_chat_ends_without_being_told(
    xamc: Callable[..., Result], artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The toy never says end of sequence within 200 tokens; neither limit may be passed."""
    import io

    for most, said in ((7, "+ 7 tokens"), (512, "tokens, prefill")):
        monkeypatch.setattr("xamc.cli.commands.generate.CHAT_TOKENS", most)
        monkeypatch.setattr("sys.stdin", io.StringIO("the quick\n"))
        status, _, err = xamc("chat", artifact)
        assert status == 0 and said in err, err
    monkeypatch.undo()
    assert "default: 512" in " ".join(xamc("chat", "--help")[1].split())
    assert CHAT_TOKENS == 512


def test_weights_are_compared_when_asked(
    xamc: Callable[..., Result], artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    monkeypatch.setattr(loading, "SMALL_WEIGHTS", 0)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    weights = artifact / "weights.bin"
    content = bytearray(weights.read_bytes())
    content[0] ^= 1
    weights.write_bytes(content)
    for command in ("run", "chat"):
        prompt = ["-p", "the quick"] if command == "run" else []
        assert xamc(command, artifact, *prompt, "--max-new-tokens", 4)[0] == 0
        status, _, err = xamc(command, artifact, *prompt, "--max-new-tokens", 4, "--verify-weights")
        assert status == 1 and "E1505" in err and "weights.bin" in err


def test_missing_chat_template(xamc: Callable[..., Result], artifact: Path) -> None:
    status, _, err = xamc("chat", artifact, "--chat-template", artifact / "none")
    assert status == 1 and "E1702" in err


def test_verify_names_damage_and_deviation(xamc: Callable[..., Result], artifact: Path) -> None:
    status, out, _ = xamc("verify", artifact)
    assert status == 0 and "6 of 6 likeliest tokens agree, 2 prompts" in out
    status, out, _ = xamc("verify", artifact, "--json")
    golden = json.loads(out)["golden"]
    assert status == 0 and (golden["positions"], golden["prompts"], golden["executed"]) == (6, 2, True)
    weights = artifact / "weights.bin"
    data = bytearray(weights.read_bytes())
    data[4 * toy.HEADS * toy.DIM * 5 + 3] ^= 0x80  # the sign of token 5's first value
    weights.write_bytes(data)
    status, _, err = xamc("verify", artifact)
    assert status == 1 and "E1505" in err and "weights.bin" in err
    # The same damage with a digest that agrees: only the golden logits can tell.
    manifest = read_artifact(artifact).manifest
    files = tuple(
        replace(file, sha256=sha256_of(weights)) if file.path == "weights.bin" else file for file in manifest.files
    )
    (artifact / MANIFEST).write_text(dumps(replace(manifest, files=files)))
    status, _, err = xamc("verify", artifact)
    assert status == 4 and "E1511" in err


def test_verify_looks_at_every_prompt(xamc: Callable[..., Result], artifact: Path) -> None:
    golden = read_golden(artifact / "golden")
    for index, sample in enumerate(golden.samples):
        assert sample.logits is not None
        wrong = replace(sample, logits=np.roll(sample.logits, 1, axis=-1))
        add_golden(artifact, Golden((*golden.samples[:index], wrong, *golden.samples[index + 1 :])))
        status, _, err = xamc("verify", artifact)
        assert status == 4 and "E1511" in err


def test_verify_of_an_artifact_that_was_not_run_when_it_was_compiled(
    xamc: Callable[..., Result], artifact: Path
) -> None:
    """A machine that can run it compares with transformers' logits, if there are any."""
    golden = read_golden(artifact / "golden")
    why = "the CPU that compiled it lacks avx9000"
    bare = tuple(Sample(sample.token_ids) for sample in golden.samples)
    add_golden(artifact, Golden(bare, why))
    status, out, _ = xamc("verify", artifact)
    assert status == 0 and "2 prompts ran; no logits were recorded" in out and why in out
    add_golden(artifact, Golden(tuple(Sample(s.token_ids, None, s.logits) for s in golden.samples), why))
    status, out, _ = xamc("verify", artifact)
    assert status == 0 and "nats from transformers" in out and why in out
    wrong = tuple(Sample(s.token_ids, None, None if s.logits is None else -s.logits) for s in golden.samples)
    add_golden(artifact, Golden(wrong, why))
    status, _, err = xamc("verify", artifact)
    assert status == 4 and "E1511" in err and "transformers" in err


def test_verify_says_what_this_cpu_can_not_run(xamc: Callable[..., Result], artifact: Path) -> None:
    """Digests are checked all the same."""
    manifest = read_artifact(artifact).manifest
    other = replace(manifest.cpu, mcpu="x86-64-v9", features=("avx9000",))
    (artifact / MANIFEST).write_text(dumps(replace(manifest, cpu=other)))
    status, out, _ = xamc("verify", artifact)
    assert status == 0 and "not run" in out and "this CPU lacks avx9000, which x86-64-v9 code needs" in out
    status, out, _ = xamc("verify", artifact, "--json")
    golden = json.loads(out)["golden"]
    assert status == 0 and golden["executed"] is False and "avx9000" in golden["reason"] and golden["recorded"]
    weights = artifact / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x55")
    assert xamc("verify", artifact)[0] == 1


def test_inspect(xamc: Callable[..., Result], artifact: Path) -> None:
    (artifact / "report.json").write_text(
        json.dumps(
            {
                "graph_passes": [{"name": "cleanup", "matched": {"a": 2}, "deviation": 1e-7, "tolerance": "exact"}],
                "stages": [{"name": "spec", "state": "ok", "detail": "d", "seconds": 1.0, "peak_bytes": 5}],
                "golden": {"prompts": 2, "not_run": "this CPU lacks avx9000"},
            }
        )
    )
    status, out, _ = xamc("inspect", artifact)
    assert status == 0
    for text in (
        "weights.bin",
        "cleanup",
        "1.0e-07",
        "0.0e+00 (exact)",
        "llama",
        "2 prompts; not run: this CPU lacks avx9000",
    ):
        assert text in out
    status, out, _ = xamc("inspect", artifact, "--json")
    assert json.loads(out)["manifest"]["name"] == "toy"
    (artifact / "report.json").write_text("[")
    assert xamc("inspect", artifact)[0] == 0


def test_targets_and_schema(xamc: Callable[..., Result]) -> None:
    status, out, _ = xamc("targets")
    assert status == 0 and "tvm_cpu" in out and "never run on an NPU" in out
    assert {"tvm_cpu", "reference"} <= {caps["name"] for caps in json.loads(xamc("targets", "--json")[1])}
    assert json.loads(xamc("schema")[1])["type"] == "object"


def test_cache_commands(xamc: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XAMC_CACHE", str(tmp_path / "cache"))
    status, out, _ = xamc("cache", "info", "--json")
    assert status == 0 and json.loads(out)["entries"] == 0
    assert xamc("cache", "prune", "--max-size", "1GB")[0] == 0
    status, _, err = xamc("cache", "prune", "--max-size", "much")
    assert status == 2 and "E1704" in err


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("0", 0), ("20GB", 20 * 10**9), ("1.5 GiB", 3 * 2**29), ("500M", 500 * 10**6), ("1tb", 10**12), ("7", 7)],
)
def test_sizes(text: str, nbytes: int) -> None:
    assert parse_size(text, "--max-size") == nbytes


@pytest.mark.parametrize("text", ["", "-1", "GB", "1 EB", "1e9"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(MisuseError, match="E1704"):
        parse_size(text, "--max-size")


def test_the_command_to_paste_holds_whatever_name_a_spec_has_as_one_word() -> None:
    from xamc.cli.commands.build import _to_run

    name = "a b; touch $HOME/x `id`"
    assert shlex.split(_to_run(Path("out") / name)) == ["xamc", "run", f"out/{name}"]
    assert _to_run(Path("out/tiny-w4")) == "xamc run out/tiny-w4"
