"""A paged KV cache: sequences own blocks of a pool through a block table, and share those of equal prefixes.

The pool's memory is reserved and taken only where blocks are written; a sequence that grows takes one more block, and
nothing is ever copied but the partly filled last block of a prefix that another sequence goes on from. Entry 0 of the
pool belongs to nobody: padding is written there.

Computed blocks stay in an index when their sequence ends, so that a later prompt with the same beginning starts behind
it. They are given up, least recently used first, as soon as their room is wanted; blocks that were used before are
taken before fresh ones, so that the memory touched stays what one full sequence, or the largest batch, needs.

Where every layer attends to a window, blocks that lie wholly behind it are given back while a sequence goes on, so that
its memory stops growing; their entries in the table become 0.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from xamc.errors import InternalError
from xamc.model.kv_cache import resident_blocks
from xamc.runtime.memory import aligned_zeros
from xamc.runtime.prefix_index import Node, PrefixIndex

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]


@dataclass
class _Row:
    """One sequence.

    Attributes:
        blocks: in order of positions; 0 for one that lies behind the window.
        node: what the blocks that are in the index end at; None when the row is not to be indexed.
        indexed: how many blocks those are.
        tail: tokens cached behind them.
        length: tokens that have been cached, or are by the step under way.
        released: how many blocks lie behind the window.
    """

    blocks: list[int]
    node: Node | None
    indexed: int = 0
    tail: list[int] = field(default_factory=list)
    length: int = 0
    released: int = 0


class BlockCache:
    """Who owns which block. The pools themselves belong to the executor, which copies blocks on request.

    Attributes:
        table: int32[B, M], the block of every M-th part of each slot; 0 where there is none.
        blocks: size of the pools, block 0 included.
        resident: blocks that one sequence of full length has at once.
        touched: blocks that have been written since the start, block 0 not counted.
    """

    def __init__(
        self,
        block: int,
        context_limit: int,
        max_batch: int,
        copy: Callable[[int, int], None],
        fill: Callable[[int, int], None],
        window: int | None = None,
        chunk: int = 1,
    ) -> None:
        """Args:
        block: positions of a block.
        context_limit: most positions of a sequence.
        max_batch: most sequences at once.
        copy: copies a block (from, to) in the pools of all layers.
        fill: writes pseudo-random keys and values of a seed to a block (block, seed) of all layers.
        window: the most positions that any layer attends to, None if one attends to all.
        chunk: most tokens that a step adds to a sequence.
        """
        self.block = block
        self.width = -(-context_limit // block)
        self.resident = resident_blocks(context_limit, block, window, chunk)
        self.blocks = 1 + max_batch * self.width
        self.touched = 0
        self.table: I32 = aligned_zeros((max_batch, self.width), np.int32)
        self._copy, self._fill = copy, fill
        self._window = window
        self.forget()

    def forget(self) -> None:
        """Ends all sequences and empties the index: nothing of what is in the pool is used again."""
        self._references = np.zeros(self.blocks, np.int32)
        self._free = list(range(self.touched, 0, -1))
        self._rows: dict[int, _Row] = {}
        self._index = PrefixIndex(self.block, self._window)
        self.table[...] = 0

    @property
    def held(self) -> int:
        """Blocks that sequences have at the moment; those that are only kept for later ones are not among them."""
        return len({block for row in self._rows.values() for block in row.blocks if block})

    def open(self, index: int, tokens: list[int], kind: Hashable, reuse: bool) -> int:
        """Starts a sequence in a free slot.

        Args:
            index: the slot.
            tokens: those of its tokens that may be cached.
            kind: what besides its tokens decides the sequence's keys (the base of a dynamic RoPE).
            reuse: whether to start behind what is cached of the tokens, and to keep this sequence for later ones.

        Returns:
            How many of the tokens are cached.
        """
        self._rows[index] = _Row([], self._index.root(kind) if reuse else None)
        return self.attach(index, tokens, kind) if reuse else 0

    def close(self, indices: Iterable[int]) -> None:
        """Ends sequences, at any time between steps; what they cached stays in the index."""
        for index in indices:
            row = self._rows[index]
            if row.node is not None and row.tail:
                self._publish(index, row.node, tuple(row.tail))
            self._drop_all(row)
            self.table[index] = 0
            del self._rows[index]
        kept = sum(1 for node in self._index.nodes() if self._references[node.block] == 1)
        for _ in range(kept - self.resident):
            self._evict()

    def attach(self, index: int, tokens: list[int], kind: Hashable) -> int:
        """Starts an empty row behind what is cached of `tokens`; returns how many that are."""
        root, row = self._index.root(kind), self._rows[index]
        path, partial, same = self._index.find(root, tokens)
        row.length = len(path) * self.block + same
        row.released = self._index.first_visible(row.length)
        for at, node in enumerate(path):
            visible = at >= row.released
            self._references[node.block] += visible
            row.blocks.append(node.block if visible else 0)
        row.node, row.indexed = path[-1] if path else root, len(path)
        if partial is not None:
            self._references[partial.block] += 1  # it must outlive the search for a block to copy it to
            own = self._take()
            self._copy(partial.block, own)
            self._drop(partial.block)
            row.blocks.append(own)
            row.tail = list(partial.tokens[:same])
        self.table[index, : len(row.blocks)] = row.blocks
        return row.length

    def detach(self, index: int) -> None:
        """Makes a row empty again; what it has put into the index stays there."""
        row = self._rows[index]
        self._drop_all(row)
        self.table[index] = 0
        self._rows[index] = _Row([], row.node)

    def fill(self, index: int, tokens: Sequence[int], seed: int) -> int:
        """Takes pseudo-random keys and values for the whole blocks that `tokens` fill, where they are not cached yet.

        Returns:
            How many tokens of the row are cached now.
        """
        row = self._rows[index]
        first, last = row.length // self.block, len(tokens) // self.block
        if first >= last:
            return row.length
        before, done = row.length, last * self.block
        # in steps, so that what a window leaves behind is given back on the way
        for block in range(first, last):
            self.reserve_row(index, (block + 1) * self.block)
            self._fill(row.blocks[block], seed + block)
            self.extend(index, tokens[max(before, block * self.block) : (block + 1) * self.block])
        return done

    def reserve(self, indices: I64, lengths: I64) -> None:
        """Gives sequences blocks for their first `lengths` positions, and takes back those behind their windows."""
        # of several tokens of one sequence the last reaches furthest, and the first sees furthest back
        for index, length in dict(zip(indices.tolist(), lengths.tolist())).items():
            self.reserve_row(index, length)

    def reserve_row(self, index: int, length: int) -> None:
        """As `reserve`, for one row."""
        row = self._rows[index]
        self._release(index, row)
        row.length = length
        while len(row.blocks) * self.block < length:
            self.table[index, len(row.blocks)] = block = self._take()
            row.blocks.append(block)

    def extend(self, index: int, tokens: Sequence[int]) -> None:
        """Registers tokens of a row that have been computed; full blocks can be shared from now on."""
        row = self._rows[index]
        if row.node is None:
            return
        row.tail.extend(tokens)
        while len(row.tail) >= self.block:
            full = tuple(row.tail[: self.block])
            del row.tail[: self.block]
            row.node = self._publish(index, row.node, full)
            row.indexed += 1

    def shorten(self, index: int, length: int) -> None:
        """Takes back what was written to a row behind its first `length` positions, none of which is registered."""
        self._rows[index].length = length

    def stop_indexing(self, index: int) -> None:
        """From now on a row's keys are not what its tokens say: a dynamic RoPE has changed its base."""
        row = self._rows[index]
        if row.node is not None and row.tail:
            self._publish(index, row.node, tuple(row.tail))
        row.node = None

    def _release(self, index: int, row: _Row) -> None:
        """Takes the blocks from a row that no position from its next one on attends to."""
        first = min(self._index.first_visible(row.length), len(row.blocks))
        for at in range(row.released, first):
            self._drop(row.blocks[at])
            self.table[index, at] = row.blocks[at] = 0
        row.released = max(row.released, first)

    def _drop_all(self, row: _Row) -> None:
        for block in row.blocks[row.released :]:
            self._drop(block)

    def _publish(self, index: int, parent: Node, tokens: tuple[int, ...]) -> Node:
        """Puts the row's next block, which holds `tokens`, behind `parent`.

        Where the index has a block like it, the row takes that one, so that equal beginnings are in memory once.
        """
        row = self._rows[index]
        at = row.indexed
        node = self._index.add(parent, tokens, row.blocks[at])
        if node is None:
            known = parent.children.get(tokens)
            if known is None or len(tokens) < self.block:
                return parent  # at a sequence's end, or one that goes on writing into a block of its own
            if not known.block:
                known.block = row.blocks[at]
                self._references[known.block] += 1
                return known
            self._references[known.block] += 1
            self._drop(row.blocks[at])
            self.table[index, at] = row.blocks[at] = known.block
            return known
        self._references[node.block] += 1
        for other in self._index.covered(node):
            self._index.remove(other)
            self._drop(other.block)
        return node

    def _take(self) -> int:
        """A block nobody has: one used before, a fresh one while a full sequence would take it, or an evicted one."""
        if not self._free:
            if self.touched >= self.resident:
                self._evict()
            if not self._free:
                if self.touched + 1 >= self.blocks:
                    raise InternalError("E1617", f"all {self.blocks} blocks of the KV cache are in use")
                self.touched += 1
                self._free.append(self.touched)
        block = self._free.pop()
        self._references[block] = 1
        return block

    def _evict(self) -> None:
        """Gives up the cached block that was used least recently, if no row has it."""
        block = self._index.give_up(lambda block: bool(self._references[block] == 1))
        if block is not None:
            self._drop(block)

    def _drop(self, block: int) -> None:
        self._references[block] -= 1
        if self._references[block] == 0:
            self._free.append(block)
