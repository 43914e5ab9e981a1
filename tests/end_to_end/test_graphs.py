"""Build files of graphs, from the .onnx file to outputs, against ONNX Runtime on the original model."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml

from tests.onnx_models import MODELS, RANGES, SHAPES, feeds, narrowed, reference, write
from tests.worker import Worker
from xamc.artifact import read_onnx_artifact
from xamc.artifact.digests import sha256_of
from xamc.artifact.manifest_file import dumps
from xamc.artifact.params_index import read_params_index
from xamc.cli import main as cli
from xamc.compiler.pipeline import compile_spec
from xamc.compiler.spec import load_spec
from xamc.compiler.stages.job import CompileOptions
from xamc.compiler.stages.onnx_import import look_at_graph
from xamc.compiler.stages.onnx_route import run_cases
from xamc.errors import InputError, InternalError, MisuseError, UnsupportedError
from xamc.ir.tolerances import tolerance
from xamc.runtime import GraphModel, load, load_language_model
from xamc.targets.kernels.isa import Isa
from xamc.verify.metrics import relative_error


def spec(kind: str, folder: Path, target: str, dtype: str) -> dict[str, Any]:
    """As vamc's CV and NLP files are written."""
    return {
        "name": f"{kind}_{target}_{dtype}",
        "frontend": {
            "checkpoint": str(folder / f"{kind}.onnx"),
            "type": "onnx",
            "shape": SHAPES[kind],
            "dtype": "int64" if kind == "bert" else "fp32",
        },
        "graph": {"extra_ops": {"type": "softmax"}},
        "backend": {"type": target, "dtype": dtype, "compile": {"cluster_mode": 0, "opt_level": 2}},
        "workspace": {"path": str(folder / "deploy")},
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    for kind in MODELS:
        write(kind, folder / f"{kind}.onnx")
    return folder


@pytest.fixture(scope="module")
def compiled(folder: Path, worker: Worker) -> Callable[..., Path]:
    """Compiles once per model, target and storage; the library is compiled once per model and storage.

    One process does what three would do for each; the other tests of this file compile in processes of their own.
    """
    made: dict[tuple[str, ...], Path] = {}

    def compile(kind: str, target: str = "tvm_vacc", dtype: str = "fp16") -> Path:
        key = (kind, target, dtype)
        if key not in made:
            build = spec(kind, folder, target, dtype)
            if dtype == "int8":
                build["backend"]["quantize"] = {"calibrate_mode": "percentile"}
            build["backend"]["compile"]["mcpu"] = Isa.host().name
            with worker.active():
                made[key] = compile_spec(build, options=CompileOptions(allow_rtn=dtype == "int8")).path
        return made[key]

    return compile


CASES = [
    ("resnet", "tvm_vacc", "fp16", 5e-3),
    ("vit", "tvm_vacc", "fp32", None),
    ("vit", "tvm_cpu", "fp32", None),
    ("bert", "tvm_vacc", "int8", 0.15),
    ("bert", "reference", "fp32", None),
    ("audio", "tvm_cpu", "fp32", None),
]


@pytest.mark.parametrize(("kind", "target", "dtype", "bound"), CASES)
def test_outputs_are_those_of_onnxruntime(
    compiled: Callable[..., Path], kind: str, target: str, dtype: str, bound: float | None
) -> None:
    """On other inputs than the compile compared; fp32 within the tolerance, fewer bits within theirs."""
    path = compiled(kind, target, dtype)
    model, given = load(path), feeds(kind, seed=11)
    assert isinstance(model, GraphModel)
    expected, actual = reference(MODELS[kind](), given), model.run(given)
    assert actual.keys() == expected.keys()
    for name in expected:
        assert actual[name].dtype == expected[name].dtype
        error = relative_error(actual[name], expected[name])
        assert error <= (bound or tolerance("graph_fp32")), name
        assert dtype == "fp32" or error > 1e-6, "the weights were not rounded"
    again = model.run(given)
    assert all(np.array_equal(again[name], actual[name]) for name in actual)
    assert model.simulated == (target == "tvm_vacc")


@pytest.mark.parametrize("target", ["tvm_cpu", "reference"])
def test_many_threads_get_the_outputs_they_would_get_alone(compiled: Callable[..., Path], target: str) -> None:
    model = load(compiled("audio", target, "fp32"), threads=2)
    given = [feeds("audio", seed=seed) for seed in range(3)]
    expected = [model.run(each) for each in given]
    wrong: list[Any] = []

    def work(first: int) -> None:
        for step in range(12):
            at = (first + step) % len(given)
            outputs = model.run(given[at])
            wrong.extend((at, name) for name in outputs if not np.array_equal(outputs[name], expected[at][name]))

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("kind", MODELS)
def test_dimensions_that_vary(kind: str, folder: Path, worker: Worker, capsys: pytest.CaptureFixture[str]) -> None:
    """One artifact for a range of batches, and of tokens or samples where the model takes them."""
    build = spec(kind, folder, "tvm_cpu", "fp32")
    build["name"], build["frontend"]["shape"] = f"{kind}_varies", RANGES[kind]
    build["backend"]["compile"]["mcpu"] = Isa.host().name
    with worker.active():
        path = compile_spec(build).path
    model = load(path)
    assert isinstance(model, GraphModel)
    least, most = ({name: shapes[i] for name, shapes in RANGES[kind].items()} for i in (0, 1))
    between = {name: [(a + b + 1) // 2 for a, b in zip(least[name], most[name])] for name in least}
    for shapes in (least, between, most):
        given = feeds(kind, seed=3, shapes=shapes)
        expected, actual = reference(MODELS[kind](), given), model.run(given)
        for name in expected:
            assert actual[name].shape == expected[name].shape
            assert relative_error(actual[name], expected[name]) <= tolerance("graph_fp32"), (name, shapes)
    name, (low, high) = next(iter(RANGES[kind].items()))
    with pytest.raises(InputError, match=rf"{low[0]}\.\.{high[0]}") as caught:
        model.run(feeds(kind, shapes={**most, name: [high[0] + 1, *high[1:]]}))
    assert caught.value.code == "E1642"
    if kind == "bert":
        with pytest.raises(InputError, match="they are the same") as caught:
            model.run(**{**feeds(kind, shapes=most), "attention_mask": np.ones([3, 24], np.int64)})
        assert caught.value.code == "E1642"
    assert cli.run(["verify", str(path)]) == 0
    assert "at 2 sizes" in capsys.readouterr().out
    assert cli.run(["inspect", str(path)]) == 0
    assert f"{low[0]}..{high[0]}" in capsys.readouterr().out


HALF_PRECISION = [
    ("vit", "float16", "tvm_vacc", "fp16", True),
    ("resnet", "bfloat16", "tvm_cpu", "fp32", False),
]


@pytest.mark.parametrize(("kind", "half", "target", "storage", "varies"), HALF_PRECISION)
def test_models_in_16_bits(
    kind: str,
    half: str,
    target: str,
    storage: str,
    varies: bool,
    tmp_path: Path,
    worker: Worker,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Inputs and outputs have the file's types, or float32 for bfloat16; every command takes the artifact."""
    model = narrowed(MODELS[kind](), onnx.TensorProto.DataType.Value(half.upper()))
    onnx.save(model, tmp_path / f"{kind}.onnx")
    build = spec(kind, tmp_path, target, storage)
    build["backend"]["compile"]["mcpu"] = Isa.host().name
    if varies:
        build["frontend"]["shape"] = RANGES[kind]
    with worker.active():
        compiled = compile_spec(build)
    loaded, sizes = load(compiled.path), RANGES[kind].values() if varies else ()
    assert isinstance(loaded, GraphModel)
    for which in range(2 if varies else 1):
        shapes = {name: ends[which] for name, ends in RANGES[kind].items()} if sizes else None
        given = feeds(kind, seed=7, shapes=shapes)
        if half == "float16":
            given = {name: array.astype(np.float16) for name, array in given.items()}
        # bfloat16 is no type of ONNX Runtime's operators: its model in float32, the weights not rounded
        expected = reference(model if half == "float16" else MODELS[kind](), given)
        for name, actual in loaded.run(given).items():
            assert actual.dtype == (np.float16 if half == "float16" else np.float32)
            assert relative_error(actual, expected[name]) <= tolerance(f"graph_from_{half}")
    distances = compiled.report["deviation"]["float32_from_file"]
    assert distances.keys() == expected.keys() and max(distances.values()) <= tolerance(f"graph_from_{half}")
    stored = {entry.dtype for entry in read_params_index(compiled.path / loaded.manifest.params_file).values()}
    assert stored == {"float16" if storage == "fp16" else "float32"}
    (tmp_path / "build.yaml").write_text(yaml.safe_dump(build))
    for command in ("run", "verify", "inspect") if varies else ("verify",):
        assert cli.run([command, str(compiled.path)]) == 0
    if not varies:
        return
    with worker.active():
        assert cli.run(["plan", str(tmp_path / "build.yaml")]) == 0
    assert f"{half} in the file, computed in float32" in capsys.readouterr().out


def test_what_an_artifact_holds(compiled: Callable[..., Path]) -> None:
    path = compiled("resnet")
    assert {file.name for file in path.iterdir()} == {
        "mod.so", "mod.json", "mod.params", "manifest.json", "report.json", "golden",
    }  # fmt: skip
    manifest = read_onnx_artifact(path).manifest
    graph, report = json.loads((path / "mod.json").read_text()), json.loads((path / "report.json").read_text())
    for holder in (graph, json.loads((path / "manifest.json").read_text())):
        assert holder["executes_on"] == "host-simulator" and holder["compute_dtype"] == "float32"
        assert holder["kind"] == "graph" and holder["weight_dtype"] == "float16"
    assert [param["name"] for param in graph["params"]] == list(manifest.parameters)
    assert {param["dtype"] for param in graph["params"]} == {"float16"}
    assert {"Conv", "Cast", "Gemm"} <= {node["op"] for node in graph["nodes"]}
    assert manifest.spec["graph"]["extra_ops"]["type"] == "softmax"
    assert any("extra_ops" in warning for warning in report["warnings"])
    deviation = report["deviation"]
    assert 0 < deviation["compiled_from_onnxruntime_same_weights"]["logits"] < tolerance("graph_fp32")
    assert deviation["compiled_from_original"]["logits"] > 1e-5
    assert "/" not in manifest.spec["frontend"]["checkpoint"]


def test_parameters_are_readable_by_tvm(compiled: Callable[..., Path]) -> None:
    import tvm

    loaded = tvm.runtime.load_param_dict_from_file(str(compiled("resnet") / "mod.params"))
    assert set(loaded) == set(read_onnx_artifact(compiled("resnet")).manifest.parameters)


def test_int8_says_what_was_asked_and_used(compiled: Callable[..., Path], folder: Path) -> None:
    quantization = read_onnx_artifact(compiled("bert", "tvm_vacc", "int8")).manifest.quantization
    assert quantization.used == "w8a16_rtn" and "backend.quantize" in str(quantization.requested)
    build = spec("bert", folder, "tvm_vacc", "int8")
    build["backend"]["quantize"] = {"calibrate_mode": "percentile"}
    with pytest.raises(UnsupportedError, match=r"backend\.quantize") as caught:
        compile_spec(build)
    assert caught.value.code == "E1472" and "--allow-rtn" in caught.value.fix


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"dtype": "bf16"}, "E1471"),
        ({"type": "tvm_ascend"}, "E1476"),
    ],
)
def test_unsupported_backends(folder: Path, change: dict[str, str], code: str) -> None:
    build = spec("resnet", folder, "tvm_vacc", "fp16")
    build["backend"] |= change
    with pytest.raises(UnsupportedError) as caught:
        compile_spec(build)
    assert caught.value.code == code


def test_groups_are_for_language_models(folder: Path) -> None:
    build = spec("resnet", folder, "tvm_vacc", "int8")
    for quantize in ({"type": "w4a16_rtn"}, {"type": "w8a16_rtn", "group_size": 64}, {"type": "w8a16_gptq"}):
        build["frontend"]["quantize"] = quantize
        build["backend"]["dtype"] = "int4" if quantize["type"] == "w4a16_rtn" else "int8"
        with pytest.raises(UnsupportedError) as caught:
            compile_spec(build)
        assert caught.value.code in ("E1470", "E1471")


def test_shapes_that_contradict_the_model(folder: Path) -> None:
    build = spec("bert", folder, "reference", "fp32")
    build["frontend"]["shape"] = {name: [1, 100] for name in SHAPES["bert"]}
    with pytest.raises(InputError, match="can't be evaluated") as caught:
        compile_spec(build)
    assert caught.value.code == "E1152" and "Incompatible dimensions" in " ".join(caught.value.details)


def test_a_wrong_parameter_is_noticed(compiled: Callable[..., Path], tmp_path: Path) -> None:
    """The comparison while compiling, and the one of `verify`, fail for an artifact that computes something else."""
    import safetensors.numpy

    copy = tmp_path / "copy"
    shutil.copytree(compiled("vit", "tvm_vacc", "fp32"), copy)
    given = feeds("vit")
    right = load(copy).run(given)
    case = {f"input.{name}": array for name, array in given.items()}
    for kind in ("original", "stored"):
        case |= {f"{kind}.{name}": array for name, array in right.items()}
    safetensors.numpy.save_file(case, tmp_path / "case")
    request = {"artifact": str(copy), "cases": {str(tmp_path / "case"): "golden"}, "out": str(tmp_path)}
    assert run_cases(request)["compiled"] == 0
    content = bytearray((copy / "mod.params").read_bytes())
    (copy / "mod.params").chmod(0o644)
    content[-128:] = np.full(32, 0.5, np.float32).tobytes()
    (copy / "mod.params").write_bytes(content)
    with pytest.raises(InputError, match="E1505"):  # before anything is computed
        run_cases(request)
    manifest = read_onnx_artifact(copy).manifest
    files = tuple(replace(file, sha256=sha256_of(copy / file.path)) for file in manifest.files)
    (copy / "manifest.json").write_text(dumps(replace(manifest, files=files)))
    with pytest.raises(InternalError) as caught:
        run_cases(request)
    assert caught.value.code == "E1474"
    assert cli.run(["verify", str(copy)]) == 4  # E1511, by the golden outputs


def test_commands(compiled: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, given = compiled("bert", "tvm_vacc", "int8"), feeds("bert", seed=3)
    np.savez(tmp_path / "in.npz", **given)
    files = ["--inputs", str(tmp_path / "in.npz"), "--outputs", str(tmp_path / "out.npz")]
    assert cli.run(["run", str(path), *files]) == 0
    shown = capsys.readouterr()
    assert "pooler_output" in shown.out and "simulated for tvm_vacc" in shown.err
    expected = load(path).run(given)
    with np.load(tmp_path / "out.npz") as written:
        assert all(np.array_equal(written[name], array) for name, array in expected.items())
    assert cli.run(["run", str(path), "--json", "--target", "vacc"]) == 0
    assert json.loads(capsys.readouterr().out)["simulated"] is True
    for command in (["verify", str(path)], ["inspect", str(path)]):
        assert cli.run(command) == 0
        assert "simulated" in capsys.readouterr().out
    assert cli.run(["run", str(path), "--target", "cpu"]) == 2
    assert cli.run(["run", str(path), "--prompt", "x", "--outputs", "y"]) == 2
    assert cli.run(["run", str(path), "--prompt", "x"]) == 1 and "E1640" in capsys.readouterr().err
    (tmp_path / "bad.npz").write_bytes(b"PK")
    assert cli.run(["run", str(path), "--inputs", str(tmp_path / "bad.npz")]) == 1
    assert "E1644" in capsys.readouterr().err


def test_plan(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []

    def once(*arguments: Any) -> Any:
        found.append(found[0] if found else look_at_graph(*arguments))
        return found[0]

    monkeypatch.setattr("xamc.compiler.plan.onnx_model.look_at_graph", once)
    file = tmp_path / "build.yaml"
    file.write_text(yaml.safe_dump(spec("vit", folder, "tvm_vacc", "fp16")))
    assert cli.run(["plan", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "ONNX graph" in shown.splitlines()[0] and "pixel_values" in shown and "LayerNormalization" in shown
    assert cli.run(["plan", str(file), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["operators"]["MatMul"] == 16 and plan["executes_on"] == "host-simulator"
    assert plan["parameters"] == 19527 and 2 * 19527 < plan["params_bytes"] < 2.2 * 19527
    assert plan["nbytes"] == plan["params_bytes"] + plan["activations"]
    # a die of exactly what it takes, of less, and a target without dies
    enough = ["plan", str(file), "--die-memory"]
    assert cli.run([*enough, str(plan["nbytes"])]) == 0
    assert cli.run([*enough, str(plan["nbytes"] - 1)]) == 1
    assert "E1712" in capsys.readouterr().err
    assert cli.run([*enough, "1GB", "--target", "cpu"]) == 2


def test_feeds_are_checked(compiled: Callable[..., Path]) -> None:
    model, given = load(compiled("bert", "tvm_vacc", "int8")), feeds("bert")
    changes: list[tuple[dict[str, Any], str, str]] = [
        ({"input_id": given["input_ids"]}, "E1642", "did you mean input_ids"),
        ({"input_ids": given["input_ids"][:, :5]}, "E1642", "frontend.shape"),
        ({"input_ids": given["input_ids"].astype(np.float32)}, "E1642", "int64"),
        ({"input_ids": given["input_ids"] + 40}, "E1643", "vocabulary"),
        ({"input_ids": given["input_ids"] - 100}, "E1643", "vocabulary"),
    ]
    for change, code, fix in changes:
        with pytest.raises(InputError) as caught:
            model.run(given | change)
        assert caught.value.code == code and fix in caught.value.fix
    with pytest.raises(InputError, match="needs further inputs"):
        model.run({})
    narrow = {name: array.astype(np.int32) for name, array in given.items()}
    assert all(np.array_equal(model.run(given)[name], array) for name, array in model.run(narrow).items())


def test_a_graph_is_no_language_model(compiled: Callable[..., Path]) -> None:
    with pytest.raises(InputError) as caught:
        load_language_model(compiled("resnet"))
    assert caught.value.code == "E1640"


def test_compiled_again_it_is_the_same(compiled: Callable[..., Path], tmp_path: Path) -> None:
    """Byte by byte, without a cache and in another folder; of libraries tests/targets/onnx/test_build.py says so."""
    first = compiled("bert", "reference", "fp32")
    shutil.copy(first.parents[1] / "bert.onnx", tmp_path / "bert.onnx")
    build = spec("bert", tmp_path, "reference", "fp32")
    build["backend"]["compile"]["mcpu"] = Isa.host().name
    second = compile_spec(build, options=CompileOptions(use_cache=False)).path
    for file in ("manifest.json", "code/model.onnx", "code/graph.json", "weights.params", "golden/golden.safetensors"):
        assert (first / file).read_bytes() == (second / file).read_bytes(), file


def test_external_data(folder: Path, tmp_path: Path) -> None:
    """A model with its weights in another file, compiled for the reference target."""
    onnx.save(
        MODELS["vit"](), tmp_path / "vit.onnx", save_as_external_data=True, location="vit.data", size_threshold=64
    )
    path = compile_spec(spec("vit", tmp_path, "reference", "fp32")).path
    given = feeds("vit", seed=2)
    actual, expected = load(path).run(given), reference(MODELS["vit"](), given)
    assert relative_error(actual["logits"], expected["logits"]) <= tolerance("graph_fp32")
    assert [digest.name for digest in read_onnx_artifact(path).manifest.inputs] == ["vit.data", "vit.onnx"]
    content = bytearray((tmp_path / "vit.data").read_bytes())
    content[100:104] = np.float32(3).tobytes()
    (tmp_path / "vit.data").write_bytes(content)
    changed = load(compile_spec(spec("vit", tmp_path, "reference", "fp32")).path).run(given)
    assert not np.array_equal(changed["logits"], actual["logits"]), "the cache does not know that the data changed"


def test_code_for_another_cpu(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is published without golden outputs, and says that nothing has been run."""
    for module in ("xamc.compiler.stages.onnx_route", "xamc.runtime.cpu_features"):
        monkeypatch.setattr(f"{module}.missing_features", lambda cpu, *rest: ["avx512f"])
    build = spec("bert", folder, "reference", "fp32")
    compiled = compile_spec(build, options=CompileOptions(output=tmp_path / "out"))
    assert read_onnx_artifact(compiled.path).manifest.golden is None
    assert any("avx512f" in warning for warning in compiled.report["warnings"])
    assert compiled.report["deviation"]["compiled_from_original"] is None
    for command in ("verify", "inspect"):
        assert cli.run([command, str(compiled.path)]) == 0
    assert "skipped" in capsys.readouterr().out


def test_the_page_has_a_build_file_that_loads(repository: Path, tmp_path: Path) -> None:
    page = (repository / "docs" / "onnx.md").read_text(encoding="utf-8")
    # a whole file, and the shapes of another one
    text, _ = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "build.yaml").write_text(text)
    loaded = load_spec(tmp_path / "build.yaml")
    assert loaded.spec.frontend.type == "onnx" and not loaded.warnings


def test_prompts_and_arrays_do_not_mix(compiled: Callable[..., Path]) -> None:
    from xamc.cli.commands.onnx_models import run_onnx_command

    with pytest.raises(MisuseError) as caught:
        run_onnx_command(compiled("resnet"), "text", None, None, None, None, None, as_json=False)
    assert caught.value.code == "E1644"
