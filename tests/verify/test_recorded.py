"""Recorded answers: the file, the comparison, the commands, and JUnit XML; the model is a table of logits."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xamc.cli import main as cli
from xamc.cli.commands import golden as commands
from xamc.compiler.stages.job import CompileOptions
from xamc.errors import InputError
from xamc.ir.tolerances import tolerance
from xamc.verify import recorded as file
from xamc.verify.junit import TestCase as Case
from xamc.verify.junit import write_junit
from xamc.verify.recorded import Difference, Recorded, compare, record_answer

VOCABULARY = 12
BOUND = tolerance("recorded_answers")


class Table:
    """A model whose next token depends on the last one alone."""

    def __init__(self) -> None:
        self.logits_of = np.random.default_rng(3).normal(0, 3, (VOCABULARY, VOCABULARY)).astype(np.float32)
        self.manifest = SimpleNamespace(name="table", is_embedding=False)
        self.tokenizer = SimpleNamespace(
            encode=lambda text: np.array([ord(c) % VOCABULARY for c in text]), decode=lambda ids: f"<{ids[0]}>"
        )

    def logits(self, ids: np.ndarray) -> np.ndarray:
        return self.logits_of[ids]

    def generate(self, ids: list[int], tokens: int, **options: Any) -> Any:
        answer = []
        for _ in range(tokens):
            answer.append(int(self.logits_of[(ids + answer)[-1]].argmax()))
        return SimpleNamespace(token_ids=answer, text="".join(f"<{token}>" for token in answer))


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    table = Table()
    monkeypatch.setattr(commands, "load_language_model", lambda path, threads=None: table)
    return table


@pytest.fixture
def golden(table: Table, tmp_path: Path) -> Path:
    path = tmp_path / "answers.json"
    (tmp_path / "prompts.txt").write_text("hello\n\n你好\n")
    arguments = ["golden", "record", str(tmp_path), "-o", str(path), "--prompts", str(tmp_path / "prompts.txt")]
    assert cli.run([*arguments, "--prompt", "abc", "--tokens", "5"]) == 0
    return path


def test_what_was_recorded_agrees(golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded = file.read(golden)
    assert [answer.prompt for answer in recorded.answers] == ["abc", "hello", "你好"]
    assert file.dumps(recorded) == golden.read_text(), "reading and writing again changes nothing"
    assert cli.run(["golden", "check", str(tmp_path), str(golden)]) == 0
    assert "3 of 3 answers of table agree" in capsys.readouterr().out


def test_log_probabilities_are_those_of_the_answer(golden: Path, table: Table) -> None:
    answer = file.read(golden).answers[0]
    last = answer.token_ids[-1]
    for token, place in zip(answer.answer_ids, answer.places):
        shifted = table.logits_of[last].astype(np.float64)
        exact = shifted - np.log(np.exp(shifted).sum())
        assert place.ids[0] == token == int(exact.argmax())
        np.testing.assert_allclose(place.log_probabilities, np.sort(exact)[::-1][:5], atol=1e-4)
        last = token


def test_a_change_fails_with_the_token_where_it_begins(
    golden: Path, table: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = file.read(golden).answers[0]
    table.logits_of[answer.answer_ids[0], 7] += 30  # after the first token of the answer, 7 is all it says
    report = tmp_path / "reports" / "junit.xml"
    assert cli.run(["golden", "check", str(tmp_path), str(golden), "--junit", str(report)]) == 1
    out, err = capsys.readouterr()
    assert "differs  1: abc" in out and "token 1: recorded" in out and "now '<7>'" in out
    assert "E1736" in err and "record again" in err
    suite = ET.parse(report).getroot()[0]
    failed = [case.get("name") for case in suite if case.find("failure") is not None]
    assert suite.get("tests") == "3" and int(suite.get("failures") or 0) == len(failed) and "1: abc" in failed


def test_json_says_what_a_script_needs(
    golden: Path, table: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table.logits_of += np.random.default_rng(0).normal(0, BOUND / 20, table.logits_of.shape)
    assert cli.run(["golden", "check", str(tmp_path), str(golden), "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)["answers"]
    assert all(answer["agrees"] and 0 < answer["nats"] < BOUND for answer in answers)
    assert cli.run(["golden", "check", str(tmp_path), str(golden), "--json", "--tolerance", "1e-6"]) == 1


def test_equal_tokens_may_change_places() -> None:
    table = Table()
    table.logits_of[4, :2] = 20, 20.0001
    answer = record_answer("p", [4], [1], "<1>", table.logits)
    table.logits_of[4, :2] = 20.0001, 20
    assert compare(answer, [4], table.logits, str, BOUND) == Difference("p", pytest.approx(1e-4, abs=1e-4), None)


def test_another_tokenizer_and_broken_logits_are_differences() -> None:
    table = Table()
    answer = record_answer("p", [4, 5], [1], "", table.logits)
    assert "tokenizer changed" in compare(answer, [4, 6], table.logits, str, BOUND).lines[0]
    table.logits_of[:] = np.nan
    assert compare(answer, [4, 5], table.logits, str, BOUND).lines


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "answers": []}', "\xff"])
def test_what_is_no_file_of_answers(tmp_path: Path, content: str) -> None:
    path = tmp_path / "answers.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match="E1735"):
        file.read(path)


def test_misuse(table: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["golden", "record", str(tmp_path), "-o", str(tmp_path / "x")]) == 2
    assert cli.run(["golden", "record", str(tmp_path), "-o", "x", "-p", "a", "--set", "name=b"]) == 2
    assert "E1737" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["record", "check"])
@pytest.mark.parametrize("source", ["build.yaml", "-"])
def test_a_spec_is_compiled_with_what_a_compile_takes(
    command: str, source: str, table: Table, golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Any] = []

    def compile_spec(source: Path, overrides: list[str], options: CompileOptions, progress: Any) -> Any:
        compiled.append((str(source), overrides, options))
        return SimpleNamespace(path=tmp_path)

    monkeypatch.setattr("xamc.compiler.pipeline.compile_spec", compile_spec)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "build.yaml").write_text("frontend: {checkpoint: x}")
    rest = ["-p", "a b", "-o", str(tmp_path / "again.json")] if command == "record" else [str(golden)]
    options = ["--target", "cpu", "--set", "name=n", "--allow-rtn", "--allow-pickle"]
    assert cli.run(["golden", command, source, *rest, *options]) == 0
    assert compiled == [(source, ["name=n", "backend.type=tvm_cpu"], CompileOptions(allow_rtn=True, allow_pickle=True))]


@pytest.mark.parametrize("option", [["--target", "cpu"], ["--allow-rtn"], ["--allow-pickle"]])
def test_an_artifact_is_compiled_already(
    option: list[str], table: Table, golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["golden", "check", str(tmp_path), str(golden), *option]) == 2
    assert "E1737" in (err := capsys.readouterr().err) and option[0] in err


@given(texts=st.lists(st.text(), min_size=1, max_size=4))
def test_reports_are_xml_whatever_a_prompt_holds(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("junit") / "report.xml"
    write_junit(path, "suite", [Case(text, 0.5, text and f"x{text}") for text in texts])
    cases = ET.parse(path).getroot()[0]
    assert [case.find("failure") is not None for case in cases] == [bool(text) for text in texts]


@given(prompt=st.text(min_size=1), ids=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=3))
def test_files_hold_any_prompt(prompt: str, ids: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    answer = record_answer(prompt.encode("utf-8", "replace").decode(), ids, [1, 2], prompt[:0], Table().logits)
    recorded = Recorded("n", "0", (answer, answer))
    path = tmp_path_factory.mktemp("answers") / "a.json"
    path.write_text(file.dumps(recorded), encoding="utf-8")
    assert file.read(path) == recorded
