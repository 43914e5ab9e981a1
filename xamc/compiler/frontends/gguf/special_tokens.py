"""Which tokens of a GGUF file have a meaning of their own, by llama.cpp's rules.

A GGUF file names one end of sequence, and often not the token that ends a turn: llama.cpp also knows ends by their
text, and gives such tokens the type they should have had, so that they are one token of a prompt and stand in no
answer. A special id outside of the vocabulary is how some converters write "none".

Source of the rules: llama.cpp's ``llama_vocab::impl::load``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xamc.compiler.frontends.tokenizers.bpe import CONTROL, NORMAL, USER_DEFINED
from xamc.errors import InputError

# A token with one of these texts ends a generation.
ENDS = frozenset({
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
    "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[", "<|ifm|im_end|>",
})  # fmt: skip
# Tokens for filling in the middle, which are found by their text where no key names them: key → texts.
_FILL_IN: Mapping[str, tuple[str, ...]] = {
    "fim_pre": ("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>",
                "<|code_prefix|>", "<|prefix|>", "<|plamo:fim_prefix|>"),
    "fim_suf": ("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>",
                "<|code_suffix|>", "<|suffix|>", "<|plamo:fim_suffix|>"),
    "fim_mid": ("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>",
                "<|code_middle|>", "<|middle|>", "<|plamo:fim_middle|>"),
    "fim_pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep": ("<|file_sep|>", "<|plamo:file_separator|>"),
}  # fmt: skip
# What such keys were called before.
_OLD_NAMES = {"fim_pre": "prefix", "fim_suf": "suffix", "fim_mid": "middle"}
# The fill-in tokens that end a generation as well.
_FILL_IN_ENDS = ("fim_pad", "fim_rep", "fim_sep")
# Tokens that structure an answer and must be seen in it.
_SHOWN = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")


@dataclass(frozen=True)
class SpecialTokens:
    """The ids and types of a GGUF file's tokens after llama.cpp's rules.

    Attributes:
        bos, eos, unknown, padding: ids, None where there is none.
        ends: every id that ends a generation, the end of sequence first.
        types: the type of each token; see `xamc.compiler.frontends.tokenizers.bpe`.
        warnings: ids that count as absent and types that are changed; one sentence each.
    """

    bos: int | None
    eos: int | None
    unknown: int | None
    padding: int | None
    ends: tuple[int, ...]
    types: tuple[int, ...]
    warnings: tuple[str, ...]


def read_special_tokens(
    metadata: Mapping[str, Any], path: Path, tokens: Sequence[str], types: Sequence[int]
) -> SpecialTokens:
    """The special tokens of a vocabulary.

    Args:
        metadata: of the GGUF file.
        path: the file, for messages.
        tokens: the vocabulary's texts by id.
        types: the types that the file gives them.

    Raises:
        InputError: E1134, an id that is no integer.
    """
    # SentencePiece's customary ids, where no key says otherwise
    customary = {"bos": 1, "eos": 2, "unknown": 0} if metadata.get("tokenizer.ggml.model") == "llama" else {}
    warnings: list[str] = []

    def read(name: str) -> int | None:
        key = f"tokenizer.ggml.{name}_token_id"
        value = metadata.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise InputError("E1134", f"{path}: {key} is {value!r}", "convert the model again with a current llama.cpp")
        if value is not None and 0 <= value < len(tokens):
            return value
        if value is not None:
            warnings.append(f"{path}: {key} {value} is no token of the vocabulary and counts as absent")
        default = customary.get(name)
        return default if default is not None and default < len(tokens) else None

    index = {token: number for number, token in enumerate(tokens)}
    ids = {name: read(name) for name in ("bos", "eos", "eot", "eom", "unknown", "padding")}
    controls = {index[text] for text in ENDS if text in index}
    ends = set(controls)
    for name, texts in _FILL_IN.items():
        number = read(name)
        if (old := _OLD_NAMES.get(name)) and (renamed := read(old)) is not None:
            number = renamed
        if number is None and (found := [index[text] for text in texts if text in index]):
            number = found[0]
            controls.add(number)
        if number is not None and name in _FILL_IN_ENDS:
            ends.add(number)
    ends |= {number for name in ("eos", "eot", "eom") if (number := ids[name]) is not None}
    changed = list(types)
    for number in controls:
        changed[number] = CONTROL
    for number in (index[text] for text in _SHOWN if text in index):
        changed[number] = USER_DEFINED
    for text, kind in _no_ends(index, ends):
        ends.discard(index[text])
        changed[index[text]] = kind
    if other := [tokens[number] for number in range(len(tokens)) if changed[number] != types[number]]:
        shown = ", ".join(map(repr, other[:8])) + (f" and {len(other) - 8} more" if len(other) > 8 else "")
        warnings.append(f"{path}: {shown}: not of the type that tokenizer.ggml.token_type says, as in llama.cpp")
    first = [number for name in ("eos", "eot", "eom") if (number := ids[name]) in ends and number is not None]
    ordered = dict.fromkeys([*first, *sorted(ends)])
    return SpecialTokens(
        ids["bos"], ids["eos"], ids["unknown"], ids["padding"], tuple(ordered), tuple(changed), tuple(warnings)
    )


def _no_ends(index: Mapping[str, int], ends: set[int]) -> list[tuple[str, int]]:
    """Texts that look like an end and are none in this vocabulary, with the type of their token."""
    found = {text for text in index if index[text] in ends}
    result = []
    # Harmony and Solar: <|end|> closes one message of an answer, other tokens the answer.
    calls = found & {"<|call|>", "<|calls|>"}
    if "<|end|>" in found and calls and found & {"<|return|>", "<|flush|>"}:
        result.append(("<|end|>", USER_DEFINED))
    if "</s>" in found and found & {"<|tool_response>", "<|plamo:eos|>"}:
        result.append(("</s>", NORMAL))
    return result
