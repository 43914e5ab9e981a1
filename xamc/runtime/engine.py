"""The engine: sequences that come and go between steps, each with options of its own, in the slots of one KV cache.

A model has one KV cache, so one piece of work runs at a time, whatever threads it comes from: `Engine.run` lets others
wait. `generate`, `stream` and `chat` are clients of it that take slots while they run; between two steps their
sequences may have to give them to others, which costs time and changes no token.
"""

from __future__ import annotations

import weakref
from collections import abc
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from xamc.artifact.manifest import Manifest
from xamc.errors import InputError, MisuseError, UnsupportedError
from xamc.runtime.answer import Answer, FinishReason, limits_of
from xamc.runtime.executor import F32, I64, Executor
from xamc.runtime.generation_words import Request, read_request
from xamc.runtime.ngram_drafts import NgramDrafts
from xamc.runtime.prefill import feed_chunk, feed_prompts
from xamc.runtime.process_lock import ProcessLock
from xamc.runtime.sampling import Sampler
from xamc.runtime.sequence import Group, Sequence, check_token_ids
from xamc.runtime.slots import Slots
from xamc.runtime.tokenizer import Tokenizer, checked_text

T = TypeVar("T")

_REFUSALS = (InputError, MisuseError, UnsupportedError)
"""What is raised before anything runs."""


@dataclass(frozen=True)
class Produced:
    """What a step made of one answer.

    Attributes:
        answer: which.
        token_ids: tokens chosen in this step.
        text: the text that became certain; together with that of other steps it is `answer.text`.
        finish_reason: why the answer ended; None if it goes on.
    """

    answer: Answer
    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason | None


class Engine:
    """Runs the sequences of a loaded artifact.

    Its methods may be called from any thread. An answer that nobody holds any more is closed.
    """

    def __init__(self, executor: Executor, manifest: Manifest, folder: Path) -> None:
        """Use `Model.engine`.

        Args:
            executor: runs the model.
            manifest: the artifact's.
            folder: the artifact's.
        """
        self.executor = executor
        self._manifest = manifest
        self._folder = folder / manifest.tokenizer
        self._tokenizer: Tokenizer | None = None
        self._slots = Slots(executor, manifest)
        self._lock = ProcessLock(manifest.name, executor.threads)
        self._is_whole = True
        self._open: weakref.WeakValueDictionary[int, Answer] = weakref.WeakValueDictionary()
        self._numbers = count()

    @property
    def slots(self) -> int:
        """How many answers can be open at once; 1 where a target's graphs take one sequence."""
        return self._slots.count

    @property
    def answers(self) -> list[Answer]:
        """Those that are open, in the order in which they were opened."""
        return list(self._open.values())

    @property
    def tokenizer(self) -> Tokenizer:
        """The artifact's tokenizer, read when first used.

        Raises:
            InputError: E1613, the artifact has none.
        """
        if self._tokenizer is None:
            self._tokenizer = Tokenizer(self._folder)
        return self._tokenizer

    def open(self, prompt: object, max_new_tokens: int | None = None, **options: Any) -> Answer:
        """Begins an answer; the next step computes the first of it.

        Args:
            prompt: int64[T], token ids.
            max_new_tokens: most tokens of the answer; None: up to the context limit.
            **options: of this answer, as for `Model.generate`.

        Raises:
            InputError: E1602, E1603 or E1605, a bad or too long prompt; E1604, all slots are taken; E1606, memory can't
                hold one more; E1622, an embedding model.
            MisuseError: E1612, an option that is unknown or means nothing.
            UnsupportedError: E1653, a word of transformers that this runtime can't do.
        """
        self.require_logits()
        request = read_request(max_new_tokens, options)
        if request.copies > 1:
            raise MisuseError("E1612", "open begins one answer", "open several with num_return_sequences left out")
        ids = check_token_ids(prompt, self._manifest.model.vocab_size)
        return self.run(lambda: self._admit(ids, request))

    def step(self, answers: abc.Sequence[Answer] | None = None) -> list[Produced]:
        """Lets answers go on: each by a token, or by a chunk of its prompt.

        Args:
            answers: which of those that are open; None: all. Those that have ended or are closed are left out.

        Returns:
            What came of it, for each answer that got a token; an empty list while only prompts are computed.

        Raises:
            InputError: E1604, more than there are slots.
            InternalError: E1617, the artifact's code failed, or its logits are not numbers. All other answers go on
                with the next step, and what was cached of them is computed again.
        """
        return self.run(lambda: self.advance(self.answers if answers is None else list(dict.fromkeys(answers))))

    def close(self, answer: Answer) -> None:
        """Ends an answer, at its end or at any time before: its slot and its blocks are free for others.

        What it has cached may still be found by later prompts. Closing it again does nothing.
        """
        self.run(lambda: self.release([answer]))

    def logits(self, rows: abc.Sequence[I64], all_positions: bool) -> F32:
        """Logits of token sequences, from an empty KV cache.

        Args:
            rows: B sequences; lengths may differ.
            all_positions: whether the logits of every token are wanted.

        Returns:
            float32[B, T, V] with T the longest row (zeros after a row's end), else float32[B, 1, V] for last tokens.

        Raises:
            InputError: E1602 to E1606.
        """
        return self.run(lambda: self._logits(rows, all_positions))

    def fill(self, prompt: I64, tokens: int, seed: int) -> int:
        """Caches a prompt's beginning with pseudo-random keys and values, see `Model.fill_cache`."""
        return self.run(lambda: self._fill(prompt, tokens, seed))

    def require_logits(self) -> None:
        """Refuses an embedding model.

        Raises:
            InputError: E1622.
        """
        if self._manifest.is_embedding:
            raise InputError(
                "E1622",
                f"{self._manifest.name} is an embedding model: its graphs yield hidden states, so it has no logits and "
                "can't generate",
                "use `hidden_states`; to generate, compile with lengths in the second list of frontend.shape.input_ids",
            )

    # What follows runs in a turn: `run` it, or call it from within one.

    def run(self, work: abc.Callable[[], T]) -> T:
        """`work`'s result, once no other thread is at work.

        Of work that ended in the middle of a step nobody knows what it left in the KV cache: what comes next forgets
        all of that.

        Raises:
            UnsupportedError: E1652, the process was forked after the load.
            MisuseError: E1618, this very thread is at work already.
        """
        return self._lock.run(lambda: self._run(work))

    def _run(self, work: abc.Callable[[], T]) -> T:
        if not self._is_whole:
            self._slots.forget()
        self._is_whole = False
        try:
            result = work()
        except _REFUSALS:
            self._is_whole = True
            raise
        self._is_whole = True
        return result

    def begin(
        self, prompts: abc.Sequence[I64], request: Request, in_pieces: bool = True, first_row: int = 0
    ) -> list[Answer]:
        """Answers to checked prompts, as one group; they get slots as they are advanced.

        Args:
            prompts: at least one.
            request: what is asked of all of them.
            in_pieces: whether text is wanted as it becomes certain.
            first_row: the number of the first prompt, where others of the same call ran before.

        Raises:
            InputError: E1603, E1604 or E1606; E1613, stop strings without a tokenizer; E1651, a stop string that is no
                text.
            MisuseError: E1612.
        """
        answers = self._answers(prompts, request, in_pieces, first_row)
        self._check_room(len(prompts), max(answer.most_tokens for answer in answers))
        return answers

    def advance(self, answers: abc.Sequence[Answer]) -> list[Produced]:
        """As `step`."""
        going = [answer for answer in answers if answer.finish_reason is None and not answer.is_closed]
        if not going:
            return []
        self._slots.seat(going)
        made: list[Produced] = []
        known = [answer for answer in going if not answer.rest and answer.cached < len(answer.tokens)]
        drafts = self._drafts(known)
        if any(drafts):
            made += self._check_drafts(known, drafts)
        elif known:
            logits = self._slots.feed_next(known)
            # of one that was displaced, tokens are fed again that it has chosen before
            made += [
                _took(answer, logits[row]) for row, answer in enumerate(known) if answer.cached == len(answer.tokens)
            ]
        prompts = [answer for answer in going if answer.rest]
        if prompts:
            made += self._advance_prompts(prompts, going)
        return made

    def _drafts(self, known: abc.Sequence[Answer]) -> list[list[int]]:
        """What may follow the tokens of each answer, as far as a step has room for it."""
        room = self._slots.draft_rows - len(known)
        drafts: list[list[int]] = []
        for answer in known:
            draft: list[int] = []
            # one that was displaced is fed tokens again that it has chosen
            if answer.drafts is not None and room > 0 and answer.cached == len(answer.tokens) - 1:
                most = [room, answer.most_tokens - len(answer.tokens) - 1]
                most += [] if answer.foreseeable is None else [answer.foreseeable]
                draft = answer.drafts.propose(answer.tokens, min(most))
            room -= len(draft)
            drafts.append(draft)
        return drafts

    def _check_drafts(self, known: abc.Sequence[Answer], drafts: abc.Sequence[list[int]]) -> list[Produced]:
        """A step in which answers choose tokens for as long as they choose what was proposed, and one more."""
        made = []
        for answer, draft, logits in zip(known, drafts, self._slots.feed_drafts(known, drafts)):
            if answer.cached < len(answer.tokens) - 1:
                self._slots.keep(answer, 1)
                continue
            before, text = len(answer.tokens), ""
            for row, follows in zip(logits, [*draft, None]):
                text += answer.take(row)
                if answer.finish_reason is not None or answer.tokens[-1] != follows:
                    break
            chosen = tuple(answer.tokens[before:])
            self._slots.keep(answer, len(chosen))
            if answer.drafts is not None and draft:
                answer.drafts.learn(len(draft), sum(map(int.__eq__, chosen, draft)))
            made.append(Produced(answer, chosen, text, answer.finish_reason))
        return made

    def _advance_prompts(self, prompts: list[Answer], going: list[Answer]) -> list[Produced]:
        """Feeds a chunk; the answers of a group begin when all of its prompts are computed."""
        fed, _, logits = feed_chunk(self._slots, prompts)
        for row, sequence in enumerate(fed):
            if isinstance(sequence, Answer) and sequence.cached == len(sequence.tokens):
                sequence.logits = logits[row, 0].copy()  # the next call may write over them
        waiting = {id(answer.group) for answer in prompts if answer.rest}
        made = []
        for answer in going:
            ready = answer.logits if answer.cached == len(answer.tokens) else None
            if ready is not None and id(answer.group) not in waiting:
                answer.logits = None
                made.append(_took(answer, ready))
        return made

    def release(self, answers: abc.Sequence[Answer]) -> None:
        """As `close`."""
        for answer in answers:
            answer.is_closed = True
        self._slots.release(answers)
        for number, answer in list(self._open.items()):
            if answer.is_closed:
                del self._open[number]

    def _admit(self, prompt: I64, request: Request) -> Answer:
        (answer,) = self._answers([prompt], request)
        if len(self._open) >= self.slots:
            raise InputError(
                "E1604",
                f"all {self.slots} slots are taken",
                "close an answer, or compile with --set runtime.max_batch=N",
            )
        self._check_room(1, answer.most_tokens)
        self._open[next(self._numbers)] = answer
        return answer

    def _check_room(self, batch: int, tokens: int) -> None:
        """As `Slots.check_room`, beside all that the open answers may come to."""
        staying = self.answers
        beside = sum(self._slots.room(answer.most_tokens) for answer in staying)
        self._slots.check_room(batch, tokens, beside, staying)

    def _answers(
        self, prompts: abc.Sequence[I64], request: Request, in_pieces: bool = True, first_row: int = 0
    ) -> list[Answer]:
        options, manifest = request.options, self._manifest
        stops = (options.stop,) if isinstance(options.stop, str) else options.stop
        stop = tuple(checked_text(text, "a stop string") for text in stops)
        # Token ids in, token ids out works without a tokenizer; only text needs one.
        has_tokenizer = (self._folder / "tokenizer.json").is_file()
        decoder = self.tokenizer if has_tokenizer or stop else None
        if has_tokenizer and not options.ignore_eos:
            stop += manifest.generation.stop
        # rows of a contiguous cache can't share; a batch is computed whole there
        keeps = options.prefix_cache and (self.executor.pages is not None or len(prompts) == 1)
        group = Group(len(prompts))
        if options.speculate is not None and not self._slots.draft_rows:
            raise UnsupportedError(
                "E1654",
                f"{manifest.name} can't check several tokens of one sequence at once, which speculation needs",
                "leave --speculate (speculate=) out; `xamc explain E1654` says what it takes",
            )
        return [
            Answer(
                prompt,
                manifest.model,
                group,
                keeps,
                limits_of(manifest, len(prompt), request, stop, decoder),
                Sampler(options, prompt, manifest.model.vocab_size, row),
                decoder,
                in_pieces,
                row,
                None if options.speculate is None else NgramDrafts(),
            )
            for row, prompt in enumerate(prompts, first_row)
        ]

    def _logits(self, rows: abc.Sequence[I64], all_positions: bool) -> F32:
        self._check_room(len(rows), max(map(len, rows)))
        model, group = self._manifest.model, Group(len(rows))
        sequences = [Sequence(check_token_ids(row, model.vocab_size), model, group=group) for row in rows]
        self._slots.seat(sequences)
        result = feed_prompts(self._slots, sequences, all_positions)
        self._slots.release(sequences)
        return result

    def _fill(self, prompt: I64, tokens: int, seed: int) -> int:
        self._check_room(1, len(prompt))
        sequence = Sequence(prompt, self._manifest.model, keeps=True)
        self._slots.seat([sequence])
        cached = self._slots.fill(sequence, tokens, seed)
        self._slots.release([sequence])
        if cached is None:
            raise UnsupportedError(
                "E1650",
                f"the KV cache of {self._manifest.name} can't be filled: {self._manifest.target} has no paged one",
                "prefill the prompt, or compile with --set backend.type=tvm_cpu",
            )
        return cached


def _took(answer: Answer, logits: np.ndarray[tuple[int], np.dtype[np.float32]]) -> Produced:
    text = answer.take(logits)
    return Produced(answer, (answer.tokens[-1],), text, answer.finish_reason)
