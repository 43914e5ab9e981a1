"""Pickled weights: refused unless allowed, read in place, and never run."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.checkpoints import write_tiny
from tests.pickles import Runs, to_pickles, write_pickles
from xamc.compiler.export import pickled_tensors
from xamc.compiler.frontends import Checkpoint, open_checkpoint
from xamc.compiler.frontends.huggingface import pickled
from xamc.compiler.frontends.huggingface.pickled import read_pickled
from xamc.compiler.plan.plan import make_plan
from xamc.errors import InputError, UnsupportedError, XamcError
from xamc.ir.weights.files import FileTensor


def opened(folder: Path) -> Checkpoint:
    return open_checkpoint(folder, "huggingface", allow_pickle=True)


def values(checkpoint: Checkpoint) -> dict[str, Any]:
    return {name: tensor.read_rows(0, tensor.shape[0]) for name, tensor in checkpoint.tensors.items()}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tiny(tmp_path_factory.mktemp("bin") / "model", "internlm2", dtype="bfloat16")
    shutil.copytree(folder, folder.with_name("safetensors"))
    to_pickles(folder, 2)
    torch.save({"lr": Runs(os.getcwd)}, folder / "training_args.bin")
    return folder


def test_shards_are_the_same_model(shards: Path) -> None:
    expected = values(open_checkpoint(shards.with_name("safetensors"), "huggingface"))
    checkpoint = opened(shards)
    found = values(checkpoint)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert np.array_equal(found[name].view(np.uint16), array.view(np.uint16)), name
    names = {path.name for path in checkpoint.files}
    assert {"pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin"} <= names
    assert "training_args.bin" not in names


@pytest.mark.parametrize("keep_index", [True, False])
def test_not_allowed_names_both_ways_out(shards: Path, keep_index: bool, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(shards, folder)
    if not keep_index:
        (folder / "pytorch_model.bin.index.json").unlink()
    with pytest.raises(UnsupportedError, match=r"E1116.*pytorch_model-00001-of-00002.bin") as caught:
        open_checkpoint(folder, "huggingface")
    assert "--allow-pickle" in caught.value.fix and f"xamc convert-weights {folder} OUT" in caught.value.fix


def test_safetensors_are_taken_where_both_are(shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(shards.with_name("safetensors"), folder)
    shutil.copy(shards / "pytorch_model-00001-of-00002.bin", folder)
    for allow in (False, True):
        checkpoint = open_checkpoint(folder, "huggingface", allow_pickle=allow)
        assert not [path for path in checkpoint.files if path.suffix == ".bin"]


def test_indexes_and_missing_shards(shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(shards, folder)
    index = folder / "pytorch_model.bin.index.json"
    good = index.read_text()
    (folder / "pytorch_model-00002-of-00002.bin").rename(tmp_path / "second")
    with pytest.raises(InputError, match=r"E1114.*00002-of-00002"):
        opened(folder)
    index.unlink()
    with pytest.raises(InputError, match=r"E1114.*1 of 2 shards"):
        opened(folder)
    for file in ("../second.bin", "/elsewhere/x.bin", "x.safetensors", 3):
        index.write_text(json.dumps({"weight_map": {**json.loads(good)["weight_map"], "model.norm.weight": file}}))
        with pytest.raises(InputError, match="E1113"):
            opened(folder)


def one(tmp_path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, tmp_path / "pytorch_model.bin", **options)
    return tmp_path / "pytorch_model.bin"


def located(path: Path) -> dict[str, tuple[str, FileTensor]]:
    """What the frontend makes of the child's answer, which is made in this process."""
    return pickled._tensors(path, pickled_tensors._locate(path))


def test_shapes_views_and_other_types(tmp_path: Path) -> None:
    """Tensors are found wherever they begin in a shared storage; all shapes and types come through."""
    base = torch.arange(24, dtype=torch.float32)
    content = {
        "whole": base.reshape(4, 6),
        "rows": base.reshape(4, 6)[1:3],
        "ids": torch.arange(5),
        "scalar": torch.tensor(2.5, dtype=torch.float16),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2, 2, dtype=torch.bfloat16)),
    }
    for wrapped in (content, {"model": content, "epoch": 3}, {"state_dict": {"module": content}}):
        path = one(tmp_path, wrapped)
        found = located(path)
        assert {name: (label, tensor.shape) for name, (label, tensor) in found.items()} == {
            "whole": ("F32", (4, 6)),
            "rows": ("F32", (2, 6)),
            "ids": ("I64", (5,)),
            "scalar": ("F16", ()),
            "empty": ("F32", (0, 3)),
            "parameter": ("BF16", (2, 2)),
        }
        assert np.array_equal(found["rows"][1].read_rows(0, 2), content["rows"].numpy())
        assert np.array_equal(found["whole"][1].read_rows(3, 4), content["whole"][3:].numpy())


def test_a_path_with_spaces_and_other_letters(tmp_path: Path) -> None:
    folder = tmp_path / "a b\n模型"
    folder.mkdir()
    path = one(folder, {"w": torch.ones(3)})
    assert np.array_equal(located(path)["w"][1].read_rows(0, 3), np.ones(3, np.float32))


class Trap(dict[str, Any]):
    """A class of the file's own."""


def refused(content: Any, folder: Path, code: str, words: str) -> None:
    with pytest.raises(InputError, match=f"{code}.*{words}") as caught:
        pickled_tensors._locate(one(folder, content))
    assert caught.value.fix and "pytorch_model.bin" in caught.value.message


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda mark: Runs(os.system, f"touch {mark}"), "posix.system"),
        (lambda mark: Runs(eval, f"open({str(mark)!r}, 'w')"), "for eval"),
        (lambda mark: {"w": torch.ones(2), "x": Runs(os.mkdir, str(mark))}, "posix.mkdir"),
        (lambda mark: Trap(w=torch.ones(2)), "test_pickled.Trap"),
    ],
)
def test_a_pickle_that_asks_for_code(make: Callable[[Path], Any], words: str, tmp_path: Path) -> None:
    refused(make(tmp_path / "sprung"), tmp_path, "E1164", words)
    assert not (tmp_path / "sprung").exists()


def test_the_child_refuses_as_well(tmp_path: Path) -> None:
    """The whole way: the frontend, the child process, and our error back."""
    folder = write_tiny(tmp_path / "model", "llama")
    state = to_pickles(folder)
    write_pickles(folder, {**state, "x": Runs(os.system, f"touch {tmp_path / 'sprung'}")}, 1)
    with pytest.raises(InputError, match=r"E1164.*pytorch_model.bin asks for posix.system"):
        opened(folder)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.ones(2)], "holds a list"),
        ({"w": 3}, "w is a int"),
        ({"w": torch.ones(4, 4).T[:2]}, "view with gaps"),
        ({"w": torch.ones(3).expand(2, 3)}, "view with gaps"),
        ({"w": torch.eye(3).to_sparse()}, "sparse"),
        ({"w": torch.ones(2, dtype=torch.complex64)}, "complex64"),
    ],
)
def test_tensors_that_are_none(content: Any, words: str, tmp_path: Path) -> None:
    refused(content, tmp_path, "E1166", words)


def test_other_containers(tmp_path: Path) -> None:
    path = one(tmp_path, {"w": torch.ones(2)}, _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match=r"E1165.*before 1.6"):
        pickled_tensors._locate(path)
    path.write_bytes(pickle.dumps({"w": [1.0]}))
    with pytest.raises(InputError, match="E1165"):
        pickled_tensors._locate(path)
    stored = one(tmp_path, {"w": torch.ones(2)})
    packed = io.BytesIO()
    with zipfile.ZipFile(stored) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            new.writestr(member, old.read(member))
    stored.write_bytes(packed.getvalue())
    with pytest.raises(InputError, match=r"E1165.*compressed"):
        pickled_tensors._locate(stored)


def test_damage_raises_our_errors_only(tmp_path: Path) -> None:
    path = one(tmp_path, {"w": torch.ones(40, 3), "v": torch.arange(6)})
    good, generator = path.read_bytes(), np.random.default_rng(0)
    outcomes = set()
    for _ in range(120):
        data = bytearray(good)
        for _ in range(generator.integers(1, 6)):
            data[generator.integers(len(data))] = generator.integers(256)
        path.write_bytes(bytes(data[: len(data) - generator.choice([0, 0, 0, generator.integers(len(data))])]))
        try:
            for _, shape, offset in pickled_tensors._locate(path).values():
                assert 0 <= offset <= len(data) and all(n >= 0 for n in shape)
            outcomes.add("read")
        except XamcError as error:
            outcomes.add(error.code)
    assert {"read", "E1165"} <= outcomes <= {"read", "E1164", "E1165", "E1166"}


def test_a_pickle_that_asks_for_memory(tmp_path: Path) -> None:
    path = one(tmp_path, {"w": torch.ones(2), "x": Runs(bytearray, 60 * 10**9)})
    with pytest.raises(InputError, match=r"E1165.*more memory than its tensors need"):
        read_pickled([path])


def test_plan_reads_them_where_allowed(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickled, "run_child", lambda function, files, **_: pickled_tensors._located(files))
    build = {
        "name": "p",
        "frontend": {"checkpoint": str(shards), "type": "huggingface", "shape": {"input_ids": [[8], [16]]}},
        "backend": {"type": "tvm_cpu"},
        "workspace": {"path": str(tmp_path)},
    }
    assert make_plan(build, allow_pickle=True).parameters > 0
    with pytest.raises(UnsupportedError, match="E1116"):
        make_plan(build)


def test_a_child_out_of_bounds_is_our_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = one(tmp_path, {"w": torch.ones(2)})
    monkeypatch.setattr(pickled, "LIMITS", pickled.Limits(seconds=0.01, memory_bytes=None))
    with pytest.raises(InputError, match=r"E1165.*took longer"):
        read_pickled([path])
