"""All keys of a spec by their path, and the one that an unknown key was probably meant to be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any

from xamc.compiler.spec import vamc_keys, xamc_keys
from xamc.compiler.spec.keys import READ_BY_ALL, SECTIONS, XAMC_SECTIONS
from xamc.targets.registry import CAPS, DEFAULT, spec_keys
from xamc.targets.spec_keys import Key
from xamc.targets.spec_kinds import Anything, KeyPath, OneOf, Text


def registry() -> Mapping[str, Key]:
    """Dotted path → key, in the order of the reference; targets add keys of their own."""
    return _registry(tuple(CAPS))


@cache
def _registry(targets: tuple[str, ...]) -> Mapping[str, Key]:
    own = (key for target in targets for key in spec_keys(target).keys)
    first = (DEFAULT, *(target for target in targets if target != DEFAULT))
    chosen = Key("backend.type", OneOf(first), "The target.", ("used", READ_BY_ALL), f"{DEFAULT}, as in vamc")
    keys = [chosen, *vamc_keys.KEYS, *own, *xamc_keys.KEYS]
    order = {section: index for index, section in enumerate(("", *SECTIONS))}
    keys.sort(key=lambda key: order.get(key.path.rpartition(".")[0], len(order)))
    return {key.path: key for key in keys}


def find(path: KeyPath) -> Key | None:
    """The key at a path of names, or the `*` key that covers it."""
    if not path or not all(isinstance(part, str) for part in path):
        return None
    keys = registry()
    names = [str(part) for part in path]
    if "*" in names:
        return None
    if any("." in name for name in names):  # a name with a dot is the user's, never a registered one
        return keys.get(".".join([*names[:-1], "*"])) if not any("." in name for name in names[:-1]) else None
    return keys.get(".".join(names)) or keys.get(".".join([*names[:-1], "*"]))


def is_section(path: KeyPath) -> bool:
    """Whether the path is a mapping of known keys."""
    return not path or ".".join(str(part) for part in path) in SECTIONS


def is_strict(path: KeyPath) -> bool:
    """Whether an unknown key at this path is an error: it lies in one of xamc's own sections."""
    return len(path) > 1 and path[0] in XAMC_SECTIONS


def names_in(section: str) -> tuple[str, ...]:
    """Names of the keys and sections directly below a section, `''` being the top level."""
    names: dict[str, None] = {}
    for path in (*SECTIONS, *registry()):
        parent, _, name = path.rpartition(".")
        if parent == section and name != "*":
            names[name] = None
    return tuple(names)


def suggest(path: KeyPath, value: Any = None) -> str | None:
    """The known key that an unknown one was probably meant to be.

    A similar name in the same section comes first, then the same name elsewhere (a misplaced key), then a similar name
    elsewhere. Of several keys elsewhere it is one whose key takes `value`, if there is one, and then the nearest.
    """
    *parents, name = (str(part) for part in path)
    section = ".".join(parents)
    near = _similar(name, names_in(section), 0.75)
    if near is not None:
        return f"{section}.{near}" if section else near
    known: dict[str, list[str]] = {}
    for other in (*SECTIONS, *registry()):
        known.setdefault(other.rpartition(".")[2], []).append(other)
    for similar in (name, _similar(name, [other for other in known if len(other) > 3], 0.8)):
        paths = known.get(similar or "", [])
        if paths:
            return _nearest(_fitting(paths, value) or paths, parents)
    return None


def _similar(name: str, names: Iterable[str], cutoff: float) -> str | None:
    """The most similar of some names; capitals, and what stands between words, are other tools' habits."""
    plain = {other.replace("_", ""): other for other in names}
    near = get_close_matches(re.sub(r"[\s_-]", "", name).lower(), plain, 1, cutoff)
    return plain[near[0]] if near else None


def _fitting(paths: Iterable[str], value: Any) -> list[str]:
    """The paths of keys that take a value, those first that take few others."""
    keys = [registry()[path] for path in paths if path in registry() and value is not None]
    taking = [key for key in keys if key.takes(value)]
    choosy = [key for key in taking if not isinstance(key.kind, Text | Anything)]
    return [key.path for key in choosy or taking]


def _nearest(paths: Iterable[str], parents: list[str]) -> str | None:
    """The path that shares most leading parts with `parents`."""

    def shared(path: str) -> int:
        count = 0
        for ours, theirs in zip(parents, path.split(".")):
            if ours != theirs:
                break
            count += 1
        return count

    return max(paths, key=shared, default=None)
