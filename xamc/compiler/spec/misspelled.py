"""Misspelled keys that choose the route of a compile: with their default instead, something else would be made.

Any other unknown key of vamc's sections is a warning. These few stop the compile, when the written value is one that
the key takes and not what its default comes to: ``backend: {tpye: tvm_cpu}`` must not compile for VACC.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from xamc.compiler.spec.check import Checked
from xamc.compiler.spec.document import dotted
from xamc.compiler.spec.model import SpecWarning
from xamc.compiler.spec.registry import registry
from xamc.compiler.spec.rules import backend_type, frontend_type
from xamc.errors import InputError
from xamc.targets.spec_kinds import KeyPath

_INPUT = "input_ids"
_DEFAULTS: Mapping[str, Callable[[Checked], str | None]] = {
    "backend.type": backend_type,
    "frontend.type": frontend_type,
    "frontend.quantize.type": lambda checked: None,
}


def refuse_misspelled(checked: Checked) -> None:
    """Makes errors of warnings about unknown keys that were meant to be one of `_DEFAULTS`."""
    for path, default in _DEFAULTS.items():
        if checked.is_bad(path) or checked.get(path) is not None:
            continue
        for at, value in _meant(checked, path):
            if value == default(checked):
                continue
            checked.errors.append(
                InputError(
                    "E1029",
                    f"{path} is missing; {dotted(at)} is not a key",
                    f"did you mean {path}?",
                    checked.document.at(at, key=True),
                )
            )
            # the section's warning says the same
            for unknown in [unknown for unknown in checked.unknown if at[: len(unknown)] == unknown]:
                del checked.unknown[unknown]
            checked.bad.add(tuple(path.split(".")))
            break


def warn_of_similar_input(checked: Checked) -> None:
    """Warns of ``frontend.shape.inputs_ids`` of a language model: names there are the user's, but it has one input."""
    shape = checked.section("frontend.shape")
    if _INPUT in shape or frontend_type(checked) not in ("huggingface", "gguf"):
        return
    for name in shape:
        if get_close_matches(str(name), [_INPUT], 1, 0.75):
            at, meant = ("frontend", "shape", name), f"frontend.shape.{_INPUT}"
            message = f"{dotted(at)} is no input of a language model, and is ignored"
            location = checked.document.at(at, key=True)
            checked.warnings.append(SpecWarning("E1021", message, f"did you mean {meant}?", location, meant))


def _meant(checked: Checked, path: str) -> list[tuple[KeyPath, Any]]:
    """Unknown keys that were meant to be `path`, also in a misspelled section, whose value it takes."""
    section, _, name = path.rpartition(".")
    found: list[tuple[KeyPath, Any]] = []
    for at, warning in checked.unknown.items():
        value, meant = checked.written(at), warning.meant
        if meant == path:
            found.append((at, value))
        elif meant == section and isinstance(value, Mapping) and value.get(name) is not None:
            found.append(((*at, name), value[name]))
    return [(at, value) for at, value in found if registry()[path].takes(value)]
