"""Ascend's keys: what a list of gears may hold, and that nothing but a known NPU's name gets through."""

from __future__ import annotations

from typing import Any

import pytest

from xamc.compiler.spec import load_spec
from xamc.compiler.spec.errors import SpecErrors
from xamc.compiler.spec.model import Spec

DOUBLY = [[1, 256], [4, 256], [4, 1024]]


def _spec(compile_: dict[str, Any], *overrides: str, totals: object = (512, 1024)) -> Spec:
    document = {
        "name": "some",
        "frontend": {
            "checkpoint": "model",
            "type": "huggingface",
            "shape": {"input_ids": [[64, 256], list(totals)]},  # type: ignore[call-overload]
        },
        "backend": {"type": "tvm_ascend", "compile": compile_},
    }
    return load_spec(document, overrides).spec


def _codes(*arguments: Any, **more: Any) -> list[tuple[str, str]]:
    with pytest.raises(SpecErrors) as caught:
        _spec(*arguments, **more)
    return [(error.code, error.message) for error in caught.value.errors]


def test_rows_of_the_cache_follow_the_gears() -> None:
    assert _spec({"gears": DOUBLY}).runtime.max_batch == 4
    assert _spec({"gears": DOUBLY}, "runtime.max_batch=6").runtime.max_batch == 6
    assert _spec({}).runtime.max_batch == 1
    assert _spec({}, "backend.type=tvm_cpu").runtime.max_batch == 8


@pytest.mark.parametrize(
    ("gears", "code", "words"),
    [
        ([[1, 1024]], "E1036", "2 to 100"),
        ([], "E1036", "2 to 100"),
        ([[1, n] for n in range(924, 1025)], "E1036", "2 to 100"),
        ([[1, 256], [1, 1024, 3]], "E1036", "pairs"),
        ([[1, 256], [1]], "E1036", "pairs"),
        ([[1, 1024], [1, 256], [1, 1024]], "E1036", "[1, 1024] twice"),
        ([[1, 256], [1, 512]], "E1037", "up to 512 slots, and the total length is 1024"),
        ([[1, 256], [1, 2048]], "E1037", "up to 2048 slots"),
        ([[1, 256], [0, 1024]], "E1025", "at least 1"),
        ([[1, 256], [1.5, 1024]], "E1022", "an integer"),
        ("1,256;1,1024", "E1022", "a list"),
        ([256, 1024], "E1022", "a list"),
    ],
)
def test_gears_that_can_not_be(gears: Any, code: str, words: str) -> None:
    ((found, message), *_) = _codes({"gears": gears})
    assert found == code and words in message


def test_a_gear_of_more_sequences_than_rows() -> None:
    ((code, message),) = _codes({"gears": DOUBLY}, "runtime.max_batch=2")
    assert code == "E1037" and "batch of 4" in message and "runtime.max_batch is 2" in message


def test_gears_mean_nothing_elsewhere() -> None:
    assert _spec({"gears": [[1, 1]]}, "backend.type=tvm_cpu").backend.type == "tvm_cpu"


@pytest.mark.parametrize("soc", ["Ascend910B2; rm -rf ~", "$(id)", "`id`", "Ascend910B2\n", "ascend910b2", "", 910])
def test_only_known_npus(soc: Any) -> None:
    ((code, message),) = _codes({"soc_version": soc})
    assert code == "E1023" and "backend.compile.soc_version" in message


def test_an_unknown_route_is_an_error_of_the_spec() -> None:
    ((code, message),) = _codes({"route": "act"})
    assert code == "E1023" and "atc or kernels" in message
