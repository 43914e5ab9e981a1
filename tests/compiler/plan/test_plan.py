from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.checkpoints import CONFIGS, write_tiny
from tools.make_checkpoint import write_checkpoint
from xamc.cli import main as cli
from xamc.compiler.plan.plan import make_plan
from xamc.errors import InputError, UnsupportedError

ROOT = Path(__file__).parents[3]
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


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", "int8"])
def test_running_memory_follows_the_context_and_the_type_of_the_kv_cache(spec: dict[str, Any], dtype: str) -> None:
    config = json.loads((Path(spec["frontend"]["checkpoint"]) / "config.json").read_text())
    width = config["head_dim"]
    per_head = {"fp32": 4 * width, "fp16": 2 * width, "bf16": 2 * width, "int8": width + 4}[dtype]
    per_token = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * per_head
    spec["frontend"]["shape"] = {"input_ids": [[16], [4096]]}
    plan = make_plan(spec, [f"runtime.kv_dtype={dtype}", "runtime.max_batch=3"])
    running = plan.running
    assert running is not None and running.kv_sequence == 4096 * per_token and plan.kv_cache == 3 * 4096 * per_token
    assert running.weights == _weights(plan) and running.total < running.weights + running.kv_sequence + 200 * 2**20
    assert any("4096 tokens" in line and "KV cache" in line for line in plan.totals())


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


def test_the_run_of_the_weights_is_planned_where_a_compile_has_it(spec: dict[str, Any]) -> None:
    for changes, planned in (({}, False), ({"runtime": {"kv_dtype": "int8"}}, True)):
        stages = {stage.name: stage.what for stage in make_plan(spec | changes).stages}
        assert ("values" in stages) is planned
    spec["backend"]["type"] = "tvm_vacc"
    spec["frontend"]["shape"] = {"input_ids": [[16], [32]]}
    assert "values" in {stage.name for stage in make_plan(spec).stages}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xamc.compiler.stages.real_weights.SMALL_WEIGHTS", 1000)
        values = next(stage for stage in make_plan(spec).stages if stage.name == "values")
    assert "not run" in values.what and "verify.final" in values.what


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
    monkeypatch.setattr("xamc.compiler.plan.plan.available_bytes", lambda: 10**8)
    assert cli.run(["plan", str(tmp_path / "build.yaml")]) == 1
    captured = capsys.readouterr()
    assert "weights.bin" in captured.out and "E1710" in captured.err


@pytest.fixture
def vacc(tmp_path: Path) -> list[str]:
    """A vendor's file for four ranks, with a tiny checkpoint and lengths that suit it."""
    write_tiny(tmp_path / "tiny", "internlm3")
    changes = (f"frontend.checkpoint={tmp_path / 'tiny'}", "frontend.shape.input_ids=[[16],[32,48]]")
    return ["plan", str(VACC), "--allow-rtn", *(part for change in changes for part in ("--set", change))]


def test_what_every_die_holds_is_planned(vacc: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([*vacc, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["target"] == "tvm_vacc" and not {"dies", "tables", "lines", "facts"} & set(plan)
    assert {phase["ranks"] for phase in plan["phases"]} == {4}
    static = plan["static"]
    assert static["ranks"] == 4 and [graph["bucket"]["length"] for graph in static["graphs"]] == [16, 32, 48]
    for graph in static["graphs"]:
        assert graph["nbytes"] == graph["parameters"] + graph["cache"] + graph["activations"] > 0
        assert graph["operators"]["xamc::AllReduce"] == 4 and graph["shares"]["length"] == 16
    # merge_params: the files of the first graph alone take room
    sizes = {file["path"]: file["nbytes"] for file in plan["files"] if file["path"].endswith("mod.params")}
    assert len(sizes) == 12
    assert {path.split("_rank")[0] for path, nbytes in sizes.items() if nbytes} == {"prefill_16"}


def test_a_die_that_is_too_small_is_refused(vacc: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([*vacc, "--die-memory", "1GB"]) == 0
    shown = capsys.readouterr().out
    assert "each of 4 ranks" in shown and "prefill_16" in shown and "AllReduce" in shown
    assert cli.run([*vacc, "--die-memory", "10kB"]) == 1
    refused = capsys.readouterr()
    assert "prefill_16" in refused.out, "the plan is printed first"
    assert "E1712" in refused.err and "tp" in refused.err
    assert cli.run([*vacc, "--die-memory", "much"]) == 2
    assert "E1704" in capsys.readouterr().err


def test_dies_are_vaccs(spec: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "build.yaml").write_text(json.dumps(spec))
    assert cli.run(["plan", str(tmp_path / "build.yaml"), "--die-memory", "1GB"]) == 2
    assert "E1713" in capsys.readouterr().err


def test_calibrated_quantization_is_refused_as_a_compile_would(spec: dict[str, Any]) -> None:
    spec["frontend"]["quantize"] = {"type": "w8a16_gptq"}
    spec["backend"]["dtype"] = "int8"
    with pytest.raises(UnsupportedError, match="allow-rtn"):
        make_plan(spec)
    assert _weights(make_plan(spec, allow_rtn=True)) > 0


def test_reference_target_stores_codes_one_per_byte(spec: dict[str, Any], tmp_path: Path) -> None:
    """4-bit rows are codes, float16 scales and float16 zeros per group; the embedding and the head keep 8 bits."""
    sizes = {"hidden_size": 64, "intermediate_size": 96}  # which groups of 32 divide
    write_checkpoint(tmp_path / "grouped", {**CONFIGS["llama"], **sizes})
    spec["frontend"]["checkpoint"] = str(tmp_path / "grouped")
    expected = 0
    (file,) = (tmp_path / "grouped").glob("*.safetensors")
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


def test_an_embedding_model_has_no_caches(spec: dict[str, Any]) -> None:
    spec["backend"]["type"] = "tvm_vacc"
    spec["frontend"]["shape"] = {"input_ids": [[16], []]}
    plan = make_plan(spec)
    assert plan.kv_cache == 0 and [graph["cache"] for graph in plan.facts["static"]["graphs"]] == [0]
    assert not any("KV cache" in line for line in plan.totals())


def test_a_length_given_twice_is_one_graph(spec: dict[str, Any]) -> None:
    spec["backend"]["type"] = "tvm_vacc"
    spec["frontend"]["shape"] = {"input_ids": [[32, 16, 16], [48, 64, 48]]}
    plan = make_plan(spec)
    assert plan.dies is not None
    assert [graph for graph, _ in plan.dies] == ["prefill_32", "prefill_16", "decode_48", "decode_64"]
    assert [phase.tokens for phase in plan.phases] == ["32", "16", "1 of 48", "1 of 64"]
    assert next(stage for stage in plan.stages if stage.name == "codegen").what.startswith("4 graphs")


def test_logits_of_all_positions_take_room(spec: dict[str, Any]) -> None:
    spec["backend"]["type"] = "tvm_vacc"
    spec["frontend"]["shape"] = {"input_ids": [[64], [64]]}
    plans = (make_plan(spec, more) for more in ((), ("passes.disable=[insert_slice]",)))
    last, every = (plan.facts["static"]["graphs"] for plan in plans)
    # 63 more rows of this rank's logits and of all ranks' together, two bytes each
    assert every[0]["activations"] - last[0]["activations"] == 63 * 2 * 272 * 2
    assert every[1] == last[1]


@pytest.mark.parametrize("tp", [3, 5, 32])
def test_ranks_that_vacc_does_not_have_are_shown(
    tp: int, spec: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec["backend"]["type"] = "tvm_vacc"
    spec["frontend"] |= {"shape": {"input_ids": [[16], [32]]}, "model_kwargs": {"tp": tp}}
    file = tmp_path / "build.yaml"
    file.write_text(yaml.safe_dump(spec, sort_keys=False))
    assert cli.run(["plan", str(file)]) == 3
    line = next(i for i, text in enumerate(file.read_text().splitlines(), 1) if text.strip() == f"tp: {tp}")
    assert f"build.yaml:{line}:" in capsys.readouterr().err


def test_what_the_checkpoint_and_the_machine_make_doubtful_is_said(
    spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the plan, in its JSON and on the terminal: an ignored key, an adapter, a long context, a small machine."""
    config = tmp_path / "tiny" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"wibble": 1}))
    (tmp_path / "tiny" / "adapter_config.json").write_text("{}")
    spec["frontend"]["shape"] = {"input_ids": [[16], [128]]}
    monkeypatch.setattr("xamc.compiler.plan.plan.available_bytes", lambda: 2**20)
    plan = make_plan(spec)
    assert plan.ignored_keys == ("wibble",)
    said = (
        "wibble has no effect",
        "adapter_config.json",
        "context limit of 128",
        "running the artifact on this machine takes",
    )
    assert [any(words in str(warning) for warning in plan.warnings) for words in said] == [True] * 4
    assert [entry["message"] for entry in plan.to_dict()["warnings"]] == [str(warning) for warning in plan.warnings]
    file = tmp_path / "build.yaml"
    file.write_text(yaml.safe_dump(spec))
    assert cli.run(["plan", str(file)]) == 1  # E1710: the compile doesn't fit either
    shown = " ".join(capsys.readouterr().err.split())
    assert all(f"warning: {warning}" in shown for warning in plan.warnings)


def test_a_machine_that_holds_the_model_needs_no_warning(spec: dict[str, Any]) -> None:
    for target in ("tvm_cpu", "reference"):
        assert make_plan(spec, [f"backend.type={target}"]).warnings == ()
