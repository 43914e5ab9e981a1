"""Which buckets and ranks a spec asks for, and what is said of lengths beyond the training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from xamc.compiler.spec import load_spec
from xamc.compiler.spec.model import Spec
from xamc.compiler.stages.target_options import target_options
from xamc.errors import InputError, UnsupportedError
from xamc.model.bucket import Bucket
from xamc.targets.registry import target
from xamc.targets.vacc.request import VaccRequest


def _spec(shape: dict[str, Any] | None, tp: int | None = None, merge: bool | None = None) -> Spec:
    document: dict[str, Any] = {
        "name": "some",
        "frontend": {"checkpoint": "model", "type": "huggingface"},
        "backend": {"type": "tvm_vacc", "dtype": "fp16"},
    }
    if shape is not None:
        document["frontend"]["shape"] = shape
    if tp is not None:
        document["frontend"]["model_kwargs"] = {"tp": tp}
    if merge is not None:
        document["backend"]["merge_params"] = merge
    return load_spec(document).spec


def _read(spec: Spec) -> VaccRequest:
    vacc = target("tvm_vacc")
    request: VaccRequest = vacc.request(target_options(spec, vacc.caps, False)[0])
    return request


def _request(*arguments: Any, **more: Any) -> VaccRequest:
    return _read(_spec(*arguments, **more))


def test_a_bucket_per_length_and_phase() -> None:
    request = _request({"input_ids": [[16, 32], [32, 64]]}, tp=4, merge=True)
    assert request.buckets == (
        Bucket("prefill", 16),
        Bucket("prefill", 32),
        Bucket("decode", 32),
        Bucket("decode", 64),
    )
    assert (request.tp, request.merge_params, request.is_embedding) == (4, True, False)


def test_without_ranks_there_is_one_and_files_are_apart() -> None:
    request = _request({"input_ids": [[16], [32]]})
    assert (request.tp, request.merge_params) == (1, False)


def test_an_empty_second_list_is_an_embedding_model() -> None:
    assert _request({"input_ids": [[16], []]}).is_embedding


def test_a_length_given_twice_is_one_graph() -> None:
    spec = _spec({"input_ids": [[16], [32]]})
    frontend = replace(spec.frontend, shape={"input_ids": [[16, 16], [32, 32]]})
    request = _read(replace(spec, frontend=frontend))
    assert request.buckets == (Bucket("prefill", 16), Bucket("decode", 32))


def test_lengths_are_needed() -> None:
    with pytest.raises(InputError) as caught:
        _request(None)
    assert caught.value.code == "E1413" and "frontend.shape.input_ids" in caught.value.fix


@pytest.mark.parametrize("tp", [3, 32])
def test_a_number_of_ranks_that_vacc_does_not_have(tp: int) -> None:
    with pytest.raises(UnsupportedError) as caught:
        _request({"input_ids": [[16], [32]]}, tp=tp)
    assert caught.value.code == "E1414" and f"tp is {tp}" in caught.value.message and caught.value.exit_code == 3
