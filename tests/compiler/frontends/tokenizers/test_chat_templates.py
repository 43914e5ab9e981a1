"""Which chat template a folder has, and which one a call takes, against transformers' AutoTokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.compiler.frontends.tokenizer_folders import write_folder
from xamc.artifact.manifest import Generation
from xamc.compiler.frontends.tokenizers.huggingface import TokenizerFiles, tokenizer_files
from xamc.errors import InputError
from xamc.runtime.chat import template_source

TOOLS = [{"type": "function", "function": {"name": "f"}}]
LIST = [{"name": "default", "template": "one"}, {"name": "tool_use", "template": "two"}]
MORE = "additional_chat_templates"
SHAPES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "none": ({}, {}),
    "one": ({"chat_template": "one"}, {}),
    "list": ({"chat_template": LIST}, {}),
    "object": ({"chat_template": {"default": "one", "tool_use": "two"}}, {}),
    "list without default": ({"chat_template": LIST[1:]}, {}),
    "list of others": ({"chat_template": [LIST[0], {"name": "rag", "template": "three"}]}, {}),
    "file": ({}, {"chat_template.jinja": "file"}),
    "file beside a list": ({"chat_template": LIST}, {"chat_template.jinja": "file"}),
    "files": ({}, {"chat_template.jinja": "file", f"{MORE}/tool_use.jinja": "tools"}),
    "files beside one": ({"chat_template": "one"}, {f"{MORE}/tool_use.jinja": "tools"}),
    "a default among them": ({}, {"chat_template.jinja": "file", f"{MORE}/default.jinja": "other"}),
    "null": ({"chat_template": None}, {}),
}


def opened(folder: Path) -> TokenizerFiles:
    config: Any = SimpleNamespace(model_type="llama", vocab_size=4096)
    return tokenizer_files(folder, config)


def chosen(files: TokenizerFiles, folder: Path, wanted: str | None, tools: Any) -> str | None:
    """The template that the runtime takes of an artifact with these files; None for none."""
    target = folder / "artifact"
    target.mkdir(exist_ok=True)
    named = {}
    for name, source in files.named_templates.items():
        (target / name).write_text(source)
        named[name] = name
    if files.chat_template is not None:
        (target / "default").write_text(files.chat_template)
    generation = Generation(None, (), None if files.chat_template is None else "default", named)
    try:
        return template_source(target, generation, wanted, tools)
    except InputError as error:
        assert error.code == "E1614"
        return None


@pytest.mark.parametrize("shape", SHAPES)
def test_the_template_is_the_one_that_transformers_takes(shape: str, tmp_path: Path) -> None:
    settings, more = SHAPES[shape]
    folder = write_folder(tmp_path / "x", "word_level", None, settings, more)
    files, theirs = opened(folder), AutoTokenizer.from_pretrained(folder)
    for wanted in (None, "tool_use", "rag", "{{ own }}"):
        for tools in (None, [], TOOLS):
            try:
                want = theirs.get_chat_template(wanted, tools)
            except ValueError:
                want = None
            assert chosen(files, folder, wanted, tools) == want, (wanted, tools)
    again = tmp_path / "again"  # what is handed on
    again.mkdir()
    for name, content in files.files.items():
        (again / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    assert AutoTokenizer.from_pretrained(again).chat_template == theirs.chat_template
    read = {path for path in files.sources if path.suffix == ".jinja"}
    assert read <= {folder / name for name in more} and bool(read) == bool(more)


def test_a_processors_template_is_the_last_resort(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "x", "word_level", None, {}, {"chat_template.json": {"chat_template": "own"}})
    assert opened(folder).chat_template == "own"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "one"}))
    assert opened(folder).chat_template == "one"


@pytest.mark.parametrize("value", [3, [{"name": "default"}], ["x"], [{"name": "a/b", "template": "x"}], {"default": 3}])
def test_what_is_no_template_is_named(value: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"E1134.*chat"):
        opened(write_folder(tmp_path / "x", "word_level", None, {"chat_template": value}))
