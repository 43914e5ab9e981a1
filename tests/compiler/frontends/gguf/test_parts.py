"""GGUF models in several files, and files that are none for us."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.checkpoints import write_tiny
from tests.compiler.frontends.gguf_files import write_gguf
from xamc.compiler.frontends import open_checkpoint
from xamc.errors import InputError, UnsupportedError, XamcError

WIDE = {"hidden_size": 96, "intermediate_size": 128, "head_dim": 16, "num_hidden_layers": 1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    write_gguf(folder / "m.gguf", write_tiny(folder / "hf", "llama", **WIDE))
    return folder / "m.gguf"


def split(whole: Path, folder: Path, count: int = 3) -> list[Path]:
    """`whole` in parts as llama-gguf-split writes them, with all metadata and no tensor in the first."""
    reader = gguf.GGUFReader(whole)
    paths = [folder / f"m-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]
    groups = [[], *(reader.tensors[number :: count - 1] for number in range(count - 1))]
    for number, (path, tensors) in enumerate(zip(paths, groups, strict=True)):
        writer = gguf.GGUFWriter(path, "llama" if number == 0 else "")
        for name, field in reader.fields.items() if number == 0 else ():
            if name.startswith("GGUF.") or name == "general.architecture":
                continue
            if field.types[0] == gguf.GGUFValueType.ARRAY:
                writer.add_array(name, field.contents())
            else:
                writer.add_key_value(name, field.contents(), field.types[0])
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in tensors:
            writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return paths


def test_a_split_model_is_the_same_model(whole: Path, tmp_path: Path) -> None:
    paths = split(whole, tmp_path)
    expected = open_checkpoint(whole, "gguf")
    for path in (paths[0], tmp_path):
        found = open_checkpoint(path, "gguf")
        assert found.config == expected.config and found.files == tuple(paths)
        assert found.tensors.keys() == expected.tensors.keys() and not found.ignored_keys
        for name, tensor in found.tensors.items():
            rows = tensor.shape[0]
            assert np.array_equal(tensor.read_rows(0, rows), expected.tensors[name].read_rows(0, rows)), name


def test_any_part_leads_to_the_others(whole: Path, tmp_path: Path) -> None:
    paths = split(whole, tmp_path)
    assert open_checkpoint(paths[2], "gguf").path == paths[0]


def remove(paths: list[Path]) -> None:
    paths[1].unlink()


def swap(paths: list[Path]) -> None:
    other = paths[0].with_name("other")
    paths[1].rename(other)
    paths[2].rename(paths[1])
    other.rename(paths[2])


def repeat(paths: list[Path]) -> None:
    data = paths[1].read_bytes()
    number = data.index(b"split.no") + len("split.no") + 4
    paths[2].write_bytes(data[:number] + struct.pack("<H", 2) + data[number + 2 :])


def other_name(paths: list[Path]) -> None:
    paths[0].rename(paths[0].with_name("model.gguf"))
    paths[1].unlink()
    paths[2].unlink()


@pytest.mark.parametrize(
    ("damage", "error", "code", "words"),
    [
        (remove, InputError, "E1114", "m-00002-of-00003.gguf"),
        (swap, InputError, "E1130", "part 3 of 3 by its metadata, not 2 of 3"),
        (repeat, InputError, "E1115", "an earlier part holds too"),
        (other_name, UnsupportedError, "E1133", "-0000N-of-00003.gguf"),
    ],
)
def test_parts_that_are_no_model(
    damage: Callable[[list[Path]], None], error: type[XamcError], code: str, words: str, whole: Path, tmp_path: Path
) -> None:
    damage(split(whole, tmp_path))
    with pytest.raises(error) as caught:
        open_checkpoint(next(iter(sorted(tmp_path.glob("*.gguf")))), "gguf")
    assert caught.value.code == code and words in caught.value.message


def test_byte_orders_and_versions_are_told_apart(whole: Path, tmp_path: Path) -> None:
    data = whole.read_bytes()
    for version, words in ((struct.pack(">I", 3), "is a big-endian GGUF file"), (struct.pack("<I", 1), "version 1;")):
        (tmp_path / "m.gguf").write_bytes(data[:4] + version + data[8:])
        with pytest.raises(UnsupportedError, match=words):
            open_checkpoint(tmp_path / "m.gguf", "gguf")
