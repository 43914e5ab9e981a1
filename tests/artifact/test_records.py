"""Records to JSON and back, and where their errors are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xamc.artifact.records import RecordError, from_json, to_json


@dataclass(frozen=True)
class Leaf:
    name: str
    scale: float = 1.0
    kind: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        if self.name == "bad":
            raise RecordError("name", "is bad")
        if self.name == "worse":
            raise ValueError("is worse")


@dataclass(frozen=True)
class Tree:
    leaf: Leaf
    leaves: tuple[Leaf, ...] = ()
    by_name: Mapping[str, Leaf] = field(default_factory=dict)
    sizes: tuple[tuple[int, ...], ...] = ()
    note: str | None = None
    flag: bool = False
    anything: Any = None


LEAVES = st.builds(
    Leaf,
    st.text().filter(lambda name: name not in ("bad", "worse")),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["a", "b"]),
)
TREES = st.builds(
    Tree,
    LEAVES,
    st.lists(LEAVES).map(tuple),
    st.dictionaries(st.text(), LEAVES),
    st.lists(st.lists(st.integers()).map(tuple)).map(tuple),
    st.none() | st.text(),
    st.booleans(),
    st.none() | st.integers() | st.text(),
)


@given(TREES)
def test_a_record_comes_back_from_its_json(tree: Tree) -> None:
    assert from_json(Tree, json.loads(json.dumps(to_json(tree)))) == tree


def test_a_whole_number_is_a_float_where_one_is_due() -> None:
    leaf = from_json(Leaf, {"name": "x", "scale": 2})
    assert type(leaf.scale) is float and leaf.scale == 2.0


LEAF = {"name": "x"}


@pytest.mark.parametrize(
    ("value", "where", "problem"),
    [
        ([], "", "expected an object, found list"),
        ({}, "leaf", "missing key"),
        ({"leaf": LEAF, "zz": 1, "aa": 1}, "aa", "unknown key"),
        ({"leaf": None}, "leaf", "expected an object, found null"),
        ({"leaf": {}}, "leaf.name", "missing key"),
        ({"leaf": {"name": 1}}, "leaf.name", "expected str, found int"),
        ({"leaf": {"name": "x", "kind": "c"}}, "leaf.kind", "expected one of 'a', 'b', found 'c'"),
        ({"leaf": {"name": "x", "scale": True}}, "leaf.scale", "expected float, found bool"),
        ({"leaf": {"name": "bad"}}, "leaf.name", "is bad"),
        ({"leaf": {"name": "worse"}}, "leaf", "is worse"),
        ({"leaf": LEAF, "leaves": {}}, "leaves", "expected a list, found dict"),
        ({"leaf": LEAF, "leaves": [LEAF, {"name": 1}]}, "leaves[1].name", "expected str, found int"),
        ({"leaf": LEAF, "leaves": [LEAF, 1]}, "leaves[1]", "expected an object, found int"),
        ({"leaf": LEAF, "by_name": []}, "by_name", "expected an object, found list"),
        ({"leaf": LEAF, "by_name": {"y": {"name": "bad"}}}, "by_name.y.name", "is bad"),
        ({"leaf": LEAF, "sizes": [[1], [2, 3, "4"]]}, "sizes[1][2]", "expected int, found str"),
        ({"leaf": LEAF, "sizes": [[True]]}, "sizes[0][0]", "expected int, found bool"),
        ({"leaf": LEAF, "note": 1}, "note", "expected str, found int"),
        ({"leaf": LEAF, "flag": 1}, "flag", "expected bool, found int"),
    ],
)
def test_an_error_names_the_place(value: Any, where: str, problem: str) -> None:
    with pytest.raises(RecordError) as caught:
        from_json(Tree, value)
    assert (caught.value.where, caught.value.problem) == (where, problem)
    assert str(caught.value) == f"{where or 'top level'}: {problem}"
