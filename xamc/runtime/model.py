"""A loaded artifact: the Python API of the runtime, described with examples in `docs/runtime.md`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xamc.artifact.loading import check_load
from xamc.artifact.manifest import Manifest
from xamc.artifact.read import Artifact, OnnxArtifact, read_any, read_artifact
from xamc.errors import InputError, MisuseError
from xamc.runtime.answer import Generation
from xamc.runtime.chat import ChatTemplate, Message, template_source
from xamc.runtime.engine import Engine
from xamc.runtime.executor import F32, I64, Executor
from xamc.runtime.executors.registry import open_executor
from xamc.runtime.generate import Events, Stream, generate
from xamc.runtime.generation_words import Request, read_request, without_masked
from xamc.runtime.sequence import check_token_ids
from xamc.runtime.tokenizer import Tokenizer

Prompt = str | Sequence[int] | NDArray[np.integer[Any]]
Batch = Sequence[str] | Sequence[I64] | Sequence[list[int]]


def load(path: str | Path, threads: int | None = None, prefault: bool = False, verify_weights: bool = False) -> Any:
    """Loads an artifact: a `Model` for a language model, a `GraphModel` for a graph.

    `load_language_model` and `load_graph` take one kind and have a type; what the arguments mean stands there.

    Raises:
        XamcError: as they do.
    """
    artifact = read_any(path)
    if isinstance(artifact, OnnxArtifact):
        from xamc.runtime.executors.graph import GraphModel

        return GraphModel(artifact.path, artifact.manifest, threads, verify_weights)
    return _open(artifact, threads, prefault, verify_weights)


def load_language_model(
    path: str | Path, threads: int | None = None, prefault: bool = False, verify_weights: bool = False
) -> Model:
    """Loads the artifact of a language model.

    Args:
        path: the folder that `xamc compile` made.
        threads: threads of the kernels; None takes every CPU of the process's affinity.
        prefault: read all weights from the disk now; else they are read as the first tokens need them. Of the targets
            that map their weights only the CPU's has the choice.
        verify_weights: compare weights of more than 64 MiB with their digest, which takes as long as reading them;
            smaller ones, the tokenizer, the chat templates and the code always are.

    Raises:
        InputError: E15xx and E1611, no artifact or a damaged one; E1640, one of a graph.
        UnsupportedError: E1607, this CPU lacks features; E1610, the artifact is for another kind of machine.
        ToolchainError: E1609, a library is missing or refuses the code.
        MisuseError: E1608, a bad number of threads.
    """
    return _open(read_artifact(path), threads, prefault, verify_weights)


def _open(artifact: Artifact, threads: int | None, prefault: bool, verify_weights: bool) -> Model:
    check_load(artifact, verify_weights)
    return Model(artifact.path, artifact.manifest, open_executor(artifact.path, artifact.manifest, threads, prefault))


class Model:
    """A loaded artifact.

    Calls may come from any thread. They share one KV cache, so one runs at a time: others wait for it, and streams take
    turns step by step.

    Attributes:
        manifest: the artifact's manifest; `manifest.model` is the model's config.
        path: the artifact's folder.
        engine: runs all calls, and sequences that come and go.
    """

    def __init__(self, path: Path, manifest: Manifest, executor: Executor) -> None:
        """Use `load`; this takes an executor of your own, for tests and other targets."""
        self.path = path
        self.manifest = manifest
        self.engine = Engine(executor, manifest, path)
        self._template: tuple[str, ChatTemplate] | None = None

    @property
    def threads(self) -> int:
        """Threads the kernels use."""
        return self.engine.executor.threads

    @property
    def cpu_level(self) -> str | None:
        """The CPU level that the code in use was compiled for; None where no code for a CPU is."""
        return getattr(self.engine.executor, "cpu_level", None)

    @property
    def tokenizer(self) -> Tokenizer:
        """The artifact's tokenizer, read when first used.

        Raises:
            InputError: E1613, the artifact has none.
        """
        return self.engine.tokenizer

    def logits(
        self,
        token_ids: ArrayLike,
        lengths: ArrayLike | None = None,
        positions: Literal["all", "last"] = "all",
    ) -> F32:
        """Logits of token sequences, from an empty KV cache.

        Args:
            token_ids: int64[B, T].
            lengths: int64[B], how many tokens of each right-padded row count (1 to T); None: all.
            positions: "all", or "last" for the last counted token of each row.

        Returns:
            float32[B, T, V], zeros at padding, or float32[B, 1, V].

        Raises:
            InputError: E1602 to E1606; E1622, an embedding model, which has no logits.
            MisuseError: E1612, `positions` is neither of both.
        """
        self.engine.require_logits()
        if positions not in ("all", "last"):
            raise MisuseError("E1612", f"positions is {positions!r}", "it must be 'all' or 'last'")
        return self.engine.logits(_rows(np.asarray(token_ids), lengths), positions == "all")

    def hidden_states(self, token_ids: ArrayLike, lengths: ArrayLike | None = None) -> F32:
        """What an embedding model makes of token sequences: the hidden states after its final norm.

        Args:
            token_ids: int64[B, T]; rows run one after the other.
            lengths: int64[B], how many tokens of each right-padded row count (1 to T); None: all.

        Returns:
            float32[B, T, H], zeros at padding. Which of them is a sequence's embedding, the last one or their mean, and
            whether it is normalized, is the model's own convention.

        Raises:
            InputError: E1602, E1603, E1605; E1623, a model that yields logits.
        """
        if not self.manifest.is_embedding:
            raise InputError(
                "E1623",
                f"{self.manifest.name} yields logits; its hidden states are not an output",
                "use `logits`, or compile an embedding model: for VACC with an empty second list of input_ids",
            )
        rows = _rows(np.asarray(token_ids), lengths)
        states: F32 = np.zeros((len(rows), max(map(len, rows)), self.manifest.output_width), np.float32)
        for index, row in enumerate(rows):
            states[index, : len(row)] = self.engine.logits([row], True)[0]
        return states

    @overload
    def generate(self, prompt: str, max_new_tokens: int | None = None, **options: Any) -> Generation: ...
    @overload
    def generate(self, prompt: I64, max_new_tokens: int | None = None, **options: Any) -> Generation: ...
    @overload
    def generate(self, prompt: Sequence[int], max_new_tokens: int | None = None, **options: Any) -> Generation: ...
    @overload
    def generate(
        self,
        prompt: Batch,
        max_new_tokens: int | None = None,
        **options: Any,
    ) -> list[Generation]: ...
    def generate(
        self,
        prompt: Any = None,
        max_new_tokens: int | None = None,
        *,
        on_text: Callable[[int, str], None] | None = None,
        **options: Any,
    ) -> Generation | list[Generation]:
        """Continues one prompt, or several at once.

        Args:
            prompt: text or token ids, or a list of either for a batch; texts get what the tokenizer puts round a
                text (BOS), token ids are taken as they are.
            max_new_tokens: most tokens of an answer; None: up to the context limit.
            on_text: called with (row, piece of text) as text becomes certain; other calls may run meanwhile.
            **options: fields of `Options` (ignore_eos, stop, temperature, top_k, top_p, repetition_penalty, seed,
                prefix_cache, eos_token_id, min_new_tokens), and the words of transformers' `generate`: do_sample,
                max_length, num_return_sequences and others, see `docs/runtime.md`.

        Returns:
            A `Generation`, or a list of them for a list of prompts or several answers to one.

        Raises:
            InputError: E1602 to E1606, E1613; E1622, an embedding model; E1651, a text that is none.
            MisuseError: E1612, an option that is unknown or means nothing.
            UnsupportedError: E1653, a word of transformers that this runtime can't do.
        """
        prompts, is_batch, request = self._request(prompt, max_new_tokens, options)
        # several answers to a prompt are no batch that a caller could split
        most = self.manifest.max_batch if request.copies > 1 else len(prompts)
        answers: list[Generation] = []
        for first in range(0, len(prompts), most):
            answers += generate(self.engine, prompts[first : first + most], request, on_text, first)
        return answers if is_batch or request.copies > 1 else answers[0]

    def _request(
        self, prompt: Any, max_new_tokens: int | None, words: Mapping[str, Any]
    ) -> tuple[list[I64], bool, Request]:
        """A call's prompts, each as often as answers are wanted; whether they were a list; and what is asked."""
        others = dict(words)
        given = [
            other for other in (prompt, others.pop("inputs", None), others.pop("input_ids", None)) if other is not None
        ]
        if len(given) != 1:
            raise MisuseError("E1612", f"{len(given)} prompts are given", "give one, or one list of them")
        mask = others.pop("attention_mask", None)
        request = read_request(max_new_tokens, others)
        prompts, is_batch = self._prompts(given[0] if mask is None else without_masked(given[0], mask))
        if request.copies > 1 and request.options.temperature == 0:
            raise MisuseError(
                "E1612",
                f"num_return_sequences is {request.copies}, and all of these answers would be the same",
                "give do_sample=True or a temperature above 0",
            )
        return [row for row in prompts for _ in range(request.copies)], is_batch, request

    def fill_cache(self, prompt: Prompt, tokens: int, seed: int = 0) -> int:
        """Caches a prompt's beginning with pseudo-random keys and values instead of computed ones.

        For measuring how fast and how large this is behind contexts whose prefill takes hours: a `generate` of the same
        prompt goes on behind them, as it does behind any prefix that is cached. What it answers means nothing.

        Args:
            prompt: text or token ids.
            tokens: how many of its tokens; whole blocks of the KV cache are filled.
            seed: of the numbers.

        Returns:
            How many tokens of the prompt are cached now, those of earlier calls included.

        Raises:
            InputError: E1602 to E1606, E1613.
            UnsupportedError: E1650, the KV cache is not paged.
        """
        (row, *_), _ = self._prompts(prompt)
        return self.engine.fill(row, tokens, seed)

    def stream(self, prompt: Prompt, max_new_tokens: int | None = None, **options: Any) -> Stream:
        """Like `generate` for one prompt, as an iterator over pieces of text.

        Returns:
            A `Stream`; its `generation` is the finished answer. Errors of the prompt and the options are raised here,
            not by the first piece.

        Raises:
            InputError: E1602 to E1606, E1613.
            MisuseError: E1612.
        """
        prompts, is_batch, request = self._request(prompt, max_new_tokens, options)
        if is_batch or request.copies > 1:
            raise MisuseError("E1612", "stream gives one answer to one prompt", "use generate with on_text for several")
        return Stream(Events(self.engine, prompts, request))

    def chat(
        self,
        messages: Sequence[Message],
        max_new_tokens: int | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> Generation:
        """Answers a conversation.

        Args:
            messages: objects with `role` and `content`, oldest first.
            max_new_tokens: as for `generate`.
            tools: JSON schemas of functions the model may call.
            **options: as for `generate`.

        Raises:
            InputError: E1602 to E1606, E1613, E1614 no chat template, E1615, E1616.
            MisuseError: E1612.
        """
        return self.generate(self.chat_prompt(messages, tools), max_new_tokens, **options)

    def chat_prompt(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        **variables: Any,
    ) -> I64:
        """The token ids of a conversation, up to where the answer begins.

        Args:
            messages: objects with `role` and `content`, oldest first.
            tools: JSON schemas of functions the model may call.
            template: a chat template to use instead of the artifact's, or the name of one of the artifact's. Without
                it, ``tool_use`` is taken for a call with tools where the checkpoint has one, as transformers does.
            **variables: further variables that the template reads.

        Returns:
            int64[T].

        Raises:
            InputError: E1613, E1614, E1615, E1616.
        """
        tokenizer = self.tokenizer  # where there is none, that is what is wrong, not the template
        ids = tokenizer.encode(self.chat_text(messages, tools, template, **variables), add_special_tokens=False)
        if not ids.size:
            raise InputError(
                "E1615", "the chat template makes an empty prompt of these messages", "give messages with content"
            )
        return ids

    def chat_text(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """As `chat_prompt`, the text.

        Args:
            messages: as there.
            tools: as there.
            template: as there.
            add_generation_prompt: whether it ends where the assistant's answer begins.
            **variables: as there.
        """
        tokenizer = self.tokenizer
        source = template_source(self.path, self.manifest.generation, template, tools)
        known = self._template  # another thread may put its own there
        if known is None or known[0] != source:
            known = self._template = (source, ChatTemplate(source, tokenizer.special_tokens))
        return known[1].render(messages, add_generation_prompt, tools, **variables)

    def _prompts(self, prompt: Any) -> tuple[list[I64], bool]:
        """The prompts as checked token ids, and whether a list of them was given."""
        self.engine.require_logits()
        if hasattr(prompt, "__array__"):  # also of other libraries
            prompt = np.asarray(prompt)
        is_text = isinstance(prompt, (str, bytes))
        if not is_text and not hasattr(prompt, "__len__"):
            raise InputError(
                "E1605", f"a prompt can't be a {type(prompt).__name__}", "give text or a list of token ids"
            )
        is_batch = not is_text and len(prompt) > 0 and not isinstance(prompt[0], (int, np.integer))
        items = list(prompt) if is_batch else [prompt]
        rows = [self._encoded(item) if isinstance(item, (str, bytes)) else item for item in items]
        return [check_token_ids(row, self.manifest.model.vocab_size) for row in rows], is_batch

    def _encoded(self, text: str | bytes) -> I64:
        ids = self.tokenizer.encode(text)
        if not ids.size:
            what = "gives no tokens" if text else "is empty, and this model's tokenizer puts no BOS token in front"
            raise InputError("E1605", f"the prompt's text {what}", "give a text with at least a word in it")
        return ids


def _rows(token_ids: NDArray[Any], lengths: ArrayLike | None) -> list[I64]:
    """The counted tokens of each row of int64[B, T].

    Raises:
        InputError: E1605, wrong shapes, types or lengths.
    """
    if token_ids.ndim != 2 or token_ids.size == 0 or token_ids.dtype.kind not in "iu":
        raise InputError(
            "E1605",
            f"token_ids has shape {token_ids.shape} and dtype {token_ids.dtype}",
            "give a non-empty integer array [B, T]; pad short rows on the right and give their lengths",
        )
    counts = np.full(len(token_ids), token_ids.shape[1]) if lengths is None else np.asarray(lengths)
    if counts.shape != (len(token_ids),) or counts.dtype.kind not in "iu":
        raise InputError(
            "E1605",
            f"lengths has shape {counts.shape} and dtype {counts.dtype} for {len(token_ids)} rows",
            "give one integer per row",
        )
    if counts.min() < 1 or counts.max() > token_ids.shape[1]:
        raise InputError(
            "E1605",
            f"lengths go from {counts.min()} to {counts.max()}, rows have {token_ids.shape[1]} tokens",
            "each length must be at least 1 and at most the width of token_ids",
        )
    return [row[:count].astype(np.int64) for row, count in zip(token_ids, counts.tolist())]
