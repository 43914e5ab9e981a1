"""Targets are known to the registry alone: nobody else names one, asks what kind it is, or imports its modules."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import xamc
from xamc.targets.registry import CAPS, spec_keys, target
from xamc.targets.target import Target

PACKAGE = Path(xamc.__file__).parent
OTHERS = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if not path.is_relative_to(PACKAGE / "targets") and not path.is_relative_to(PACKAGE / "runtime/executors")
]
# a hand-off is one for VACC's own toolchain, and the format that graphs' parameters are stored in is VACC's
VACCS = ("compiler/handoff", "compiler/stages/onnx_import.py")


def names_in(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of targets' names that stand alone, and of comparisons with their short ones; sentences may have
    them, such as what an error advises."""
    tree = ast.parse(source)
    whole = {name for name in CAPS if "_" in name}
    words = {*CAPS, *(caps.short for caps in CAPS.values())}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in whole:
            yield node.lineno, str(node.value)
        compared = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        for part in compared:
            found = [part, *part.elts] if isinstance(part, ast.Tuple | ast.Set | ast.List) else [part]
            is_target = any("target" in ast.unparse(other) or "backend" in ast.unparse(other) for other in compared)
            values = [constant.value for constant in found if isinstance(constant, ast.Constant)]
            if is_target and words.intersection(value for value in values if isinstance(value, str)):
                yield node.lineno, ast.unparse(node)
        is_check = isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance"
        if is_check and ast.unparse(node.args[1]).endswith(("Target", "Request")):
            yield node.lineno, ast.unparse(node)


def imports_in(source: str) -> Iterator[tuple[int, str]]:
    packages = tuple(f"xamc.targets.{caps.short}" for caps in CAPS.values())
    for node in ast.walk(ast.parse(source)):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from ((node.lineno, module) for module in modules if module.startswith(packages))


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nobody_names_a_target(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert list(names_in(source)) == []
    if not str(path.relative_to(PACKAGE)).startswith(VACCS):
        assert list(imports_in(source)) == []


@pytest.mark.parametrize(
    "source",
    [
        'if spec.backend.type == "tvm_vacc": pass',
        'NAMES = {"tvm_cpu": 1}',
        'if target in ("cpu", "reference"): pass',
        "if isinstance(target, StaticTarget): pass",
        "if isinstance(request, CpuRequest): pass",
    ],
)
def test_who_did_would_be_seen(source: str) -> None:
    assert list(names_in(source))


def test_an_import_would_be_seen() -> None:
    assert list(imports_in("def late():\n    from xamc.targets.cpu.arithmetic import level_arithmetic"))
    assert not list(imports_in("from xamc.targets.registry import CAPS"))


@pytest.mark.parametrize("name", CAPS)
def test_each_target_is_there(name: str) -> None:
    found = target(name)
    assert isinstance(found, Target) and found.caps is CAPS[name] and found.caps.name == name
    assert not spec_keys(name).keys or all(key.path in spec_keys(name).uses for key in spec_keys(name).keys)
