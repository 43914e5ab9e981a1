"""The slots of a KV cache: which sequence has which row of it, and the steps that feed them.

Kernels check neither token ids nor positions (a bad id reads foreign memory), so everything that is fed was checked
before: prompts when they came in (`check_token_ids`), lengths here.
"""

from __future__ import annotations

import weakref
from collections import abc

import numpy as np

from xamc.artifact.manifest import Manifest
from xamc.errors import InputError
from xamc.model.kv_cache import kv_bytes_per_token
from xamc.runtime.executor import F32, I64, Executor, ForwardOne, ForwardTokens, Step
from xamc.runtime.memory import available_bytes
from xamc.runtime.rope_table import RopeTable
from xamc.runtime.sequence import Sequence, check_context


class Slots:
    """Who sits where. A sequence that nobody holds any more loses its slot to the next one that wants it.

    Attributes:
        count: how many sequences can have one at once.
    """

    def __init__(self, executor: Executor, manifest: Manifest) -> None:
        """Args:
        executor: runs the model.
        manifest: the artifact's.
        """
        self.count = manifest.max_batch
        self.executor = executor
        self._forward_one: ForwardOne | None = getattr(executor, "forward_one", None)
        self._forward_tokens: ForwardTokens | None = getattr(executor, "forward_tokens", None)
        self._manifest = manifest
        self._table = RopeTable(manifest.model, manifest.context_limit)
        # in the order in which they sat down
        self._seated: dict[int, weakref.ref[Sequence]] = {}
        # of a contiguous cache: what is left in a row that its sequence kept, and the base of these keys
        self._left: dict[int, tuple[list[int], int]] = {}

    def seat(self, sequences: abc.Sequence[Sequence]) -> None:
        """Gives a slot to each of the sequences that has none, and begins there with what is cached of it.

        Where there are too few, sequences that are not among these give theirs up, the longest seated first.

        Raises:
            InputError: E1604, they are more than there are slots.
        """
        standing = [sequence for sequence in sequences if sequence.slot is None]
        if not standing:
            return
        self._check_count(len(sequences))
        self._clear_up()
        missing = len(standing) - (self.count - len(self._seated))
        if missing > 0:
            self._displace([sequence for sequence in self._sitting() if sequence not in sequences][:missing])
        for sequence in standing:
            self._sit(sequence)

    def release(self, sequences: abc.Sequence[Sequence]) -> None:
        """Takes the slots of sequences back, at any time between steps; what they keep can be found by later ones."""
        seated = [sequence for sequence in sequences if sequence.slot is not None]
        self._free([sequence.slot for sequence in seated if sequence.slot is not None])
        for sequence in seated:
            cached = sequence.cached
            keys_are_alike = sequence.rope_base_at(cached) == sequence.prompt_base
            if self.executor.pages is None and sequence.keeps and keys_are_alike and sequence.slot is not None:
                self._left[sequence.slot] = (sequence.tokens[:cached], sequence.prompt_base)
            sequence.slot, sequence.cached = None, 0

    def forget(self) -> None:
        """Ends all: of a call that ended in the middle of a step nobody knows which keys it wrote, or which blocks it
        took. The sequences themselves go on; all of them is computed again."""
        for sequence in self._sitting():
            sequence.slot, sequence.cached = None, 0
            sequence.displaced += 1
        self._seated.clear()
        self._left.clear()
        if self.executor.pages is not None:
            self.executor.pages.forget()

    def begin_again(self, sequence: Sequence) -> None:
        """Starts a seated sequence anew behind what is cached of its prompt by now."""
        pages, slot = self.executor.pages, sequence.slot
        assert pages is not None and slot is not None
        pages.detach(slot)
        sequence.cached = pages.attach(slot, sequence.prompt[:-1].tolist(), sequence.prompt_base)
        sequence.reused = sequence.cached

    def feed(self, sequences: abc.Sequence[Sequence], counts: abc.Sequence[int], all_positions: bool = False) -> F32:
        """Feeds the next tokens of seated sequences, in one call of the model.

        Args:
            sequences: B of them.
            counts: how many tokens of each, at least one.
            all_positions: whether the logits of every token are wanted.

        Returns:
            float32[B, S, V] with S the largest count, undefined behind a sequence's own, or float32[B, 1, V] for last
            tokens; valid until the next step.

        Raises:
            InputError: E1603.
        """
        starts = np.array([sequence.cached for sequence in sequences], np.int64)
        sizes = np.array(counts, np.int64)
        check_context(int((starts + sizes).max()), self._manifest.context_limit)
        ids = np.zeros((len(counts), max(counts)), np.int64)
        fed = [sequence.tokens[sequence.cached : sequence.cached + count] for sequence, count in zip(sequences, counts)]
        for row, tokens in enumerate(fed):
            ids[row, : len(tokens)] = tokens
        bases = [sequence.rope_base for sequence in sequences]
        cos, sin, rope_rows = self._table.cos, self._table.sin, None
        if len(set(bases)) == 1:
            self._table.prepare(int(starts.min()), int((starts + sizes).max()), bases[0])
        else:
            cos, sin, rope_rows = self._table.rows(starts, sizes, ids.shape[1], bases)
        for sequence, base in zip(sequences, bases):
            self._follow_rope(sequence, base)
        slots: I64 = np.array([sequence.slot for sequence in sequences], np.int64)
        logits = self.executor.forward(Step(ids, slots, starts, sizes, cos, sin, all_positions, rope_rows))
        pages = self.executor.pages
        for sequence, slot, tokens in zip(sequences, slots.tolist(), fed):
            sequence.cached += len(tokens)
            if pages is not None and sequence.keeps:
                pages.extend(slot, tokens)
        return logits

    def feed_next(self, sequences: abc.Sequence[Sequence]) -> F32:
        """Feeds one token of each of B seated sequences; float32[B, V], valid until the next step.

        Raises:
            InputError: E1603.
        """
        if len(sequences) == 1 and self._forward_one is not None:
            return self._feed_one(sequences[0], self._forward_one)
        return self.feed(sequences, [1] * len(sequences))[:, 0]

    def _feed_one(self, sequence: Sequence, forward: ForwardOne) -> F32:
        """Without arrays of one element: they would take a tenth of a small model's time."""
        cached, slot, base = sequence.cached, sequence.slot, sequence.rope_base
        assert slot is not None
        check_context(cached + 1, self._manifest.context_limit)
        token = sequence.tokens[cached]
        self._table.prepare(cached, cached + 1, base)
        self._follow_rope(sequence, base)
        logits = forward(slot, token, cached, self._table.cos, self._table.sin)
        sequence.cached += 1
        if sequence.keeps and self.executor.pages is not None:
            self.executor.pages.extend(slot, (token,))
        return logits

    @property
    def draft_rows(self) -> int:
        """The most tokens, of all sequences together, that a step with drafts can feed; 0 where none can be."""
        return 0 if self._forward_tokens is None else int(getattr(self.executor, "token_rows", 0))

    def feed_drafts(self, sequences: abc.Sequence[Sequence], drafts: abc.Sequence[abc.Sequence[int]]) -> list[F32]:
        """Feeds the next token of each of B seated sequences and, behind it, what may follow.

        Args:
            sequences: B of them, none of which is changed; `keep` tells what holds.
            drafts: of each, at most `draft_rows` tokens with the B, and as many as are `foreseeable`.

        Returns:
            Of each, float32[1 + its draft, V]: the logits behind every token; valid until the next step.

        Raises:
            InputError: E1603.
        """
        assert self._forward_tokens is not None
        fed = [[sequence.tokens[sequence.cached], *draft] for sequence, draft in zip(sequences, drafts)]
        rows = [
            (sequence.slot, token, sequence.cached + place)
            for sequence, tokens in zip(sequences, fed)
            for place, token in enumerate(tokens)
        ]
        slots, ids, positions = np.array(rows, np.int64).T.copy()
        stop = int(positions.max()) + 1
        check_context(stop, self._manifest.context_limit)
        bases = [sequence.rope_base for sequence in sequences]
        cos, sin, angles = self._table.cos, self._table.sin, positions
        if len(set(bases)) == 1:
            self._table.prepare(int(positions.min()), stop, bases[0])
        else:
            of_rows = [base for base, tokens in zip(bases, fed) for _ in tokens]
            cos, sin, table_rows = self._table.rows(positions, np.ones_like(positions), 1, of_rows)
            angles = table_rows[:, 0]
        for sequence, base in zip(sequences, bases):
            self._follow_rope(sequence, base)
        logits = self._forward_tokens(slots, ids, positions, angles, cos, sin)
        ends = np.cumsum([len(tokens) for tokens in fed])
        return np.split(logits, ends[:-1])

    def keep(self, sequence: Sequence, count: int) -> None:
        """Of the tokens that `feed_drafts` fed, so many are the sequence's own; the others are written over."""
        tokens = sequence.tokens[sequence.cached : sequence.cached + count]
        sequence.cached += count
        pages, slot = self.executor.pages, sequence.slot
        if pages is not None and slot is not None:
            pages.shorten(slot, sequence.cached)
            if sequence.keeps:
                pages.extend(slot, tokens)

    def fill(self, sequence: Sequence, tokens: int, seed: int) -> int | None:
        """Takes pseudo-random keys and values for the whole blocks among a seated sequence's first `tokens`.

        Returns:
            How many tokens of it are cached now; None where the KV cache is not paged.
        """
        pages, slot = self.executor.pages, sequence.slot
        if pages is None or slot is None:
            return None
        sequence.cached = pages.fill(slot, sequence.tokens[:tokens], seed)
        return sequence.cached

    def width(self, sequences: abc.Sequence[Sequence]) -> int:
        """The most tokens that a step can feed to each of B sequences.

        Activations are proportional to rows times tokens; the prefill chunk bounds their product. Padding is written to
        the cache too, so it must fit behind every row.
        """
        groups = {id(sequence.group): sequence.group.size for sequence in sequences}
        chunk = max(1, self._manifest.prefill_chunk // sum(groups.values()))
        return min(chunk, self._manifest.context_limit - max(sequence.cached for sequence in sequences))

    @property
    def chunk(self) -> int:
        """The most tokens that a step can feed to one sequence."""
        return self._manifest.prefill_chunk

    def check_room(self, batch: int, tokens: int, beside: int = 0, staying: abc.Sequence[Sequence] = ()) -> None:
        """Refuses sequences that can't be. Where memory is short, those that needn't stay lose their slots at once.

        Args:
            batch: how many are to be opened.
            tokens: the most that each of them will have.
            beside: how many tokens those that stay will have.
            staying: which these are.

        Raises:
            InputError: E1603, E1604 or E1606: more tokens, rows or memory than there is.
        """
        manifest = self._manifest
        check_context(tokens, manifest.context_limit)
        self._check_count(batch)
        needed = batch * self.room(tokens) + beside
        if self.executor.pages is not None:
            # what was written before is there to be written again
            needed -= self.executor.pages.touched * self.executor.pages.block
        token_bytes, available = kv_bytes_per_token(manifest.model, manifest.kv.dtype), available_bytes()
        idle = [sequence for sequence in self._sitting() if sequence not in staying]
        if available is None or (needed + sum(sequence.cached for sequence in idle)) * token_bytes <= available:
            return
        self._displace(idle)
        needed *= token_bytes
        if needed > available:
            others = f" beside the {beside} of open sequences" if beside else ""
            raise InputError(
                "E1606",
                f"the KV cache of {batch} x {tokens} tokens{others} takes {needed / 2**20:.0f} MiB; "
                f"{available / 2**20:.0f} MiB of memory are available",
                "use fewer sequences or tokens, or compile with a smaller KV type: --set runtime.kv_dtype=int8",
            )

    def _check_count(self, sequences: int) -> None:
        if not 1 <= sequences <= self.count:
            raise InputError(
                "E1604",
                f"{sequences} sequences at once; the artifact takes 1 to {self.count}",
                "split the batch, or compile with --set runtime.max_batch=N",
            )

    def room(self, tokens: int) -> int:
        """How many tokens a sequence has in the cache at most, when it comes to have `tokens` in all."""
        pages = self.executor.pages
        return tokens if pages is None else min(tokens, pages.resident * pages.block)

    def _sitting(self) -> list[Sequence]:
        return [sequence for reference in self._seated.values() if (sequence := reference()) is not None]

    def _clear_up(self) -> None:
        """Takes the slots of sequences back that nobody holds any more."""
        self._free([slot for slot, reference in self._seated.items() if reference() is None])

    def _free(self, slots: list[int]) -> None:
        if self.executor.pages is not None:
            self.executor.pages.close(slots)
        for slot in slots:
            del self._seated[slot]

    def _displace(self, sequences: list[Sequence]) -> None:
        self.release(sequences)
        for sequence in sequences:
            sequence.displaced += 1

    def _sit(self, sequence: Sequence) -> None:
        """Gives a sequence a free slot; its last token is never looked for, as it has to run."""
        known, base, pages = sequence.tokens[:-1], sequence.prompt_base, self.executor.pages
        free = [slot for slot in range(self.count) if slot not in self._seated]
        if pages is not None:
            slot = free[0]
            sequence.cached = pages.open(slot, known, base, sequence.keeps)
        else:
            slot, sequence.cached = max(
                ((slot, self._same(slot, known, base) if sequence.keeps else 0) for slot in free),
                key=lambda found: (found[1], -found[0]),
            )
            self._left.pop(slot, None)
            if not sequence.cached:
                self.executor.clear(slot)
        if not sequence.displaced:
            sequence.reused = sequence.cached
        sequence.slot = slot
        self._seated[slot] = weakref.ref(sequence)

    def _same(self, slot: int, tokens: list[int], base: int) -> int:
        """How many of the tokens a row of a contiguous cache still has."""
        left, of_base = self._left.get(slot, ([], base))
        if of_base != base:
            return 0
        both = min(len(left), len(tokens))
        return next((at for at in range(both) if left[at] != tokens[at]), both)

    def _follow_rope(self, sequence: Sequence, base: int) -> None:
        """Ends the sharing of a sequence's blocks when a dynamic RoPE changes its base."""
        pages = self.executor.pages
        if pages is not None and sequence.keeps and base != sequence.prompt_base:
            assert sequence.slot is not None
            pages.stop_indexing(sequence.slot)
