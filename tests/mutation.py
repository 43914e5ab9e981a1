"""Source mutations: a module with one piece of its text replaced, to see that a test notices."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def mutated(module: ModuleType, old: str, new: str) -> ModuleType:
    """A copy of `module` whose source has `old`, which must occur exactly once, replaced by `new`."""
    assert module.__file__ is not None
    source = Path(module.__file__).read_text()
    assert source.count(old) == 1, f"{old!r} occurs {source.count(old)} times in {module.__name__}"
    name = f"{module.__name__}__mutated"
    spec = importlib.util.spec_from_loader(name, loader=None)
    assert spec is not None
    copy = importlib.util.module_from_spec(spec)
    # dataclasses look their module up by name while the class is made
    sys.modules[name] = copy
    try:
        exec(compile(source.replace(old, new), f"<{name}>", "exec"), copy.__dict__)
    finally:
        del sys.modules[name]
    return copy
