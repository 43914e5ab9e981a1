"""`pipeline("text-generation", model=...)`: an artifact behind the call and the results of transformers' pipeline.

Follows `TextGenerationPipeline` of transformers 5: what goes in, what comes out, its defaults. The options of
`generate` are those of `xamc.runtime.generation_words`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from xamc.errors import InputError, MisuseError, UnsupportedError
from xamc.runtime.answer import Generation
from xamc.runtime.chat import Message
from xamc.runtime.executor import I64
from xamc.runtime.generation_words import is_word
from xamc.runtime.model import Model, load_language_model
from xamc.runtime.tokenizer import checked_text

TASKS = ("text-generation",)
_DEFAULTS: Mapping[str, Any] = {"max_new_tokens": 256, "do_sample": True, "temperature": 0.7}
"""What transformers' pipeline asks for where the call says nothing."""
_OF_LOADING = frozenset(
    {"device", "device_map", "torch_dtype", "dtype", "framework", "revision", "use_fast", "token", "trust_remote_code"}
    | {"tokenizer", "config", "feature_extractor", "image_processor", "processor", "model_kwargs", "pipeline_class"}
)
"""Arguments of transformers' function that say how to load a model; an artifact has settled them."""
_WORDS = (
    *("return_full_text", "return_text", "return_tensors", "clean_up_tokenization_spaces", "continue_final_message"),
    *("prefix", "add_special_tokens", "skip_special_tokens", "tools", "batch_size", "stop_sequence"),
)
_MARK = "CONTINUE_FINAL_MESSAGE_TAG "  # with a space: a template that strips messages takes it away
# `clean_up_tokenization` of transformers, in its order
_SPACES = (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m")
_MORE_SPACES = (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")


def pipeline(
    task: str | None = None,
    model: str | Path | Model | None = None,
    *,
    threads: int | None = None,
    batch_size: int = 1,
    **options: Any,
) -> TextGenerationPipeline:
    """An artifact that is called as transformers' pipelines are.

    Args:
        task: "text-generation", or None for it.
        model: an artifact's folder, or a loaded `Model`.
        threads: as for `load_language_model`.
        batch_size: how many prompts of a list run at once.
        **options: of every call, as for `TextGenerationPipeline.__call__`. How transformers would load a model (device,
            dtype and so on) is accepted and without effect.

    Raises:
        UnsupportedError: E1653, another task.
        MisuseError: E1612, no model.
        XamcError: as `load_language_model`.
    """
    if task not in (None, *TASKS):
        raise UnsupportedError(
            "E1653", f"the task {task!r} is not one that artifacts run here", f"give {' or '.join(map(repr, TASKS))}"
        )
    if model is None:
        raise MisuseError("E1612", "pipeline has no model", "give an artifact's folder: model=PATH")
    loaded = model if isinstance(model, Model) else load_language_model(model, threads)
    kept = {name: value for name, value in options.items() if name not in _OF_LOADING}
    return TextGenerationPipeline(loaded, batch_size, kept)


class TextGenerationPipeline:
    """Continues texts and conversations.

    Attributes:
        task: "text-generation".
        model: the loaded artifact.
        tokenizer: its tokenizer.
    """

    task = "text-generation"

    def __init__(self, model: Model, batch_size: int = 1, options: Mapping[str, Any] | None = None) -> None:
        """Use `pipeline`."""
        self.model = model
        self.tokenizer = model.tokenizer
        self._batch_size = batch_size
        self._options = dict(options or {})

    def __call__(self, text_inputs: Any, **options: Any) -> Any:
        """Continues one input, a list of them, or those that a generator gives.

        Args:
            text_inputs: a text; a conversation, a list of objects with `role` and `content`; or several of either.
            **options: return_full_text (True; False gives the answer alone), return_text, return_tensors (the token ids
                of prompt and answer in place of text), clean_up_tokenization_spaces, continue_final_message, prefix,
                add_special_tokens, stop_sequence, skip_special_tokens, tools, batch_size, and what `Model.generate`
                takes. Of sampling and length transformers' defaults hold: do_sample=True, temperature=0.7,
                max_new_tokens=256 (as far as the context has room).

        Returns:
            For one input a list with a ``{"generated_text": ...}`` per answer, for several a list of such lists, for a
            generator an iterator over them. The text of a conversation is the conversation with the answer.

        Raises:
            InputError, MisuseError, UnsupportedError: as `Model.generate`.
        """
        call = _Call(self.model, {**self._options, **options})
        size = call.batch_size or self._batch_size
        if _is_single(text_inputs):
            return call.run([text_inputs])[0]
        if isinstance(text_inputs, (list, tuple)):
            return [result for part in _parts(text_inputs, size) for result in call.run(part)]
        return (result for item in text_inputs for result in call.run([item]))


def _is_single(inputs: Any) -> bool:
    if isinstance(inputs, (str, bytes)):
        return True
    return isinstance(inputs, (list, tuple)) and bool(inputs) and isinstance(inputs[0], Mapping)


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


class _Call:
    """The options of one call, told apart from those of `generate`."""

    def __init__(self, model: Model, options: dict[str, Any]) -> None:
        self._model = model
        take = options.pop
        self.batch_size: int | None = take("batch_size", None)
        full, text = take("return_full_text", None), take("return_text", None)
        self._tensors = bool(take("return_tensors", None))
        if full is not None and (text is not None or self._tensors):
            raise MisuseError(
                "E1612", "return_full_text is given with return_text or return_tensors", "they exclude each other"
            )
        if text is not None and self._tensors:
            raise MisuseError("E1612", "return_text and return_tensors are both given", "they exclude each other")
        self._full = full is None or bool(full)
        self._cleans = take("clean_up_tokenization_spaces", None) is not False
        self._continues = take("continue_final_message", None)
        self._prefix: str = take("prefix", None) or ""
        self._adds_special = take("add_special_tokens", None)
        self._skips_special = take("skip_special_tokens", None) is not False
        self._tools = take("tools", None)
        for name in ("handle_long_generation", "documents", "tokenizer_encode_kwargs", "truncation", "padding"):
            if take(name, None) not in (None, False, {}):
                raise UnsupportedError(
                    "E1653", f"{name} is a word of transformers' pipeline that this one can't do", ""
                )
        stop = take("stop_sequence", None)
        for name in options:
            near = [] if is_word(name) else get_close_matches(name, _WORDS, 1)
            if near:
                raise MisuseError("E1612", f"{name} is no option", f"did you mean {near[0]}?")
        if stop is not None:  # transformers takes the first of its tokens, and the others too
            options.setdefault("eos_token_id", model.tokenizer.encode(stop, add_special_tokens=False).tolist())
        self._options = options

    def run(self, inputs: Sequence[Any]) -> list[list[dict[str, Any]]]:
        """The results of each input."""
        prompts = [self._prompt(item) for item in inputs]
        options = self._defaults(max(map(len, prompts))) | self._options
        answers = self._model.generate([prompt.tolist() for prompt in prompts], **options)
        copies = len(answers) // len(inputs)
        return [
            [self._record(item, prompt, answer) for answer in answers[at * copies : (at + 1) * copies]]
            for at, (item, prompt) in enumerate(zip(inputs, prompts))
        ]

    def _defaults(self, longest: int) -> dict[str, Any]:
        values = dict(_DEFAULTS)
        given = self._options
        config = given.get("generation_config")
        if config is not None:  # it says all there is to say, in transformers too
            values = {}
        if given.get("max_new_tokens") is not None or given.get("max_length") is not None:
            values.pop("max_new_tokens", None)
        elif "max_new_tokens" in values:
            values["max_new_tokens"] = max(
                1, min(values["max_new_tokens"], self._model.manifest.context_limit - longest)
            )
        if given.get("do_sample") is None and given.get("temperature") == 0:
            values["do_sample"] = False
        return values

    def _prompt(self, item: Any) -> I64:
        if isinstance(item, (str, bytes)):
            text = checked_text(item)
            special = True if self._adds_special is None else bool(self._adds_special)
            return self._model.tokenizer.encode(self._prefix + text, add_special_tokens=special)
        if self._is_continued(item):
            return self._model.tokenizer.encode(self._unfinished(item), add_special_tokens=False)
        return self._model.chat_prompt(item, self._tools)

    def _unfinished(self, messages: Sequence[Message]) -> str:
        """A conversation up to the last character of its last message, without what a template puts behind one."""
        last = messages[-1].get("content")
        if not isinstance(last, str):
            raise InputError(
                "E1616",
                "the last message has no text to go on from",
                "give it content, or continue_final_message=False",
            )
        marked = [*messages[:-1], {**messages[-1], "content": last + _MARK}]
        whole = self._model.chat_text(marked, self._tools, add_generation_prompt=False)
        text, found, _ = whole.rpartition(_MARK.strip())
        if not found or last.strip() not in text:
            raise InputError(
                "E1615",
                "the chat template leaves out the last message, which the answer is to go on from",
                "give continue_final_message=False, or a conversation that ends with the user",
            )
        return text if whole.startswith(_MARK, len(text)) else text.rstrip()

    def _is_continued(self, messages: Sequence[Message]) -> bool:
        """A conversation that ends with the assistant's words is taken as the beginning of the answer."""
        if self._continues is not None:
            return bool(self._continues)
        return isinstance(messages[-1], Mapping) and messages[-1].get("role") == "assistant"

    def _record(self, item: Any, prompt: I64, answer: Generation) -> dict[str, Any]:
        if self._tensors:
            return {"generated_token_ids": [*prompt.tolist(), *answer.token_ids]}
        text = (
            answer.text
            if self._skips_special
            else self._model.tokenizer.decode(answer.token_ids, skip_special_tokens=False)
        )
        if self._cleans:
            for before, after in (*_SPACES, *_MORE_SPACES):
                text = text.replace(before, after)
        if not self._full:
            return {"generated_text": text}
        if isinstance(item, (str, bytes)):
            return {"generated_text": checked_text(item) + text}
        if self._is_continued(item):
            last = {"role": item[-1]["role"], "content": item[-1]["content"] + text}
            return {"generated_text": [*item[:-1], last]}
        return {"generated_text": [*item, {"role": "assistant", "content": text}]}
