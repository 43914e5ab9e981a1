"""The index of a parameter file believes nothing that the file says."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xamc.artifact.params_index import names_header, read_params_index, tensor_header
from xamc.errors import InputError

WHOLE = (
    names_header(["a", "b"])
    + tensor_header("float16", (2, 3))
    + bytes(range(12))
    + tensor_header("int8", (5,))
    + bytes(5)
)
# where the parts of WHOLE begin
NAME, FIRST = 24, 50


def _error(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_params_index(path)
    assert caught.value.code == "E1512"
    return caught.value.message


def _patched(offset: int, layout: str, *values: int) -> bytes:
    data = bytearray(WHOLE)
    struct.pack_into(layout, data, offset, *values)
    return bytes(data)


def test_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "p"
    path.write_bytes(WHOLE)
    index = read_params_index(path)
    assert [(e.dtype, e.shape, e.nbytes) for e in index.values()] == [("float16", (2, 3), 12), ("int8", (5,), 5)]
    first = index["a"]
    assert WHOLE[first.offset : first.offset + first.nbytes] == bytes(range(12))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "ends within the header"),
        (_patched(0, "<Q", 1), "begins with 0x"),
        (_patched(16, "<Q", 2**60), "claims to hold"),
        (_patched(NAME, "<Q", 2**62), "claims 4611686018427387904 bytes"),
        (_patched(NAME + 8, "<B", 0xFF), "not UTF-8"),
        (_patched(NAME + 8, "<B", ord("b")), "same name"),
        (_patched(42, "<Q", 1), "2 names for 1 tensors"),
        (_patched(FIRST, "<Q", 7), "a begins with"),
        (_patched(FIRST + 16, "<i", 2), "device type 2"),
        (_patched(FIRST + 24, "<i", -1), "-1 dimensions"),
        (_patched(FIRST + 24, "<i", 2**30), "dimensions"),
        (_patched(FIRST + 28, "<B", 9), "type code 9"),
        (_patched(FIRST + 30, "<H", 4), "4 lanes"),
        (_patched(FIRST + 32, "<q", -2), "[-2, 3]"),
        (_patched(FIRST + 32, "<q", 2**61), "bytes"),
        (_patched(FIRST + 48, "<q", 2**40), "1099511627776 bytes"),
        (WHOLE[:-1], "ends within the data of b"),
        (WHOLE + b"x", "1 bytes follow"),
    ],
)
def test_lies_are_named(tmp_path: Path, content: bytes, said: str) -> None:
    assert said in _error(tmp_path / "p", content)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="E1512"):
        read_params_index(tmp_path / "nowhere")


@given(st.data())
def test_damage_is_an_error_or_harmless(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(WHOLE[: data.draw(st.integers(0, len(WHOLE)))])
    for _ in range(data.draw(st.integers(0, 3))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "p"
    path.write_bytes(bytes(content))
    try:
        index = read_params_index(path)
    except InputError as error:
        assert error.code == "E1512"
    else:
        assert all(e.offset >= 0 and e.offset + e.nbytes <= len(content) for e in index.values())
