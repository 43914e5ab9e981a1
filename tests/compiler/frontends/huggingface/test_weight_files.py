"""Which files of a folder hold its weights, as transformers decides, and what is said of those left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.checkpoints import write_tiny
from tests.compiler.frontends.test_families import IDS, distance, mapped_logits
from tests.pickles import to_pickles
from xamc.compiler.frontends import Checkpoint, open_checkpoint
from xamc.errors import InputError
from xamc.ir.tolerances import tolerance

INDEX = "model.safetensors.index.json"


def opened(folder: Path, allow_pickle: bool = False) -> Checkpoint:
    return open_checkpoint(folder, "huggingface", allow_pickle)


def check_against_transformers(folder: Path) -> Checkpoint:
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = reference(IDS).logits
    checkpoint = opened(folder)
    assert distance(mapped_logits(checkpoint, IDS), expected) < tolerance("family_mapping")
    return checkpoint


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """A single file beside the shards and the index of another model."""
    folder = write_tiny(tmp_path / "model", "llama")
    for file in write_tiny(tmp_path / "other", "llama", seed=1, shards=True).glob("model*"):
        shutil.copy(file, folder)
    return folder


def test_the_single_file_wins_over_an_index(both: Path) -> None:
    checkpoint = check_against_transformers(both)
    [warning] = checkpoint.warnings
    assert "model.safetensors is read" in warning and INDEX in warning and "8 shards" in warning
    assert {file.name for file in checkpoint.files if "safetensors" in file.name} == {"model.safetensors"}


def test_an_index_of_the_single_file_itself_is_no_contradiction(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path, "llama")
    names = load_file(folder / "model.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, "model.safetensors")}))
    assert not check_against_transformers(folder).warnings


def test_an_incomplete_single_file_names_the_index_that_may_be_meant(both: Path) -> None:
    held = load_file(both / "model.safetensors")
    del held["model.norm.weight"]
    save_file(held, both / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"E1120") as caught:
        opened(both)
    assert any(INDEX in line for line in caught.value.details)


def test_the_file_that_config_names_wins_over_all(both: Path) -> None:
    config = json.loads((both / "config.json").read_text())
    for name in (INDEX, "model.safetensors"):
        (both / "config.json").write_text(json.dumps(config | {"transformers_weights": name}))
        checkpoint = check_against_transformers(both)
        assert not checkpoint.warnings and not checkpoint.ignored_keys
        assert (both / name) in checkpoint.files
    for wrong in ("../model.safetensors", "gone.safetensors", "pytorch_model.bin", 3):
        (both / "config.json").write_text(json.dumps(config | {"transformers_weights": wrong}))
        with pytest.raises(InputError, match="transformers_weights"):
            opened(both)


def test_the_index_says_which_copy_counts(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", "llama", shards=True)
    right = opened(folder)
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    name = "model.norm.weight"
    for shard in sorted(folder.glob("model-0*")):
        if shard.name != weight_map[name]:
            save_file(load_file(shard) | {name: torch.zeros(48)}, shard, {"format": "pt"})
    checkpoint = opened(folder)
    assert np.array_equal(checkpoint.tensors[name].read_rows(0, 48), right.tensors[name].read_rows(0, 48))
    [warning] = checkpoint.warnings
    assert name in warning and "6 more" in warning and weight_map[name] in warning


def test_two_copies_that_the_index_does_not_place_are_refused(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", "llama", shards=True)
    shards = sorted(folder.glob("model-0*"))
    for shard in shards[:2]:
        save_file(load_file(shard) | {"extra": torch.zeros(1)}, shard, {"format": "pt"})
    with pytest.raises(InputError, match=r"E1115 .*extra is stored twice"):
        opened(folder)


def test_an_adapter_beside_the_weights_is_mentioned_and_alone_refused(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path, "llama")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "x"}')
    save_file({"base_model.model.lm_head.lora_A.weight": torch.zeros(2, 2)}, folder / "adapter_model.safetensors")
    [warning] = opened(folder).warnings
    assert "adapter_config.json, adapter_model.safetensors" in warning and "merge" in warning
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"E1116 .*an adapter .* and no model") as caught:
        opened(folder)
    assert "merge_and_unload" in caught.value.fix
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"E1116 .*an adapter"):
        opened(folder)


def test_pickles_have_the_same_order(tmp_path: Path) -> None:
    folder, other = (
        write_tiny(tmp_path / "model", "llama"),
        write_tiny(tmp_path / "other", "llama", seed=1, shards=True),
    )
    to_pickles(folder)
    to_pickles(other, shards=2)
    (folder / "adapter_model.bin").write_bytes(b"not read")
    for file in other.glob("pytorch_model*"):
        shutil.copy(file, folder)
    checkpoint = opened(folder, allow_pickle=True)
    assert {tensor.path.name for tensor in checkpoint.tensors.values()} == {"pytorch_model.bin"}  # type: ignore[attr-defined]
    assert len(checkpoint.warnings) == 2


def test_a_whole_set_of_shards_needs_no_index(tmp_path: Path) -> None:
    """vLLM and its like read such folders; transformers wants the index."""
    folder = write_tiny(tmp_path / "model", "llama", shards=True)
    whole = opened(folder)
    (folder / "consolidated-00001-of-00002.safetensors").write_bytes(b"not read")
    (folder / INDEX).unlink()
    checkpoint = opened(folder)
    assert checkpoint.tensors.keys() == whole.tensors.keys()
    [warning] = checkpoint.warnings
    assert f"no {INDEX}" in warning and "8 shards" in warning
    shards = sorted(folder.glob("model-0*"))
    shards[0].rename(folder / "other-00001-of-00008.safetensors")
    with pytest.raises(InputError, match=r"E1114 .*8 safetensors files and no"):
        opened(folder)
    (folder / "other-00001-of-00008.safetensors").unlink()
    with pytest.raises(InputError, match=r"E1114 .*7 safetensors files and no"):
        opened(folder)


def test_an_index_of_another_split_is_named_as_what_to_remove(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", "llama", shards=True)
    index = json.loads((folder / INDEX).read_text())
    moved = {name: file.replace("of-00008", "of-00016") for name, file in index["weight_map"].items()}
    (folder / INDEX).write_text(json.dumps({"weight_map": moved}))
    with pytest.raises(InputError, match="E1114") as caught:
        opened(folder)
    assert "8 other safetensors files" in caught.value.fix and f"remove {INDEX}" in caught.value.fix


def test_a_missing_head_names_the_key_that_would_tie_it(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path, "llama")
    held = load_file(folder / "model.safetensors")
    del held["lm_head.weight"]
    save_file(held, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"E1120 .*lm_head") as caught:
        opened(folder)
    assert "tie_word_embeddings" in caught.value.fix


def test_a_tied_models_index_may_name_the_head(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path, "llama", shards=True, tie_word_embeddings=True)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["lm_head.weight"] = next(iter(index["weight_map"].values()))
    (folder / INDEX).write_text(json.dumps(index))
    [warning] = check_against_transformers(folder).warnings
    assert "lm_head.weight" in warning and "no shard does" in warning
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(InputError, match=r"E1120 .*lm_head") as caught:
        opened(folder)
    assert any("no shard does" in line for line in caught.value.details)
