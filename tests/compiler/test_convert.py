"""convert-weights: what is written is the same model, in standard names, and nothing else goes along."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.checkpoints import write_tiny
from tests.compiler.frontends.gguf_files import permute, write_gguf
from tests.pickles import to_pickles
from xamc.cli import main as cli
from xamc.compiler import convert
from xamc.compiler.convert import convert_weights
from xamc.compiler.frontends import Checkpoint, open_checkpoint
from xamc.errors import InputError, MisuseError, UnsupportedError
from xamc.jobs.progress import Progress

IDS = torch.arange(20, 32).reshape(1, 12)


def run(source: Path | str, out: Path, **options: Any) -> dict[str, Any]:
    return convert_weights(source, out, Progress(Console(quiet=True)), **options)


def opened(folder: Path) -> Checkpoint:
    return open_checkpoint(folder, "huggingface")


def arrays(checkpoint: Checkpoint) -> dict[str, Any]:
    return {name: t.read_rows(0, t.shape[0]).astype(np.float32) for name, t in checkpoint.tensors.items()}


def same(found: Checkpoint, expected: Checkpoint, off: float = 0.0) -> None:
    first, second = arrays(found), arrays(expected)
    assert first.keys() == second.keys()
    for name, array in second.items():
        assert np.abs(first[name] - array).max() <= off * np.abs(array).max(), name


def logits(folder: Path) -> torch.Tensor:
    """transformers' own reading of the folder."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        answer: torch.Tensor = model(IDS).logits
    return answer


def test_pickles_become_safetensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command, on an InternLM with rotary tables, Python files and a trainer's settings beside the weights."""
    folder = write_tiny(tmp_path / "model", "internlm", dtype="float16")
    original = opened(folder)
    expected = arrays(original)
    to_pickles(folder, 2)
    (folder / "modeling_internlm.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    torch.save({"lr": 1}, folder / "training_args.bin")
    out = tmp_path / "out"
    assert cli.run(["convert-weights", str(folder), str(out), "--shard-size", "40kB", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["path"] == str(out)
    assert sorted(p.name for p in out.iterdir()) == written["files"]
    assert not [name for name in written["files"] if name.endswith((".py", ".bin", ".bin.index.json"))]
    assert len(list(out.glob("model-*.safetensors"))) > 1 and len(written["left_out"]) == 2
    converted = opened(out)
    assert converted.config == original.config and converted.unused_tensors == ()
    assert {t.dtype for t in converted.tensors.values()} == {"float16"}
    for name, array in arrays(converted).items():
        assert np.array_equal(array, expected[name])
    assert not (tmp_path / "sprung").exists()
    assert cli.run(["convert-weights", str(folder), str(out)]) == 2
    assert "E1718" in capsys.readouterr().err


def test_chat_templates_by_name_and_stop_strings_go_along(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "source", "internlm2")
    (source / "chat_template.jinja").write_text("one")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates/tool_use.jinja").write_text("two")
    (source / "generation_config.json").write_text('{"stop_strings": ["END"], "eos_token_id": 2}')
    run(source, tmp_path / "as it is")
    run(source, tmp_path / "llama", layout="family")
    for name in ("as it is", "llama"):
        found = opened(tmp_path / name)
        assert (found.chat_template, found.named_templates) == ("one", {"tool_use": "two"})
        assert found.generation.stop_strings == ("END",)


@pytest.mark.parametrize("name", ["llama", "llama_bias", "qwen2", "qwen3"])
def test_gguf_becomes_a_folder_that_transformers_reads(name: str, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "hf", name, hidden_size=96, intermediate_size=96)
    write_gguf(tmp_path / "m.gguf", folder)
    run(tmp_path / "m.gguf", tmp_path / "out")
    same(opened(tmp_path / "out"), opened(folder))
    expected = logits(folder)
    assert torch.allclose(logits(tmp_path / "out"), expected, atol=1e-5 * float(expected.abs().max()))
    run(tmp_path / "m.gguf", tmp_path / "half", dtype="float16")
    half = opened(tmp_path / "half")
    assert {tensor.dtype for tensor in half.tensors.values()} == {"float16"}
    assert json.loads((tmp_path / "half" / "config.json").read_text())["torch_dtype"] == "float16"
    same(half, opened(folder), off=2**-11)


def test_a_quantized_gguf_is_written_dequantized(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "hf", "llama", hidden_size=96, intermediate_size=96)
    write_gguf(tmp_path / "m.gguf", folder, kind="Q5_1")
    run(tmp_path / "m.gguf", tmp_path / "out")
    same(opened(tmp_path / "out"), open_checkpoint(tmp_path / "m.gguf", "gguf"))


@pytest.mark.parametrize("name", ["internlm2", "internlm3_bias"])
def test_the_familys_own_layout_becomes_llama(name: str, tmp_path: Path) -> None:
    """InternLM2's wqkv and InternLM3's flags: the result is a plain Llama of the same parameters."""
    folder = write_tiny(tmp_path / "hf", name)
    run(folder, tmp_path / "out", layout="family")
    found = opened(tmp_path / "out")
    assert found.config.model_type == "llama" and found.config.rope == opened(folder).config.rope
    same(found, opened(folder))
    assert "model.layers.0.self_attn.q_proj.weight" in load_file(tmp_path / "out" / "model.safetensors")
    assert logits(tmp_path / "out").isfinite().all()


def restore(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    """Rewrites the tensors of `folder`."""
    file = folder / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in change(load_file(file)).items()}, file)
    return folder


def fuse(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for layer in range(2):
        p = f"model.layers.{layer}."
        for fused, parts in (("self_attn.qkv_proj", "qkv"), ("mlp.gate_up_proj", ("gate", "up"))):
            for kind in ("weight", "bias"):
                names = [f"{p}{fused.split('.')[0]}.{part}_proj.{kind}" for part in parts]
                if names[0] in state:
                    state[f"{p}{fused}.{kind}"] = torch.cat([state.pop(name) for name in names])
    return state


def to_meta(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    names = {"input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm"}
    names |= {f"self_attn.{c}_proj": f"attention.w{c}" for c in "qkvo"}
    names |= {"mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3", "mlp.down_proj": "feed_forward.w2"}
    found = {
        "tok_embeddings.weight": state["model.embed_tokens.weight"],
        "norm.weight": state["model.norm.weight"],
        "output.weight": state["lm_head.weight"],
        "rope.freqs": torch.ones(8),
    }
    for layer in range(2):
        for old, new in names.items():
            tensor = state[f"model.layers.{layer}.{old}.weight"]
            if new in ("attention.wq", "attention.wk"):
                tensor = torch.from_numpy(permute(tensor.numpy(), 6 if new[-1] == "q" else 2))
            found[f"layers.{layer}.{new}.weight"] = tensor
    return found


def test_layouts(tmp_path: Path) -> None:
    original = write_tiny(tmp_path / "a", "llama_bias")
    fused = restore(write_tiny(tmp_path / "fused", "llama_bias"), fuse)
    with pytest.raises(InputError, match="E1120"):
        opened(fused)
    run(fused, tmp_path / "out", layout="fused")
    same(opened(tmp_path / "out"), opened(original))
    meta = restore(write_tiny(tmp_path / "meta", "llama"), to_meta)
    run(meta, tmp_path / "out2", layout="meta")
    same(opened(tmp_path / "out2"), opened(write_tiny(tmp_path / "b", "llama")))


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    def rename(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        renamed = {n.replace("model.layers.", "h.").replace("qkv_proj", "in"): t for n, t in fuse(state).items()}
        return {**renamed, "h.1.rope.table": torch.ones(2)}

    original = write_tiny(tmp_path / "a", "qwen3")
    folder = restore(write_tiny(tmp_path / "own", "qwen3"), rename)
    layer = "model.layers.{i}."
    same_names = ["self_attn.o_proj", "self_attn.q_norm", "self_attn.k_norm", "mlp.down_proj"]
    table: dict[str, Any] = {
        f"h.{{i}}.{name}.weight": f"{layer}{name}.weight"
        for name in [*same_names, "input_layernorm", "post_attention_layernorm"]
    }
    table |= {
        "h.{i}.self_attn.in.weight": [f"{layer}self_attn.{c}_proj.weight" for c in "qkv"],
        "h.{i}.mlp.gate_up_proj.weight": [f"{layer}mlp.{c}_proj.weight" for c in ("gate", "up")],
        "h.{i}.rope.table": None,
    }
    file = tmp_path / "names.json"
    file.write_text(json.dumps(table))
    run(folder, tmp_path / "out", layout=str(file))
    same(opened(tmp_path / "out"), opened(original))
    for change, code, words in (
        ({"h.{i}.rope.table": 3}, "E1167", "leads to 3"),
        ({"h.{i}.rope.table": "x"}, "E1167", "agree on"),
        ({"h.{i}.rope.table": "model.layers.{i}.mlp.down_proj.weight"}, "E1167", "both lead to"),
        ({"h.{i}.self_attn.in.weight": [f"{layer}self_attn.{c}_proj.weight" for c in "qk"]}, "E1167", "its parts"),
        ({"h.{i}.self_attn.in.weight": [f"{layer}x", f"{layer}y"]}, "E1167", "no place for"),
        ({"h.{i}.mlp.down_proj.weight": None}, "E1120", "mlp.down_proj"),
        ({"h.{i}.rope.table": f"{layer}table"}, "E1121", "table"),
    ):
        file.write_text(json.dumps(table | change))
        with pytest.raises(InputError, match=f"{code}.*{words}"):
            run(folder, tmp_path / "never", layout=str(file))
    assert not (tmp_path / "never").exists()


def test_words_and_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_tiny(tmp_path / "model", "llama")
    for options, code in (({"layout": "megatron"}, "E1168"), ({"dtype": "int8"}, "E1719")):
        with pytest.raises(MisuseError, match=code):
            run(folder, tmp_path / "out", **options)
    assert cli.run(["convert-weights", str(folder), str(tmp_path / "out"), "--shard-size", "0"]) == 2
    assert "E1719" in capsys.readouterr().err
    monkeypatch.setattr(convert, "free_bytes", lambda path: 1000)
    with pytest.raises(InputError, match=r"E1720.*1.0 kB free"):
        run(folder, tmp_path / "out")
    monkeypatch.undo()
    restore(folder, lambda state: {**state, "scale": torch.tensor(1.0)})
    with pytest.raises(InputError, match=r"E1166.*scale is a single number"):
        run(folder, tmp_path / "out")
    restore(folder, lambda state: {"w": torch.ones(2, dtype=torch.int32)})
    with pytest.raises(InputError, match="E1112"):
        run(folder, tmp_path / "out")
    (folder / "config.json").unlink()
    (folder / "config.json").write_text('{"model_type": "unknown"}')
    with pytest.raises(UnsupportedError, match="E1105"):
        run(restore(folder, lambda state: {"w": torch.ones(2)}), tmp_path / "out", layout="fused")
    assert os.listdir(tmp_path) == ["model"]
    run(folder, tmp_path / "out")  # without a layout no family is needed
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == {"w"}


@pytest.mark.parametrize("layout", [None, "family", "fused"])
def test_a_head_that_differs_from_the_tied_embedding_is_written(layout: str | None, tmp_path: Path) -> None:
    """transformers keeps both; what is written needs no comparison to be read so."""
    folder = write_tiny(tmp_path / "model", "llama")
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tie_word_embeddings": True}))
    run(folder, tmp_path / "out", layout=layout)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    assert torch.equal(logits(tmp_path / "out"), logits(folder))
    same(opened(tmp_path / "out"), opened(folder))


def test_a_head_that_equals_it_is_left_tied(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", "llama", tie_word_embeddings=True)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    run(folder, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is True


def test_the_file_that_config_names_is_the_one_converted(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", "llama")
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    write_tiny(tmp_path / "wrong", "llama", seed=1)
    (tmp_path / "wrong" / "model.safetensors").rename(folder / "model.safetensors")
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"transformers_weights": "other.safetensors"}))
    run(folder, tmp_path / "out")
    assert "transformers_weights" not in json.loads((tmp_path / "out" / "config.json").read_text())
    same(opened(tmp_path / "out"), opened(folder))
