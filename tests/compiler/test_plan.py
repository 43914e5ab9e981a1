from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import write_tiny
from xamc.compiler import cli
from xamc.compiler.errors import InputError, UnsupportedError
from xamc.compiler.plan import make_plan

ROOT = Path(__file__).parents[2]
VACC = ROOT / "build_configs/vacc/internlm3_8b_int8_vacc.yaml"


@pytest.fixture
def spec(tmp_path: Path) -> dict[str, Any]:
    write_tiny(tmp_path / "tiny", "llama")
    return {
        "name": "tiny",
        "frontend": {"checkpoint": str(tmp_path / "tiny"), "type": "huggingface"},
        "backend": {"type": "tvm_cpu", "dtype": "fp16"},
        "workspace": {"path": str(tmp_path / "out"), "workers": 2, "pyenv": {"torch": "1.0"}},
    }


def _weights(plan: Any) -> int:
    return next(int(file.nbytes) for file in plan.files if file.path == "weights.bin")


def test_weights_are_counted_as_they_are_packed(spec: dict[str, Any], tmp_path: Path) -> None:
    """Counted here from the checkpoint's own header: rows in panels of 32, 64-byte aligned, vectors in float32."""
    expected = 0
    for file in (tmp_path / "tiny").glob("*.safetensors"):
        data = file.read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            shape = entry["shape"]
            nbytes = -(-shape[0] // 32) * 32 * shape[1] * 2 if len(shape) == 2 else shape[0] * 4
            expected += -(-nbytes // 64) * 64
    assert _weights(make_plan(spec)) == expected


def test_fewer_bits_take_fewer_bytes(spec: dict[str, Any]) -> None:
    sizes = [_weights(make_plan(spec, [f"backend.dtype={dtype}"])) for dtype in ("fp32", "fp16")]
    assert sizes[0] > 1.9 * sizes[1]


def test_keys_passes_and_phases_are_listed(spec: dict[str, Any]) -> None:
    spec["frontend"]["shape"] = {"input_ids": [[16, 32], [64]]}
    plan = make_plan(spec, ["passes.disable=[norm_residual]"])
    uses = {use.path: use.use for use in plan.keys}
    assert uses["workspace.pyenv"] == "recorded" or uses.get("workspace.pyenv.torch") == "recorded"
    assert uses["backend.dtype"] == "used"
    assert "kv_cache" in plan.passes and "dequantize_matmul" in plan.passes and "norm_residual" not in plan.passes
    assert [(phase.kind, phase.tokens.split()[2]) for phase in plan.phases if phase.kind == "prefill"] == [
        ("prefill", "32")
    ]
    assert {stage.name for stage in plan.stages} == {
        "spec", "frontend", "export", "passes", "codegen", "weights", "publish",
    }  # fmt: skip


def test_plan_reads_no_weight_and_writes_nothing(spec: dict[str, Any], tmp_path: Path) -> None:
    for file in (tmp_path / "tiny").glob("*.safetensors"):
        data = bytearray(file.read_bytes())
        start = 8 + int.from_bytes(data[:8], "little")
        data[start:] = b"\xff" * (len(data) - start)  # NaN throughout: reading them would be an error
        file.write_bytes(data)
    make_plan(spec)
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_is_refused_with_the_numbers(spec: dict[str, Any]) -> None:
    plan = make_plan(spec)
    plan.require_room()
    with pytest.raises(InputError) as caught:
        replace(plan, free_memory=10**8).require_room()
    assert caught.value.code == "E1710" and "100 MB are available" in caught.value.message
    with pytest.raises(InputError) as caught:
        replace(plan, free_disk=1000).require_room()
    assert caught.value.code == "E1711" and "1.0 kB are free" in caught.value.message


def test_command_refuses_with_1_after_printing_the_plan(
    spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "build.yaml").write_text(json.dumps(spec))
    assert cli.run(["plan", str(tmp_path / "build.yaml")]) == 0
    assert "weights.bin" in capsys.readouterr().out
    monkeypatch.setattr("xamc.compiler.plan.available_bytes", lambda: 10**8)
    assert cli.run(["plan", str(tmp_path / "build.yaml")]) == 1
    captured = capsys.readouterr()
    assert "weights.bin" in captured.out and "E1710" in captured.err


def test_target_that_is_not_available_can_be_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny(tmp_path / "tiny", "internlm3")
    arguments = ["plan", str(VACC), "--set", f"frontend.checkpoint={tmp_path / 'tiny'}", "--json"]
    assert cli.run(arguments) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["target"] == "tvm_vacc" and not plan["available"] and plan["stages"] == []
    assert all(phase["ranks"] > 1 for phase in plan["phases"])
    assert any(key["use"] == "used" for key in plan["keys"])


def test_calibrated_quantization_is_refused_as_a_compile_would(spec: dict[str, Any]) -> None:
    spec["frontend"]["quantize"] = {"type": "w8a16_gptq"}
    spec["backend"]["dtype"] = "int8"
    with pytest.raises(UnsupportedError, match="allow-rtn"):
        make_plan(spec)
    assert _weights(make_plan(spec, allow_rtn=True)) > 0


def test_reference_target_stores_codes_one_per_byte(spec: dict[str, Any], tmp_path: Path) -> None:
    """4-bit rows are codes, float16 scales and float16 zeros per group; the embedding and the head keep 8 bits."""
    expected = 0
    (file,) = (tmp_path / "tiny").glob("*.safetensors")
    data = file.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    header.pop("__metadata__", None)
    for name, entry in header.items():
        shape = entry["shape"]
        if len(shape) == 1:
            sizes = [shape[0] * 4]
        else:
            groups = shape[0] * (shape[1] // 32) * 2
            sizes = [shape[0] * shape[1], groups] + ([] if "embed" in name or "lm_head" in name else [groups])
        expected += sum(-(-size // 64) * 64 for size in sizes)
    spec["backend"] = {"type": "reference", "dtype": "int4"}
    spec["frontend"]["quantize"] = {"type": "w4a16_rtn", "group_size": 32}
    assert _weights(make_plan(spec)) == expected
