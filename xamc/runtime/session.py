"""One batch of sequences in a KV cache: checks what is fed, cuts prompts into chunks, keeps lengths and RoPE tables.

Kernels check neither token ids nor positions (a bad id reads foreign memory), so everything is checked here first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xamc.artifact.manifest import Manifest
from xamc.errors import InputError, UnsupportedError
from xamc.model.kv_cache import kv_bytes_per_token
from xamc.runtime.executor import F32, I64, Executor, ForwardOne, Step
from xamc.runtime.memory import available_bytes
from xamc.runtime.rope_table import RopeTable
from xamc.runtime.turns import Turns


def check_token_ids(token_ids: object, vocab_size: int) -> I64:
    """One sequence of token ids as int64[T].

    Raises:
        InputError: E1602, an id outside the vocabulary; E1605, empty, not one-dimensional or not integers.
    """
    array = np.asarray(token_ids)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise InputError(
            "E1605",
            f"a prompt must be a non-empty list of integer token ids; this one has shape {array.shape} "
            f"and dtype {array.dtype}",
            "give at least one token id, for example the BOS token",
        )
    wrong = np.flatnonzero((array < 0) | (array >= vocab_size))
    if wrong.size:
        raise InputError(
            "E1602",
            f"token id {array[wrong[0]]} at position {wrong[0]} is outside the vocabulary of {vocab_size}",
            f"give ids from 0 to {vocab_size - 1}, made by the artifact's own tokenizer",
        )
    return array.astype(np.int64)


class Session:
    """Sequences of one batch.

    A session begins with the KV cache to itself. Where another one took it over in between, the next step takes it
    back: what it still holds of the sequences is kept, and the rest is computed again the way it was at first.

    Attributes:
        lengths: int64[B], tokens cached per row.
        reused: int64[B], how many of a row's prompt were not computed for it: cached before, or by another row.
        history: the cached tokens of each row.
    """

    def __init__(
        self,
        executor: Executor,
        manifest: Manifest,
        table: RopeTable,
        batch: int,
        tokens: int,
        turns: Turns | None = None,
        prompts: Sequence[I64] = (),
        reuse: bool = False,
    ) -> None:
        """Takes the executor's KV cache over and makes it fit.

        Args:
            executor: runs the model.
            manifest: the artifact's.
            table: RoPE rows up to the context limit; shared by the sessions of an artifact.
            batch: rows B.
            tokens: the most tokens a row will have; only used to refuse what memory can't hold.
            turns: who has the KV cache, of all sessions on this executor; None: this is the only one. Whoever has more
                than one makes, and steps, each of them in a turn.
            prompts: what `prefill_prompts` will feed to each row; empty to use `prefill` alone.
            reuse: whether to begin with what is cached of the prompts, and to keep these sequences for later ones.

        Raises:
            InputError: E1603, E1604 or E1606: more tokens, rows or memory than there is.
        """
        self._executor = executor
        self._forward_one: ForwardOne | None = getattr(executor, "forward_one", None)
        self._manifest = manifest
        self._table = table
        self._check_room(batch, tokens)
        self._prompts = prompts
        self._reuse = reuse and bool(prompts)
        self._turns = turns or Turns(executor, manifest.name)
        # a dynamic RoPE's base is that of the whole prompt, then of each decoded token's length
        self._bases = [self._rope_base(len(prompt)) for prompt in prompts] or [self._rope_base(0)] * batch
        self._fed = [0] * batch  # tokens of each row that its first prefill ended with
        self._start()

    def _start(self) -> None:
        """Begins with what is cached of the prompts."""
        self.lengths: I64 = self._begin(self._prompts or [np.zeros(1, np.int64)] * len(self._fed))
        self.reused: I64 = self.lengths.copy()
        self.history: list[list[int]] = [[] for _ in self._fed]
        for row, prompt in enumerate(self._prompts):
            self.history[row] = prompt[: self.lengths[row]].tolist()

    def _begin(self, prompts: Sequence[I64]) -> I64:
        """Gives the rows their caches; returns how many tokens of each prompt are cached, of all but its last."""
        pages, previous = self._executor.pages, self._turns.session
        self._turns.session = None  # until it is done
        kept: I64 = np.zeros(len(prompts), np.int64)
        if pages is not None:
            kept = pages.begin(prompts, self._reuse, self._bases)
        elif not self._reuse or previous is None or not (same := self._kept_of(previous, prompts)):
            self._executor.allocate(len(prompts))
        else:
            kept[0] = same
        self._turns.session = self
        return kept

    def _kept_of(self, previous: Session, prompts: Sequence[I64]) -> int:
        """How much of the only prompt a contiguous cache holds, where it is reused by the one row after another."""
        if len(prompts) > 1 or len(previous.history) > 1:
            return 0
        cached, (prompt,) = previous.history[0], prompts
        if not self._bases[0] == previous._bases[0] == self._rope_base(len(cached)):
            return 0
        both = min(len(cached), len(prompt) - 1)
        return next((at for at in range(both) if cached[at] != prompt[at]), both)

    def _rope_base(self, length: int) -> int:
        """What decides the angles of a sequence that has reached `length` tokens; equal for all of most models."""
        model = self._manifest.model
        return max(length, model.max_position_embeddings) if model.rope.kind == "dynamic" else 0

    def _take_back(self) -> None:
        """Takes the KV cache back that another session had meanwhile."""
        if self._turns.session is self:
            return
        if not any(self._fed):
            self._start()
            return
        # the last token of a prompt is never looked for, and all of these are
        self.lengths = self._begin([np.array([*tokens, 0], np.int64) for tokens in self.history])
        rest = [
            np.array(tokens[cached:fed], np.int64)
            for tokens, cached, fed in zip(self.history, self.lengths.tolist(), self._fed)
        ]
        if any(map(len, rest)):
            self._feed(rest, False)
        while (missing := np.array([len(tokens) for tokens in self.history]) > self.lengths).any():
            ids = [tokens[min(at, len(tokens) - 1)] for tokens, at in zip(self.history, self.lengths.tolist())]
            bases = [self._rope_base(length + 1) for length in self.lengths.tolist()]
            self._step(np.array(ids, np.int64)[:, None], missing.astype(np.int64), bases, False)

    def fill(self, tokens: int, seed: int) -> int:
        """Takes pseudo-random keys and values for the whole blocks among the first `tokens` of the one prompt.

        Returns:
            How many tokens of it are cached now.

        Raises:
            UnsupportedError: E1650, the KV cache of this target is not paged.
        """
        pages = self._executor.pages
        if pages is None:
            raise UnsupportedError(
                "E1650",
                f"the KV cache of {self._manifest.name} can't be filled: {self._manifest.target} has no paged one",
                "prefill the prompt, or compile with --set backend.type=tvm_cpu",
            )
        cached = pages.fill(0, self._prompts[0][:tokens].tolist(), seed)
        self.lengths = self.reused = np.array([cached], np.int64)
        self.history[0] = self._prompts[0][:cached].tolist()
        return cached

    def prefill_prompts(self) -> F32:
        """Feeds what is not cached of the prompts; what all rows begin with is computed once.

        Returns:
            float32[B, 1, V], the logits of each prompt's last token.

        Raises:
            as `prefill`.
        """
        self._take_back()
        self._share_beginning()
        return self.prefill([prompt[cached:] for prompt, cached in zip(self._prompts, self.lengths.tolist())])

    def _share_beginning(self) -> None:
        """Computes the whole blocks that rows begin with in one of them, and lets the others share them."""
        if self._executor.pages is None or not self._reuse:
            return
        for base in dict.fromkeys(self._bases):  # keys of another base are other keys
            self._share_among([row for row, own in enumerate(self._bases) if own == base])

    def _share_among(self, rows: list[int]) -> None:
        pages, prompts = self._executor.pages, [self._prompts[row] for row in rows]
        if pages is None or len(rows) < 2:
            return
        shortest = min(map(len, prompts)) - 1
        differs = np.any([prompt[:shortest] != prompts[0][:shortest] for prompt in prompts], axis=0)
        common = int(np.argmax(differs)) if differs.any() else shortest
        common -= common % pages.block
        if common <= int(self.lengths[rows].min()):
            return
        first = rows[int(np.argmax(self.lengths[rows]))]
        while (start := int(self.lengths[first])) < common:
            counts = np.zeros(len(self._prompts), np.int64)
            counts[first] = min(common - start, self._manifest.prefill_chunk)
            ids = np.zeros((len(counts), int(counts[first])), np.int64)
            ids[first] = self._prompts[first][start : start + counts[first]]
            self._step(ids, counts, self._bases, False)
        for row, prompt in zip(rows, prompts):
            if self.lengths[row] < common:
                pages.detach(row)
                self.lengths[row] = self.reused[row] = pages.attach(row, prompt[:-1].tolist(), self._bases[row])
            self.history[row] = prompt[: self.lengths[row]].tolist()

    def prefill(self, rows: Sequence[I64], all_positions: bool = False) -> F32:
        """Feeds each row's tokens, in chunks of at most the artifact's prefill chunk.

        Args:
            rows: B sequences of at least one token each; lengths may differ.
            all_positions: whether the logits of every token are wanted.

        Returns:
            float32[B, T, V] with T the longest row (zeros after a row's end), else float32[B, 1, V] for last tokens.

        Raises:
            InputError: E1602, E1603 or E1605.
        """
        rows = [check_token_ids(row, self._manifest.model.vocab_size) for row in rows]
        self._check_length(self.lengths + np.array([len(row) for row in rows], np.int64))
        self._take_back()
        logits = self._feed(rows, all_positions)
        for cached, tokens in zip(self.history, rows):
            cached.extend(tokens.tolist())
        self._fed = [fed or len(tokens) for fed, tokens in zip(self._fed, self.history)]
        return logits

    def _feed(self, rows: Sequence[I64], all_positions: bool) -> F32:
        """As `prefill`, for checked tokens; rows may be empty, but not all of them."""
        sizes = np.array([len(row) for row in rows], np.int64)
        # The base of a dynamic RoPE follows the whole prompt, however many chunks it is cut into.
        bases = [self._rope_base(length) for length in (self.lengths + sizes).tolist()]
        longest = int(sizes.max())
        shape = (len(rows), longest if all_positions else 1, self._manifest.output_width)
        logits: F32 = np.zeros(shape, np.float32)
        # Activations are proportional to rows times tokens; the chunk bounds their product.
        chunk = max(1, self._manifest.prefill_chunk // len(rows))
        start = 0
        while start < longest:
            active = sizes > start
            # Padding is written to the cache too, so the width must fit behind every row that may go on.
            unfinished = self.lengths[self.lengths < self._manifest.context_limit]
            width = min(chunk, self._manifest.context_limit - int(unfinished.max()))
            counts = np.clip(sizes - start, 0, width)
            ids = np.zeros((len(rows), int(counts.max())), np.int64)
            for row, tokens in enumerate(rows):
                ids[row, : counts[row]] = tokens[start : start + counts[row]]
            part = self._step(ids, counts, bases, all_positions)
            if all_positions:
                for row, count in enumerate(counts.tolist()):
                    logits[row, start : start + count] = part[row, :count]
            else:
                logits[active] = part[active]  # a row's last chunk wins
            start += ids.shape[1]
        return logits

    def decode(self, tokens: I64, active: NDArray[np.bool_]) -> F32:
        """Feeds one token per row.

        Args:
            tokens: int64[B], valid ids; those of inactive rows are ignored.
            active: bool[B], which rows go on; the others keep their cache.

        Returns:
            float32[B, V], undefined for inactive rows; valid until the next step.

        Raises:
            InputError: E1602 or E1603.
        """
        self._take_back()
        if len(tokens) == 1 and self._forward_one is not None:
            return self._decode_one(int(tokens[0]), self._forward_one)
        check_token_ids(tokens, self._manifest.model.vocab_size)
        counts = active.astype(np.int64)
        self._check_length(self.lengths + counts)
        bases = [self._rope_base(length) for length in (self.lengths + counts).tolist()]
        logits = self._step(tokens[:, None], counts, bases, False)[:, 0]
        for row in np.flatnonzero(active).tolist():
            self.history[row].append(int(tokens[row]))
        return logits

    def _decode_one(self, token: int, forward: ForwardOne) -> F32:
        """`decode` for the only row, without arrays of one element: they would take a tenth of a small model's time."""
        length = int(self.lengths[0])
        if not 0 <= token < self._manifest.model.vocab_size:
            check_token_ids([token], self._manifest.model.vocab_size)
        check_context(length + 1, self._manifest.context_limit)
        base = self._rope_base(length + 1)
        self._table.prepare(length, length + 1, base)
        self._follow_rope(0, base)
        logits = forward(token, length, self._table.cos, self._table.sin)
        self.lengths[0] += 1
        if self._reuse and self._executor.pages is not None:
            self._executor.pages.extend(0, (token,))
        self.history[0].append(token)
        return logits

    def _follow_rope(self, row: int, base: int) -> None:
        """Ends the sharing of a row's blocks when a dynamic RoPE changes its base."""
        pages = self._executor.pages
        if pages is not None and self._reuse and base != self._bases[row]:
            pages.stop_indexing(row)

    def _step(self, ids: I64, counts: I64, bases: Sequence[int], all_positions: bool) -> F32:
        active = counts > 0
        rows = np.flatnonzero(active).tolist()
        for row in rows:
            self._follow_rope(row, bases[row])
        cos, sin, rope_rows = self._table.cos, self._table.sin, None
        if len({bases[row] for row in rows}) == 1:
            low, high = int(self.lengths[active].min()), int((self.lengths + counts)[active].max())
            self._table.prepare(low, high, bases[rows[0]])
        else:
            cos, sin, rope_rows = self._table.rows(self.lengths, counts, ids.shape[1], bases)
        # A row without tokens writes its padding too: behind its own tokens where there is room, and else over them,
        # because a row that full is finished.
        last_start = self._manifest.context_limit - ids.shape[1]
        step = Step(
            input_ids=ids,
            write_index=np.where(active, self.lengths, np.minimum(self.lengths, last_start)),
            lengths=counts,
            rope_cos=cos,
            rope_sin=sin,
            all_positions=all_positions,
            rope_rows=rope_rows,
        )
        logits = self._executor.forward(step)
        self.lengths = self.lengths + counts
        pages = self._executor.pages
        if pages is not None and self._reuse:
            for row in rows:
                pages.extend(row, ids[row, : counts[row]].tolist())
        return logits

    def _check_length(self, lengths: I64) -> None:
        check_context(int(lengths.max()), self._manifest.context_limit)

    def _check_room(self, batch: int, tokens: int) -> None:
        manifest = self._manifest
        check_context(tokens, manifest.context_limit)
        if not 1 <= batch <= manifest.max_batch:
            raise InputError(
                "E1604",
                f"{batch} sequences at once; the artifact takes 1 to {manifest.max_batch}",
                "split the batch, or compile with --set runtime.max_batch=N",
            )
        pages = self._executor.pages
        cached = tokens if pages is None else min(tokens, pages.resident * pages.block)
        needed = batch * cached * kv_bytes_per_token(manifest.model, manifest.kv.dtype)
        if pages is not None:
            # what was written before is there to be written again
            needed -= pages.touched * pages.block * kv_bytes_per_token(manifest.model, manifest.kv.dtype)
        available = available_bytes()
        if available is not None and needed > available:
            raise InputError(
                "E1606",
                f"the KV cache of {batch} x {tokens} tokens takes {needed / 2**20:.0f} MiB; "
                f"{available / 2**20:.0f} MiB of memory are available",
                "use fewer sequences or tokens, or compile with a smaller KV type: --set runtime.kv_dtype=int8",
            )


def check_context(tokens: int, context_limit: int, what: str = "the sequence has") -> None:
    """Refuses a sequence that is too long for the artifact.

    Raises:
        InputError: E1603, with both numbers.
    """
    if tokens > context_limit:
        raise InputError(
            "E1603",
            f"{what} {tokens} tokens; the artifact's context limit is {context_limit}",
            "shorten the prompt or the answer, or compile with a larger second list in frontend.shape.input_ids",
        )
