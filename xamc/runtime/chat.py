"""Chat templates: the Jinja program of a checkpoint that turns messages into a prompt.

A template is foreign code. It runs in Jinja's immutable sandbox with the extras that transformers gives it and nothing
else, and with bounds on its size, its time and what it makes (`xamc.runtime.template_sandbox`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xamc.errors import InputError
from xamc.runtime.tokenizer import checked_text

if TYPE_CHECKING:
    from xamc.artifact.manifest import Generation

Message = Mapping[str, Any]

_DEFAULT, _TOOL_USE = "default", "tool_use"

TEMPLATE_BYTES = 256 * 1024
_FIX = "give a template of your own with --chat-template FILE, or use `xamc run` with a plain prompt"


class ChatTemplate:
    """A checked, compiled chat template."""

    def __init__(self, source: str, special_tokens: Mapping[str, str] | None = None) -> None:
        """Compiles a template.

        Args:
            source: the template's text.
            special_tokens: names such as ``bos_token`` to their text.

        Raises:
            InputError: E1615, too large or not a Jinja template; E1651, not text.
        """
        # Imported here: a run on a plain prompt does without Jinja.
        from xamc.runtime.template_sandbox import BoundedEnvironment, TemplateProblem

        if len(checked_text(source, "the chat template").encode()) > TEMPLATE_BYTES:
            raise InputError("E1615", f"the chat template has more than {TEMPLATE_BYTES // 1024} KiB", _FIX)
        environment = BoundedEnvironment()
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self._special_tokens = dict(special_tokens or {})
        try:
            self._template = environment.compile_bounded(source)
        except TemplateProblem as problem:
            raise InputError("E1615", f"the chat template is not valid: {problem}", _FIX) from problem

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The prompt for a conversation.

        Args:
            messages: objects with `role` and `content`, oldest first.
            add_generation_prompt: whether the prompt ends where the assistant's answer begins.
            tools: JSON schemas of functions the model may call.
            variables: further variables that the template reads, such as ``enable_thinking``.

        Raises:
            InputError: E1616, malformed messages; E1615, the template refuses them, fails or exceeds its bounds.
        """
        from xamc.runtime.template_sandbox import TemplateProblem

        check_messages(messages)
        values = {
            **self._special_tokens,
            "messages": [dict(message) for message in messages],
            "tools": None if tools is None else [dict(tool) for tool in tools],
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **variables,
        }
        try:
            return self._template.render_bounded(values)
        except TemplateProblem as problem:
            raise InputError("E1615", f"the chat template failed: {problem}", _FIX) from problem


def template_source(
    folder: Path, generation: Generation, wanted: str | None, tools: Sequence[Mapping[str, Any]] | None
) -> str:
    """The source of the template that a prompt is made with, chosen as transformers chooses.

    Args:
        folder: the artifact.
        generation: of its manifest.
        wanted: a template of the caller's, or the name of one of the artifact's; None: ``tool_use`` where tools are
            given and there is one, else ``default``.
        tools: those of the call.

    Raises:
        InputError: E1614, the artifact has no such template.
    """
    files = dict(generation.named_templates)
    if generation.chat_template is not None:
        files[_DEFAULT] = generation.chat_template
    if wanted is None:
        wanted = _TOOL_USE if tools is not None and _TOOL_USE in files else _DEFAULT
    elif wanted not in files:
        return wanted
    if wanted not in files:
        have = (
            f"its templates are {', '.join(sorted(files))}, and none is the default"
            if files
            else "the checkpoint brought no chat template, so it is likely not a chat model"
        )
        fix = "use `xamc run` with a plain prompt, or give a template with --chat-template FILE"
        raise InputError("E1614", have, f"name one: template={min(files)!r}" if files else fix)
    return (folder / files[wanted]).read_text(encoding="utf-8")


def check_messages(messages: object) -> None:
    """Refuses what is no conversation.

    Raises:
        InputError: E1616.
    """
    fix = 'give messages such as [{"role": "user", "content": "Hello"}]'
    if isinstance(messages, (str, bytes)) or not isinstance(messages, Sequence) or not messages:
        raise InputError("E1616", "messages must be a non-empty list", fix)
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InputError("E1616", f"message {index} is no object with a role", fix)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike Jinja's own filter this one escapes no HTML; the same as transformers gives to templates."""
    from xamc.runtime.template_sandbox import checked

    if isinstance(indent, int) and indent > 16:
        raise ValueError("tojson: indent above 16")
    return json.dumps(
        checked(value), ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format[:64])


def _raise_exception(message: object) -> None:
    from jinja2.exceptions import TemplateError

    raise TemplateError(str(message))
