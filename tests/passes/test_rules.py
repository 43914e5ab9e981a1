"""The rules that `passes.expect` may name are those that graph passes count by."""

from __future__ import annotations

import ast
from pathlib import Path

from xamc.passes import graph
from xamc.passes.rules import GRAPH_RULES
from xamc.passes.runner import _EXPORTED

# counted by names that the source does not spell out: dtypes of codes, and forms of older opsets
COMPUTED = {"int8", "uint4", "reduction", "split"}


def test_rules_are_those_that_are_counted() -> None:
    counted = set()
    for file in Path(str(graph.__file__)).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_bytes())):
            match node:
                case ast.Call(func=ast.Attribute(attr="count"), args=[ast.Constant(value=str() as rule), *_]):
                    counted.add(rule)
    assert counted | COMPUTED == GRAPH_RULES | (counted & (set(graph.GRAPH_PASSES) | set(_EXPORTED)))
