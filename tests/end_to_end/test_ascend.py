"""From a build file to ONNX for ATC: text and logits in ONNX Runtime, every gear, and what is refused.

Graphs of every family are compared with transformers in tests/targets/ascend/test_passes.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.checkpoints import write_tiny
from tests.end_to_end.models import F32, I64, wrong_answers_of_many_callers
from tests.end_to_end.test_families import expected
from tests.end_to_end.vacc_models import error_of
from tests.worker import Worker
from xamc.cli import main as cli
from xamc.compiler.pipeline import Compiled, compile_spec
from xamc.errors import InputError, UnsupportedError
from xamc.ir.onnx_weights import WEIGHTS
from xamc.ir.tolerances import tolerance
from xamc.runtime import Model, load
from xamc.runtime.executors.ascend import AscendExecutor
from xamc.verify.metrics import relative_error

NAMES = ("llama", "qwen2", "static")
GEARS = [[1, 16], [1, 40], [3, 16], [3, 40]]
SHAPE = {"input_ids": [[8, 24], [32, 40]]}


def build(checkpoint: Path, name: str, **sections: Any) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": name,
        "frontend": {"checkpoint": str(checkpoint), "type": "huggingface", "shape": SHAPE},
        "backend": {"type": "tvm_ascend", "dtype": "fp16", "compile": {"gears": GEARS}},
        "workspace": {"path": str(checkpoint.parent / "out")},
        "verify": {"passes": "off"},
    }
    for section, values in sections.items():
        document[section] = document.get(section, {}) | values
    return document


class Workshop:
    """Makes checkpoints and artifacts when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._compiled: dict[str, Compiled] = {}
        self._models: dict[str, Model] = {}

    def checkpoint(self, family: str) -> Path:
        folder = self._folder / family
        return folder if folder.is_dir() else write_tiny(folder, family)

    def compiled(self, name: str) -> Compiled:
        """With gears; `static` is llama with one graph per length and two rows, its passes proven."""
        if name not in self._compiled:
            static = {"backend": {"compile": {}}, "runtime": {"max_batch": 2}, "verify": {"passes": "each"}}
            changes: dict[str, Any] = static if name == "static" else {}
            checkpoint = self.checkpoint("llama" if name == "static" else name)
            self._compiled[name] = compile_spec(build(checkpoint, name, **changes))
        return self._compiled[name]

    def model(self, name: str) -> Model:
        if name not in self._models:
            self._models[name] = load(self.compiled(name).path, threads=1)
        return self._models[name]

    def reference(self, name: str, tokens: I64) -> F32:
        """Logits [T, V] of a sequence by transformers in float32."""
        family = "llama" if name == "static" else name
        return expected(self.checkpoint(family), family, [tokens], np.zeros((1, 0), np.int64))[0]


@pytest.fixture(scope="module")
def ascend(tmp_path_factory: pytest.TempPathFactory, worker: Worker) -> Iterator[Workshop]:
    with worker.active():
        yield Workshop(tmp_path_factory.mktemp("ascend"))


def text(length: int, seed: int = 7) -> I64:
    """Random tokens, whatever a model would say."""
    return np.random.default_rng(seed).integers(3, 272, length)


@pytest.mark.parametrize("prompt", [5, 24])
@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(name: str, prompt: int, ascend: Workshop) -> None:
    """A padded prompt, or one that fills its gear; then decode up to the last slot."""
    model, tokens = ascend.model(name), text(40)
    assert error_of(model, tokens, ascend.reference(name, tokens), prompt) <= tolerance("ascend_fp16")


@pytest.mark.parametrize("name", NAMES)
def test_greedy_text_is_that_of_transformers(name: str, ascend: Workshop) -> None:
    model, prompt = ascend.model(name), text(9)
    answer = model.generate(prompt, 20, ignore_eos=True)
    said = np.concatenate([prompt, answer.token_ids])
    logits = ascend.reference(name, said)[len(prompt) - 1 : -1]
    margins = logits.max(axis=-1) - logits[np.arange(20), answer.token_ids]
    # the likeliest token, or one so near that rounding decides
    assert (margins <= 2 * tolerance("ascend_fp16") * np.abs(logits).max()).all() and len(set(answer.token_ids)) > 4


def test_ragged_sequences_together_are_what_each_is_alone(ascend: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three sequences of different lengths, which stop at different times, through all four gears."""
    model, driven = ascend.model("qwen2"), set()
    choose: Callable[..., Any] = AscendExecutor._decode_gear

    def noted(self: Any, batch: int, position: int) -> Any:
        drive = choose(self, batch, position)
        driven.add((drive.gear.batch, drive.gear.length))
        return drive

    monkeypatch.setattr(AscendExecutor, "_decode_gear", noted)
    prompts = [text(3), text(30, 1), text(11, 2)]
    alone = [model.generate(prompt, 10, ignore_eos=True).token_ids for prompt in prompts]
    together = model.generate(prompts, 10, ignore_eos=True)
    assert [answer.token_ids for answer in together] == alone
    model.generate([text(2), text(3, 1), text(2, 2)], 4, ignore_eos=True)
    assert driven == {tuple(gear) for gear in GEARS}


def test_more_sequences_than_a_batch_takes_go_in_turns(ascend: Workshop) -> None:
    """Gears of batch 2 and 1 on a cache of 3 rows: the third sequence is not touched by the call of the other two."""
    changes = {"backend": {"compile": {"gears": [[2, 40], [1, 16]]}}, "runtime": {"max_batch": 3}}
    compiled = compile_spec(build(ascend.checkpoint("llama"), "turns", **changes))
    model, prompts = load(compiled.path, threads=1), [text(6), text(9, 1), text(4, 2)]
    alone = [model.generate(prompt, 8, ignore_eos=True).token_ids for prompt in prompts]
    assert [answer.token_ids for answer in model.generate(prompts, 8, ignore_eos=True)] == alone


def test_many_callers_get_the_answers_they_would_get_alone(ascend: Workshop) -> None:
    assert wrong_answers_of_many_callers(ascend.model("llama"), [text(5), text(9, 1), text(20, 2)], 8) == []


def test_the_static_form_says_the_same_as_the_gears(ascend: Workshop) -> None:
    for length in (1, 8, 9, 24, 25, 31, 32, 39):
        tokens = text(length + 1)[None]
        found = relative_error(ascend.model("static").logits(tokens), ascend.model("llama").logits(tokens))
        assert found <= tolerance("ascend_fp16"), length


def test_chat_reuses_the_cache(ascend: Workshop) -> None:
    model, tokens = ascend.model("llama"), text(20)
    first = model.generate(tokens[:6], 3, ignore_eos=True)
    longer = np.concatenate([tokens[:6], first.token_ids, tokens[6:9]])
    again = model.generate(longer, 5, ignore_eos=True)
    anew = model.generate(longer, 5, ignore_eos=True, prefix_cache=False)
    assert again.reused_tokens == 8 and anew.reused_tokens == 0  # the last token of an answer was never fed
    assert again.token_ids == anew.token_ids


def test_the_files(ascend: Workshop) -> None:
    compiled = ascend.compiled("static")
    names = {path.name for path in compiled.path.iterdir()}
    graphs = {"prefill_8", "prefill_24", "decode_32", "decode_40"}
    assert {f"{graph}.{kind}" for graph in graphs for kind in ("onnx", "ini")} <= names
    assert {WEIGHTS, "atc.sh", "gears.json", "tokenizer", "manifest.json", "report.json"} <= names
    assert {f"{kind}.{end}" for kind in ("prefill", "decode") for end in ("onnx", "ini")} <= {
        path.name for path in ascend.compiled("llama").path.iterdir()
    }
    for graph in graphs:
        model = onnx.load(compiled.path / f"{graph}.onnx", load_external_data=False)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 14)] and model.ir_version == 8
        assert not model.functions and {node.domain for node in model.graph.node} == {""}
        places = {entry.value for t in model.graph.initializer for entry in t.external_data if entry.key == "location"}
        assert places == {WEIGHTS}
        assert {t.data_type for t in model.graph.initializer} == {onnx.TensorProto.FLOAT16}
        inputs = {value.name for value in model.graph.input}
        assert {"tokens", "batch_index", "batch_valid_length"} <= inputs and "zactivate_len" not in inputs
    stored = 2 * sum(int(np.prod(t.dims)) for t in model.graph.initializer)
    pages = 4096 * len(model.graph.initializer)
    assert stored <= (compiled.path / WEIGHTS).stat().st_size <= stored + pages, "one copy for all graphs"


def test_report_and_manifest_say_what_was_checked_and_what_not(ascend: Workshop) -> None:
    compiled = ascend.compiled("static")
    report = json.loads((compiled.path / "report.json").read_text())
    assert report["npu"] == "never run on an NPU"
    assert [(gear["graph"], gear["batch"], gear["length"]) for gear in report["gears"]] == [
        ("prefill_8", 1, 8),
        ("prefill_24", 1, 24),
        ("decode_32", 2, 32),
        ("decode_40", 2, 40),
    ]
    assert all(gear["deviation"] <= tolerance("gears_float16") for gear in report["gears"])
    proven = {entry["name"] for entry in report["graph_passes"] if entry["deviation"] is not None}
    assert {"cache_rows", "half_precision", "standard_ops"} <= proven
    manifest = json.loads((compiled.path / "manifest.json").read_text())
    assert manifest["executes_on"] == "host-onnxruntime; never run on an NPU" and manifest["max_batch"] == 2
    assert manifest["context_limit"] == 40


def test_the_files_run_in_onnxruntime_as_it_comes(ascend: Workshop) -> None:
    """With every graph optimization, as a user would open them."""
    folder, config = ascend.compiled("qwen2").path, ascend.compiled("qwen2").manifest.model  # type: ignore[union-attr]
    session = ort.InferenceSession(str(folder / "prefill.onnx"), providers=["CPUExecutionProvider"])
    tokens = text(8)[None]
    feeds: dict[str, Any] = {"tokens": tokens, "batch_index": np.array([1]), "batch_valid_length": np.array([8])}
    for value in session.get_inputs():
        if value.name not in feeds:
            feeds[value.name] = np.zeros(value.shape, np.float16)
    logits = session.run(["logits"], feeds)[0]
    assert logits.dtype == np.float16 and logits.shape == (1, 1, config.vocab_size)
    reference = ascend.reference("qwen2", tokens[0])[-1]
    assert relative_error(logits[0, 0].astype(np.float32), reference) <= tolerance("ascend_fp16")


@pytest.mark.parametrize(
    ("changes", "code", "remedy"),
    [
        ({"frontend": {"model_kwargs": {"tp": 2}}}, "E1414", "tp to 1"),
        ({"frontend": {"quantize": {"type": "w16kv8"}}, "backend": {"dtype": "int8"}}, "E1408", "remove"),
        (
            {"frontend": {"quantize": {"type": "w8a16_rtn"}}, "backend": {"dtype": "int8"}},
            "E1408",
            "backend.dtype: fp16",
        ),
        (
            {"frontend": {"quantize": {"type": "w4a16_gptq"}}, "backend": {"dtype": "int4"}},
            "E1408",
            "backend.dtype: fp16",
        ),
        ({"frontend": {"shape": {"input_ids": [[16], []]}}, "backend": {"compile": {}}}, "E1416", "tvm_vacc"),
        ({"backend": {"compile": {"route": "kernels"}}}, "E1415", "route: atc"),
        ({"backend": {"dtype": "bf16"}}, "E1410", "fp16"),
        ({"runtime": {"kv_dtype": "fp32"}}, "E1410", "auto"),
    ],
)
def test_what_the_road_does_not_have(changes: dict[str, Any], code: str, remedy: str, ascend: Workshop) -> None:
    with pytest.raises(UnsupportedError) as caught:
        compile_spec(build(ascend.checkpoint("llama"), "refused", **changes))
    assert caught.value.code == code and remedy in caught.value.fix and type(caught.value).exit_code == 3


def test_an_unknown_family_is_named(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "other", "llama")
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "mamba"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match="mamba"):
        compile_spec(build(folder, "other"))


def test_commands(ascend: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    path = ascend.compiled("llama").path
    assert cli.run(["run", str(path), "--prompt", "a b", "--max-new-tokens", "3", "--target", "ascend"]) == 0
    assert "ONNX Runtime on the host; never run on an NPU" in capsys.readouterr().err
    assert cli.run(["run", str(path), "--prompt", "a b", "--max-new-tokens", "3", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["executes_on"].startswith("host-onnxruntime") and answer["simulated"] is True
    assert cli.run(["inspect", str(path)]) == 0
    assert "never run on an NPU" in capsys.readouterr().out.replace("\n", " ")
    assert cli.run(["verify", str(path)]) == 0


@pytest.mark.parametrize("file", ["decode.onnx", "gears.json"])
def test_changed_graphs_are_not_executed(ascend: Workshop, tmp_path: Path, file: str) -> None:
    copy = shutil.copytree(ascend.compiled("llama").path, tmp_path / "copy")
    content = (copy / file).read_bytes()
    (copy / file).write_bytes(content.replace(b"batch", b"hatch", 1))
    with pytest.raises(InputError, match="E1505.*" + file):
        load(copy)


def test_plan_shows_graphs_gears_inputs_and_bytes(
    ascend: Workshop, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    compiled = ascend.compiled("llama")
    spec = tmp_path / "build.json"
    spec.write_text(json.dumps(build(ascend.checkpoint("llama"), "llama")))
    assert cli.run(["plan", str(spec)]) == 0
    shown = capsys.readouterr().out
    assert "3 x 40" in shown and "zactivate_len [-1]" in shown and "never run on an NPU" in shown
    assert cli.run(["plan", str(spec), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["gears"]["weights"] == (compiled.path / WEIGHTS).stat().st_size
    cache = np.prod(plan["gears"]["graphs"][1]["inputs"]["cache_key.0"]) * 2 * plan["gears"]["caches"]
    assert plan["gears"]["cache"] == cache and plan["gears"]["graphs"][1]["gears"] == GEARS
    for file in plan["files"]:
        if file["path"].endswith(".onnx"):
            assert (compiled.path / file["path"]).stat().st_size < 4 * file["nbytes"]
    assert cli.run(["plan", str(spec), "--die-memory", "1GB"]) == 2 and "E1713" in capsys.readouterr().err
