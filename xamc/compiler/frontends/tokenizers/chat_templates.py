"""The chat templates of a Hugging Face folder, by name, in the order of precedence that transformers has.

Files win over tokenizer_config.json: chat_template.jinja is the template ``default``, every file of
additional_chat_templates/ the one that it is named after. Only where none of them is there does ``chat_template`` of
tokenizer_config.json count, one template or a list of named ones, and only then chat_template.json, in which processors
of transformers keep theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xamc.compiler.frontends.json_file import is_file_name, read_json, read_text
from xamc.errors import InputError

DEFAULT = "default"
TEMPLATE, TEMPLATES, OF_PROCESSOR = "chat_template.jinja", "additional_chat_templates", "chat_template.json"
MOST_TEMPLATES = 64


def read_templates(folder: Path, settings: Mapping[str, Any]) -> tuple[dict[str, str], tuple[Path, ...]]:
    """The templates by name, and the files they came from.

    Args:
        folder: the checkpoint.
        settings: its tokenizer_config.json.

    Raises:
        InputError: E1103, a file that can't be read; E1134, a list that names no templates, or too many of them.
    """
    files = {DEFAULT: folder / TEMPLATE} if (folder / TEMPLATE).exists() else {}
    if (folder / TEMPLATES).is_dir():
        files |= {path.name.removesuffix(".jinja"): path for path in sorted((folder / TEMPLATES).glob("*.jinja"))}
    if files:
        found = {name: read_text(path) for name, path in files.items()}
    elif settings.get("chat_template") is not None:
        found = _of_settings(folder, settings["chat_template"])
    elif (folder / OF_PROCESSOR).exists():
        files = {DEFAULT: folder / OF_PROCESSOR}
        found = _of_settings(folder / OF_PROCESSOR, read_json(folder / OF_PROCESSOR).get("chat_template"))
    else:
        found = {}
    if len(found) > MOST_TEMPLATES or not all(map(is_file_name, found)):
        raise InputError(
            "E1134",
            f"the chat templates of {folder} are {len(found)} with names such as {sorted(found)[0]!r}; "
            f"{MOST_TEMPLATES} are allowed, named like files",
            "restore the model's own files",
        )
    return found, tuple(files.values())


def _of_settings(source: Path, value: object) -> dict[str, str]:
    """One template, a list of ``{"name": ..., "template": ...}``, or an object of name → template."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {DEFAULT: value}
    entries: list[tuple[object, object]] = []
    if isinstance(value, dict):
        entries = list(value.items())
    elif isinstance(value, list):
        entries = [(t.get("name"), t.get("template")) if isinstance(t, dict) else (None, None) for t in value]
    found = {name: text for name, text in entries if isinstance(name, str) and isinstance(text, str)}
    if len(found) != len(entries) or not isinstance(value, dict | list):
        raise InputError(
            "E1134",
            f"{source}: chat_template is neither a template nor a list of named ones",
            "restore the model's own file",
        )
    return found
