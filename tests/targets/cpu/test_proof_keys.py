"""What a change makes the twin show again: the Relax passes hold for every CPU, the kernels for one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import twins
from tests.mutation import mutated
from xamc.ir.weights.lazy import ArrayTensor
from xamc.jobs.cache import StageCache
from xamc.jobs.child import write_call
from xamc.targets.cpu import library as module
from xamc.targets.cpu.names import KERNELS_PROOF, PASSES_PROOF
from xamc.verify.twin_file import content_digest, write_weights

OPTIONS: dict[str, Any] = {"isa": "x86-64-v3", "kv_dtype": "float16", "activations": "float32", "disable": []}


def _keys(source: Any = module, **changes: Any) -> Any:
    options = {**OPTIONS, **changes}
    host = options.pop("host", "x86-64-v3")
    twin = {"graph": "00", "config": "11", "weights": "22", "cases": "33"}
    twin |= {name: options.pop(name) for name in twin if name in options}
    return source.ProofKeys.of(twin, options, host)


@pytest.mark.parametrize("change", [{"isa": "x86-64-v2"}, {"host": "x86-64-v4"}, {"activations": "int8"}])
def test_what_is_about_kernels_leaves_the_passes_proof(change: dict[str, Any]) -> None:
    assert _keys(**change).passes == _keys().passes
    assert _keys(**change).kernels != _keys().kernels


@pytest.mark.parametrize(
    "change",
    [
        {"kv_dtype": "float32"},
        {"disable": ["norm_residual"]},
        {"graph": "other"},
        {"config": "other"},
        {"weights": "other"},
        {"cases": "other"},
    ],
)
def test_what_the_passes_depend_on_is_in_both_keys(change: dict[str, Any]) -> None:
    assert _keys(**change).passes != _keys().passes
    assert _keys(**change).kernels != _keys().kernels


def test_a_level_in_the_passes_key_is_noticed() -> None:
    wrong = mutated(
        module,
        'stage_key("proof", __name__, (_PROOF_CHILD,), anywhere)',
        'stage_key("proof", __name__, (_PROOF_CHILD,), {**anywhere, **options})',
    )
    wrong.__name__ = module.__name__
    assert _keys(wrong, isa="x86-64-v2").passes != _keys(wrong).passes


def test_a_child_shows_only_what_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def run(function: str, call: dict[str, Any], **_: Any) -> None:
        calls.append(call)
        out = Path(call["out"])
        if call["passes"]:
            (out / PASSES_PROOF).write_text(json.dumps({"passes": {"a": 1}, "seconds": {"p": 1}}))
        if call["isa"] is not None:
            (out / KERNELS_PROOF).write_text(json.dumps({"kernels": call["isa"], "seconds": {"k": 1}}))

    monkeypatch.setattr(module, "run_child", run)
    (tmp_path / "twin").write_text("the twin's only file")
    with StageCache(tmp_path / "scratch", tmp_path / "cache") as cache:

        def shown(isa: str, **changes: Any) -> tuple[bool, str | None] | None:
            calls.clear()
            proof = module._proof({"graph": tmp_path / "twin"}, {**OPTIONS, "isa": isa, **changes}, cache)
            assert proof["passes"] == {"a": 1} and proof["kernels"] == isa and proof["seconds"] == {"p": 1, "k": 1}
            assert len(calls) <= 1
            return (calls[0]["passes"], calls[0]["isa"]) if calls else None

        assert shown("x86-64-v3") == (True, "x86-64-v3")
        assert shown("x86-64-v3") is None
        assert shown("x86-64-v2") == (False, "x86-64-v2")
        assert shown("x86-64-v2", kv_dtype="float32") == (True, "x86-64-v2")
        for place in (tmp_path / "cache" / "v1").glob("proof-*"):
            (place / PASSES_PROOF).chmod(0o600)
            (place / PASSES_PROOF).unlink()
        assert shown("x86-64-v2") == (True, None)


def test_the_same_twin_is_shown_once(tmp_path: Path) -> None:
    """safetensors writes metadata in an order that differs from file to file; many dtypes make that likely to show."""
    program, _ = twins.twin("tied")
    weights = {f"{name}.{i}": tensor for name, tensor in program.weights.items() for i in range(4)}
    files = [tmp_path / f"{number}.safetensors" for number in range(6)]
    for file in files:
        write_weights(file, weights)
    assert len({content_digest(file) for file in files}) == 1
    name = next(iter(weights))
    write_weights(files[0], {**weights, name: ArrayTensor(weights[name].read_rows(0, weights[name].shape[0]) + 1)})
    assert content_digest(files[0]) != content_digest(files[1])


def test_the_child_does_not_import_torch(tmp_path: Path) -> None:
    write_call(tmp_path, module._CODE_CHILD, {}, ("torch",))
    code = """
import sys
from xamc.jobs import child
try:
    child.main(sys.argv[1:])
except KeyError:
    pass
print("tvm" in sys.modules, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
