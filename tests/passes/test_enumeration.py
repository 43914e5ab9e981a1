"""Every pass has a test of its own, a golden and mutations; a new pass without them fails here."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest

from tests.golden_files import FOLDER
from tests.passes.graph.cases import PASSES
from tests.passes.graph.test_mutations import MUTATIONS
from xamc.passes import graph
from xamc.passes.graph import GRAPH_PASSES

REPOSITORY = Path(__file__).parents[2]
RELAX_TESTS = REPOSITORY / "tests" / "passes" / "relax"
FILES = sorted(path.stem for path in Path(graph.__file__).parent.glob("*.py") if path.stem != "__init__")


def test_the_registry_lists_every_file() -> None:
    assert sorted(GRAPH_PASSES) == FILES


@pytest.mark.parametrize("name", FILES)
def test_a_pass_is_one_class_of_its_file_with_docs(name: str) -> None:
    module = importlib.import_module(f"xamc.passes.graph.{name}")
    classes = [cls for _, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == module.__name__]
    public = [cls for cls in classes if not cls.__name__.startswith("_")]
    assert [cls.__name__ for cls in public] == [GRAPH_PASSES[name]]
    text = inspect.getdoc(public[0]) or ""
    assert "before:" in text or name == "cleanup", f"{name} does not draw its graph before and after"
    assert f"`{name}`" in (REPOSITORY / "docs" / "passes.md").read_text(), f"docs/passes.md does not mention {name}"


@pytest.mark.parametrize("name", FILES)
def test_a_pass_has_a_test_a_golden_and_mutations(name: str) -> None:
    test = REPOSITORY / "tests" / "passes" / "graph" / f"test_{name}.py"
    assert test.exists() and "def test_golden" in test.read_text()
    assert (FOLDER / "passes" / f"{name}.txt").stat().st_size > 0
    assert name in PASSES and len(MUTATIONS[name]) >= 3


def _relax_passes() -> list[str]:
    """Modules that define a pass of their own name, found in their text: importing them would import TVM."""
    folder = REPOSITORY / "xamc" / "passes" / "relax"
    return sorted(path.stem for path in folder.glob("*.py") if f'name: str = "{path.stem}"' in path.read_text())


@pytest.mark.parametrize("name", _relax_passes())
def test_a_relax_pass_has_a_test_with_golden_and_mutations(name: str) -> None:
    test = RELAX_TESTS / f"test_{name}.py"
    assert test.exists(), f"{name} has no test"
    text = test.read_text()
    assert "golden" in text and "mutat" in text, f"{test.name} lacks a golden or mutations"


def test_relax_passes_are_found() -> None:
    assert len(_relax_passes()) >= 5
