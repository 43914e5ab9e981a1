"""mod.json says what the graph is: it fits its schema, and every name in it leads somewhere."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests import twins
from tests.vacc_artifacts import Variant, whole_program
from xamc.ir.program import Program
from xamc.model.bucket import Bucket
from xamc.passes.graph.shard.split import Shard
from xamc.targets.vacc.assumptions import assumption
from xamc.targets.vacc.mod_json import GraphPlace, graph_json, graph_text

PREFILL, DECODE = Bucket("prefill", 16), Bucket("decode", 32)
WEIGHTS = [
    {
        "sources": ["w"],
        "packing": "stored",
        "shape": [4],
        "buffers": [{"name": "w", "dtype": "float32", "shape": [4]}],
    }
]


@pytest.fixture(scope="module")
def schema(repository: Path) -> Any:
    value = json.loads((repository / "xamc/targets/vacc/mod.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(value)
    return value


@pytest.fixture(scope="module")
def decode() -> Program:
    return Shard(2).split(whole_program(Variant("windowed", int8=True), DECODE))[1]


def _described(program: Program, bucket: Bucket, rank: int = 0, tp: int = 1) -> Any:
    return graph_json(program, GraphPlace("a model", bucket, rank, tp), WEIGHTS)


def _check_names(value: Any) -> None:
    """Each node reads what an input, a parameter, a constant or an earlier node is called."""
    known = {entry["name"] for kind in ("inputs", "params", "constants") for entry in value[kind]}
    for node in value["nodes"]:
        assert {name for name in node["inputs"] if name is not None} <= known, node
        known |= {output["name"] for output in node["outputs"]}
    assert {output["name"] for output in value["outputs"]} <= known


def test_a_decode_graph_of_a_rank(decode: Program, schema: Any) -> None:
    value = _described(decode, DECODE, rank=1, tp=2)
    jsonschema.validate(value, schema)
    _check_names(value)
    assert (value["rank"], value["tp"], value["executes_on"]) == (1, 2, "host-simulator")
    assert value["phase"] == {"kind": "decode", "iteration": "iter1", "length": 32}
    assert value["vocab"] == {"size": 100, "padded": 112}
    assert [entry["dtype"] for entry in value["inputs"]] == ["int64"] * 3 + ["float16"] * 4
    assert value["kv"]["past_slots"] == 31 and value["kv"]["new_slots"] == [31, 32]
    assert (value["kv"]["heads"], value["kv"]["slots"], value["kv"]["moved_by"]) == (1, 32, "host")
    # nothing is float32 but what the parameters are stored as
    assert {out["dtype"] for node in value["nodes"] for out in node["outputs"]} <= {"float16", "bool", "int64"}
    assert "Cast" not in {node["op"] for node in value["nodes"]}
    assert {"AllReduce", "AllGather", "QuantizedLinearPerChannel"} <= {node["op"] for node in value["nodes"]}
    roles = {role for entry in value["params"] for role in entry["roles"]}
    assert roles == {"embedding", "linear", "linear_codes", "linear_scales", "norm", "bias", "rope_table"}
    assert all(assumption(name) for name in value["assumptions"])


def test_a_prefill_graph(schema: Any) -> None:
    value = _described(whole_program(Variant(), PREFILL), PREFILL)
    jsonschema.validate(value, schema)
    _check_names(value)
    assert [entry["name"] for entry in value["inputs"]] == ["input_ids"]
    assert value["kv"]["past_slots"] == 0 and value["kv"]["new_slots"] == [0, 16]
    tied = next(entry for entry in value["params"] if entry["name"] == "model.embed_tokens.weight")
    assert tied["roles"] == ["embedding", "linear"] and tied["dtype"] == "float16"
    masked = [c["data"] for c in value["constants"] if c["dtype"] == "float16" and c["shape"] == []]
    assert [-65504.0] in masked


def test_the_same_graph_gives_the_same_bytes() -> None:
    place = GraphPlace("a model", PREFILL, 0, 1)
    texts = {graph_text(whole_program(Variant(), PREFILL), place, WEIGHTS) for _ in range(2)}
    assert len(texts) == 1 and json.loads(texts.pop())["simulator"]["weights"] == WEIGHTS


@pytest.mark.parametrize("path", [("version",), ("phase", "kind"), ("nodes", 0, "op"), ("params", 0, "dtype"), ("kv",)])
def test_the_schema_refuses_what_it_does_not_know(decode: Program, schema: Any, path: tuple[Any, ...]) -> None:
    value = copy.deepcopy(_described(decode, DECODE))
    place = value
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = {"unknown": 1}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, schema)


def test_sizes_follow_the_config() -> None:
    """The roles of a model without a tied head: lm_head is a linear layer of its own."""
    value = _described(whole_program(Variant("windowed"), PREFILL), PREFILL)
    roles = {entry["name"]: entry["roles"] for entry in value["params"]}
    assert roles["lm_head.weight"] == ["linear"] and roles["model.embed_tokens.weight"] == ["embedding"]
    assert value["kv"]["layers"] == twins.config("windowed").num_layers
