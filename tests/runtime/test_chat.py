"""Chat templates against transformers' apply_chat_template, and templates that mean harm."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from xamc.errors import InputError
from xamc.runtime import template_sandbox
from xamc.runtime.chat import ChatTemplate

SPECIAL = {"bos_token": "<bos>", "eos_token": "<eos>"}

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
# The constructions of the newest templates: namespaces, macros, tojson of tools, loop controls, blocks on lines of
# their own (trim_blocks, lstrip_blocks), the generation tag, slices, string methods, filters and tests.
MODERN = (Path(__file__).parent / "templates" / "modern.jinja").read_text(encoding="utf-8")

# A list that is small in memory and 2^64 parts when written out.
NESTED = "{% set ns = namespace(x=[]) %}{% for i in range(64) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"

BIG = "{% set b = 'a' * 8000000 %}"

CONVERSATIONS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": 'Hello <world> & "you"'}],
    [
        {"role": "system", "content": "You are 你好."},
        {"role": "user", "content": " Hi "},
        {"role": "assistant", "content": "<think>hm</think>\n\nAnswer"},
        {"role": "user", "content": "Again\n"},
    ],
]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]


@pytest.fixture(scope="module")
def hf_tokenizer(tokenizer: Any) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


@pytest.mark.parametrize("template", [CHATML, LLAMA2, MODERN], ids=["chatml", "llama2", "modern"])
@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=["one", "four"])
@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["plain", "tools"])
def test_text_is_that_of_transformers(
    hf_tokenizer: PreTrainedTokenizerFast,
    template: str,
    conversation: list[dict[str, Any]],
    add_generation_prompt: bool,
    tools: list[dict[str, Any]] | None,
) -> None:
    want = hf_tokenizer.apply_chat_template(
        conversation,
        tools=tools,
        chat_template=template,
        add_generation_prompt=add_generation_prompt,
        tokenize=False,
        enable_thinking=False,
    )
    got = ChatTemplate(template, SPECIAL).render(conversation, add_generation_prompt, tools, enable_thinking=False)
    assert got == want


def test_the_day_can_be_asked_for() -> None:
    assert ChatTemplate("{{ strftime_now('%Y') }}").render(CONVERSATIONS[0]) == time.strftime("%Y")


def test_a_template_that_refuses_speaks_for_itself() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    with pytest.raises(InputError, match=r"E1615 .*Conversation roles must alternate"):
        ChatTemplate(LLAMA2, SPECIAL).render(turns)


@pytest.mark.parametrize(
    "source",
    [
        "{% for %}",
        "{{ messages",
        "{{ x | nosuchfilter }}",
        "{% include 'file' %}",
        "{{ 1 / 0 }}",
        "{{ nothing.there }}",
    ],
)
def test_wrong_templates_are_input_errors(source: str) -> None:
    with pytest.raises(InputError, match="E1615"):
        ChatTemplate(source).render(CONVERSATIONS[0])


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ raise_exception.__globals__ }}",
        "{{ messages.__init__.__globals__['os'] }}",
        "{{ self._TemplateReference__context }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ ''|attr('__class__') }}",
        "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    ],
)
def test_the_sandbox_gives_nothing_away(source: str) -> None:
    try:
        text = ChatTemplate(source).render(CONVERSATIONS[0])
    except InputError as error:
        assert error.code == "E1615"
    else:  # Jinja gives an undefined value, which prints as nothing, for some of them
        assert text == ""


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10 ** 10 }}",
        "{{ 10 ** 10 * 'a' }}",
        "{{ [0] * 10 ** 9 }}",
        "{{ 9 ** (9 ** 9) }}",
        "{{ range(10 ** 9) | list }}",
        "{{ 'a'.ljust(10 ** 10) }}",
        "{{ 'a'.center(10 ** 10) }}",
        "{{ 'a' | center(10 ** 10) }}",
        "{{ '%10000000000d' % 1 }}",
        "{{ '%*d' % (10 ** 9, 1) }}",
        "{{ '{:10000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 10 ** 9) }}",
        "{{ ('a' * 4000000).replace('a', 'b' * 4000000) }}",
        "{{ ('a' * 4000000) | replace('a', 'b' * 4000000) }}",
        "{{ (range(100000) | list) | join('b' * 1000000) }}",
        "{{ ('b' * 1000000).join(range(100000) | map('string') | list) }}",
        "{{ ('\n' * 4000000) | indent(1000) }}",
        "{% set ns = namespace(x='a') %}{% for i in range(64) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x='a') %}{% for i in range(64) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        NESTED + "{{ ns.x }}",
        NESTED + "{{ ns.x | tojson }}",
        NESTED + "{{ ns.x | string }}",
        "{% set b = 'a' * 8000000 %}{% set x %}{% for i in range(100000) %}{{ b }}{% endfor %}{% endset %}{{ x }}",
        "{% for i in range(100000) %}{{ 'a' * 1000 }}{% endfor %}",
        "{{ (1).to_bytes(10 ** 10) }}",
        "{{ ('b' * 1000000).join(range(100000) | map('string')) }}",
        BIG + "{{ [b] * 1000 }}",
        BIG + "{{ ([b] * 1000) | join }}",
        BIG + "{{ ''.join([b] * 1000) }}",
        BIG + "{{ ([b] * 1000) | tojson }}",
        BIG + "{{ ([b] * 1000) | string }}",
        BIG + "{{ ('%(x)s' * 1000) % {'x': b} }}",
        BIG + "{{ ('{0}' * 1000).format(b) }}",
        BIG + "{{ ('{x}' * 1000).format(x=b) }}",
        BIG + "{{ ('%s' * 3) | format(b, b, b) }}",
        BIG + "{{ 'aaaaaaaa'.translate({97: b}) }}",
        BIG + "{% set n = namespace(l=[]) %}{% for i in range(9999) %}{% set n.l = n.l + [b[i:]] %}{% endfor %}",
        BIG + "{% set n = namespace(l=[]) %}{% for i in range(9999) %}{% set n.l = n.l + [b.upper()] %}{% endfor %}",
        BIG + "{% set n = namespace(l=[]) %}{% for i in range(9999) %}{% set n.l = n.l + [b | upper] %}{% endfor %}",
        BIG + "{% set n = namespace(l=[]) %}{% for i in range(9999) %}{% set n.l = n.l + [b ~ i] %}{% endfor %}",
        "{{ messages | tojson(indent=1000000000) }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ lipsum(n=1000000000) }}",
        "{{ '(' * 100000 }}" + "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    ],
)
def test_templates_that_would_use_up_the_machine(source: str) -> None:
    started = time.process_time()  # not wall time, which is the machine's affair
    with pytest.raises(InputError, match="E1615"):
        ChatTemplate(source).render(CONVERSATIONS[0])
    assert time.process_time() - started < 4


def test_a_rendering_that_gives_up_leaves_the_next_alone() -> None:
    template = ChatTemplate("{{ 'a' * (messages | length) * 4000000 }}")
    for _ in range(3):
        assert len(template.render(CONVERSATIONS[0])) == 4_000_000
        with pytest.raises(InputError, match="8 MiB"):
            template.render(CONVERSATIONS[1])


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
        "{{a}}" * 50_000,
    ],
)
def test_endless_templates_are_stopped(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setattr(template_sandbox, "SECONDS", 0.3)
    started = time.process_time()  # not wall time, which is the machine's affair
    with pytest.raises(InputError, match=r"E1615.*longer than 0\.3 s"):
        ChatTemplate(source).render(CONVERSATIONS[0])
    assert time.process_time() - started < 3


def test_large_templates_are_refused_unread() -> None:
    with pytest.raises(InputError, match=r"E1615.*256 KiB"):
        ChatTemplate("a" * 300_000)


@pytest.mark.parametrize("template", [CHATML, MODERN.replace("loop.index > 4", "false")], ids=["chatml", "modern"])
def test_a_long_conversation_is_no_bomb(template: str) -> None:
    roles = ("user", "assistant")
    conversation = [{"role": roles[index % 2], "content": "word " * 400} for index in range(1000)]
    text = ChatTemplate(template, SPECIAL).render(conversation)
    assert text.count("word") >= 400_000
