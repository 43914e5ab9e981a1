"""The registry as JSON Schema, for editors, and as Markdown, for docs/spec.md.

`schema.json` beside this file and the tables of docs/spec.md are written by tools/update_spec_reference.py; tests keep
them equal to the registry.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from xamc.compiler.spec.keys import READ_BY_ALL, SECTIONS, XAMC_SECTIONS
from xamc.compiler.spec.registry import registry
from xamc.targets.registry import CAPS, spec_keys
from xamc.targets.spec_keys import KEPT_FOR_VAMC, Key
from xamc.targets.spec_kinds import nullable

SCHEMA_FILE = Path(__file__).with_name("schema.json")

#: Keys that the loader insists on.
REQUIRED = {"": ["frontend"], "frontend": ["checkpoint"]}


def json_schema() -> dict[str, Any]:
    """The schema of a build file, JSON Schema draft 2020-12.

    It says what the loader says about single keys: an unknown key is allowed in vamc's sections (the loader warns) and
    refused in xamc's own. Rules over several keys are the loader's alone.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "xamc build file",
        "description": "A vamc build file with xamc's additions; docs/spec.md explains every key.",
        **_section(""),
    }


def schema_text() -> str:
    """The text of schema.json."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


def key_table(section: str) -> str:
    """The keys directly below a section as a Markdown table; empty when it has none."""
    rows = [
        "| `{}` | {} | {} | {} | {} |".format(
            key.path.rpartition(".")[2], key.kind, key.meaning, key.default or "–", _uses(key)
        )
        for key in registry().values()
        if key.path.rpartition(".")[0] == section
    ]
    head = ["| key | value | meaning | default | use |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows]) if rows else ""


def reference() -> str:
    """All keys as Markdown, a heading per section: the generated part of docs/spec.md."""
    parts = [f"### Top level\n\n{key_table('')}"]
    parts += [f"### `{section}`\n\n{table}" for section in SECTIONS if (table := key_table(section))]
    return "\n\n".join(parts) + "\n"


def _section(path: str) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    additional: Any = path not in XAMC_SECTIONS
    for key in registry().values():
        parent, _, name = key.path.rpartition(".")
        if parent != path:
            continue
        if name == "*":
            additional = nullable(key.kind.schema())
        else:
            properties[name] = _key(key)
    for section in SECTIONS:
        parent, _, name = section.rpartition(".")
        if parent == path:
            properties[name] = _section(section)
    schema: dict[str, Any] = {"type": "object" if path in REQUIRED else ["object", "null"], "properties": properties}
    if path in REQUIRED:
        schema["required"] = REQUIRED[path]
    return schema if additional is True else schema | {"additionalProperties": additional}


def _key(key: Key) -> dict[str, Any]:
    description = key.meaning + (f" Default: {key.default}." if key.default and key.default != "required" else "")
    schema = key.kind.schema()
    return {"description": description} | (schema if key.default == "required" else nullable(schema))


def _uses(key: Key) -> str:
    """What targets do, in words: first what most of them do, then the others by name."""
    groups: dict[tuple[str, str], list[str]] = {}
    for target in CAPS:
        groups.setdefault(spec_keys(target).use_of(key), []).append(target)
    (common, _), *others = sorted(groups.items(), key=lambda group: -len(group[1]))
    words = [_use(*common)]
    words += [f"{', '.join(targets)}: {_use(*use)}" for use, targets in others]
    return "; ".join(words)


def _use(use: str, reason: str) -> str:
    return use if reason in (READ_BY_ALL, KEPT_FOR_VAMC) else f"{use} ({reason})"
