"""Tokenizer files that old releases of the `tokenizers` library read as well."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xamc.compiler.frontends.json_file import read_text


def write_tokenizer(folder: Path, files: Mapping[str, bytes | Path]) -> tuple[list[str], tuple[str, ...]]:
    """Writes the tokenizer of a checkpoint into `folder`.

    Returns:
        The names written, and notes: what could not be made readable for old releases.
    """
    notes: tuple[str, ...] = ()
    for name, source in files.items():
        content = source if isinstance(source, bytes) else read_text(source).encode()
        if name == "tokenizer.json":
            content, notes = portable_tokenizer(content)
        (folder / name).write_bytes(content)
    return list(files), notes


def portable_tokenizer(content: bytes) -> tuple[bytes, tuple[str, ...]]:
    """A tokenizer.json with BPE merges as ``"left right"``, which every release reads.

    From release 0.20 on, `tokenizers` writes pairs, and those before it (transformers 4.34 to 4.44 pin them) stop with
    "data did not match any variant of untagged enum ModelWrapper". Pairs whose parts hold a space have no such form;
    they stay, and the note says so. A file that needs no change is returned as it is, byte by byte.
    """
    document: dict[str, Any] = json.loads(content)
    model = document.get("model")
    merges = model.get("merges") if isinstance(model, dict) else None
    if (
        not isinstance(model, dict)
        or not isinstance(merges, list)
        or not any(isinstance(pair, list) for pair in merges)
    ):
        return content, ()
    if any(" " in part for pair in merges if isinstance(pair, list) for part in pair):
        return content, ("tokenizer.json holds merges of tokens with spaces, which need tokenizers 0.20 or later",)
    model["merges"] = [" ".join(pair) if isinstance(pair, list) else pair for pair in merges]
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode(), ()
