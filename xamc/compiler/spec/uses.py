"""What a target does with every key that a spec holds: `plan` prints it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from xamc.compiler.spec.document import dotted
from xamc.compiler.spec.model import LoadedSpec
from xamc.compiler.spec.registry import find, is_section, suggest
from xamc.errors import MisuseError
from xamc.targets.registry import CAPS, spec_keys
from xamc.targets.spec_keys import Key, Use
from xamc.targets.spec_kinds import KeyPath

_CALIBRATED = "activations are not quantized; with --allow-rtn weights are rounded to int8"
_LANGUAGE_MODELS_ONLY = (
    "passes.",
    "verify.",
    "runtime.",
    "workspace.workers",
    "frontend.model_kwargs.",
    "backend.compile.tune",
)


@dataclass(frozen=True)
class KeyUse:
    """One key of a spec on one target.

    Attributes:
        path: dotted; a list or a mapping whose names are the user's is one key.
        value: as written; None for a key without value.
        use: `used` changes the result, `recorded` is kept in the artifact's manifest only, `no effect` is neither.
        reason: why, in a few words.
    """

    path: str
    value: Any
    use: Use
    reason: str


def key_uses(loaded: LoadedSpec, target: str) -> tuple[KeyUse, ...]:
    """Every key present in the spec, in its order, with what the target does with it.

    Args:
        loaded: the spec.
        target: a registered one; not necessarily the spec's own.

    Raises:
        MisuseError: E1071 for another target.
    """
    if target not in CAPS:
        near = get_close_matches(target, CAPS, 1)
        fix = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(CAPS)}"
        raise MisuseError("E1071", f"no target is called {target!r}", fix)
    return tuple(
        KeyUse(dotted(path), value, *_use(loaded, path, value, key, target))
        for path, value, key in _keys(loaded.values, ())
    )


def _keys(values: Mapping[str, Any], path: KeyPath) -> Iterator[tuple[KeyPath, Any, Key | None]]:
    for name, value in values.items():
        at = (*path, name)
        if is_section(at) and isinstance(value, Mapping) and value:
            yield from _keys(value, at)
        else:
            yield at, value, find(at)


def _use(loaded: LoadedSpec, path: KeyPath, value: Any, key: Key | None, target: str) -> tuple[Use, str]:
    if value is None or value == {}:
        return "no effect", "empty: the default applies"
    if key is None:
        near = suggest(path, value)
        return "no effect", "not a key that xamc knows" + (f"; did you mean {near}?" if near else "")
    workspace = loaded.values.get("workspace") or {}
    if key.path == "model" and loaded.values.get("name") is not None:
        return "no effect", "name is also given"
    if key.path == "workspace.work_dir" and workspace.get("path") is not None:
        return "no effect", "path is also given"
    if loaded.spec.frontend.type == "onnx":
        return _use_for_onnx(key, target)
    if key.path == "frontend.shape.input_ids" and not loaded.spec.frontend.is_language_model:
        return "recorded", "the shape of a graph input, not lengths of a language model"
    return spec_keys(target).use_of(key)


def _use_for_onnx(key: Key, target: str) -> tuple[Use, str]:
    """What becomes of a key where the model is an ONNX graph."""
    if key.path.startswith("frontend.shape."):
        return "used", "the fixed shape of the graph's input"
    if key.path == "frontend.dtype":
        return "recorded", "the file says of which types its inputs are"
    if key.path.startswith(("graph.extra_ops.", "backend.quantize.")):
        return "recorded", "the artifact ends at the graph's own outputs" if key.path[0] == "g" else _CALIBRATED
    if key.path.startswith("dataset."):
        return "recorded", "calibration is vamc's; xamc does not calibrate graphs"
    if key.path.startswith(_LANGUAGE_MODELS_ONLY):
        return "no effect", "for language models"
    return spec_keys(target).use_of(key)
