"""Chat templates and stop tokens of the families whose checkpoints keep them in Python files, which are never run.

InternLM 1: ``<|User|>:...<eoh>`` and ``<|Bot|>:...<eoa>`` (build_inputs of its modeling_internlm.py). InternLM 2, 2.5
and 3: ``<|im_start|>role`` and ``<|im_end|>``, which the first files of InternLM 2 call ``[UNUSED_TOKEN_146]`` and
``[UNUSED_TOKEN_145]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from xamc.model.config import ModelConfig

_INTERNLM = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<|User|>:' + message['content'] + '<eoh>\\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ '<|Bot|>:' + message['content'] + '<eoa>\\n' }}"
    "{% else %}{{ '<|System|>:' + message['content'] + '\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|Bot|>:' }}{% endif %}"
)
_CHATML = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ 'START' + message['role'] + '\\n' + message['content'] + 'END\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'STARTassistant\\n' }}{% endif %}"
)
_CHATML_TOKENS = (("<|im_start|>", "<|im_end|>"), ("[UNUSED_TOKEN_146]", "[UNUSED_TOKEN_145]"))
# model_type → template, and pairs of tokens, one of which the vocabulary has: in the template START, and END of a turn
_DEFAULTS: Mapping[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "internlm": (_INTERNLM, (("<eoh>", "<eoa>"),)),
    "internlm2": (_CHATML, _CHATML_TOKENS),
    "internlm3": (_CHATML, _CHATML_TOKENS),
}


@dataclass(frozen=True)
class ChatDefaults:
    """What a family's chat models use when the checkpoint doesn't say.

    Attributes:
        template: Jinja source.
        stop: the id that ends the assistant's turn.
    """

    template: str
    stop: int


def chat_defaults(model_type: str, ids: Mapping[str, int]) -> ChatDefaults | None:
    """The defaults of a family, or None where it has none or the vocabulary lacks its tokens.

    Args:
        model_type: of config.json.
        ids: token → id.
    """
    template, tokens = _DEFAULTS.get(model_type, ("", ()))
    for start, end in tokens:
        if start in ids and end in ids:
            return ChatDefaults(template.replace("START", start).replace("END", end), ids[end])
    return None


def with_stop(config: ModelConfig, stop: int) -> ModelConfig:
    """`config` with `stop` among the ids that end an answer."""
    if stop in config.eos_token_ids:
        return config
    return replace(config, eos_token_ids=(*config.eos_token_ids, stop))
