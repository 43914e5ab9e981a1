"""Which blocks of the KV cache hold which tokens: a tree of blocks, each with the tokens it caches.

A path from a root spells the beginning of a sequence; a node is one block of it. Only the last block of a path may be
partly filled. Blocks that nothing but this index holds are given up in the order of their last use, leaves first.

Where every layer attends to a window, a sequence goes on from the blocks that its window still reaches. A node may then
be hollow: its block was given up, but not its place in the path of those behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import count

Tokens = tuple[int, ...]


class Node:
    """One block of cached tokens behind the blocks of its ancestors; a root has neither block nor tokens.

    `block` is 0, which is nobody's, in a hollow node.
    """

    __slots__ = ("block", "children", "parent", "tokens", "used")

    def __init__(self, tokens: Tokens, block: int, parent: Node | None, used: int) -> None:
        self.tokens, self.block, self.parent, self.used = tokens, block, parent, used
        self.children: dict[Tokens, Node] = {}


class PrefixIndex:
    """The tree. It knows nothing of pools: what a block number means is its owner's matter."""

    def __init__(self, block: int, window: int | None = None) -> None:
        """Args:
        block: tokens of a full block.
        window: the most positions that any layer attends to, None without such a limit.
        """
        self._block = block
        # the block that a sequence was last put into must outlive it: the next one is put behind
        self._window = None if window is None else max(window, block + 1)
        self._roots: dict[Hashable, Node] = {}
        self._clock = count(1)

    def root(self, kind: Hashable) -> Node:
        """The root of sequences whose keys are comparable: those of another kind never share a block."""
        return self._roots.setdefault(kind, Node((), -1, None, 0))

    def find(self, root: Node, tokens: Sequence[int]) -> tuple[list[Node], Node | None, int]:
        """The longest beginning of `tokens` that a sequence can go on from.

        Returns:
            The nodes of its full blocks, of which those behind the window may be hollow; the node of which only a
            beginning matches, or None; and how many tokens of that one match.
        """
        path: list[Node] = []
        node, at = root, 0
        while len(tokens) - at >= self._block:
            child = node.children.get(tuple(tokens[at : at + self._block]))
            if child is None:
                break
            path.append(child)
            node, at = child, at + self._block
        rest = tuple(tokens[at : at + self._block])
        best, longest = None, 0
        for child in node.children.values():
            same = _common(child.tokens, rest)
            if same > longest and child.block:
                best, longest = child, same
        if not self._reaches(path, at + longest):
            best, longest = None, 0
            while not self._reaches(path, len(path) * self._block):
                path.pop()
        for found in [*path, *([best] if best else [])]:
            found.used = next(self._clock)
        return path, best, longest

    def first_visible(self, position: int) -> int:
        """The first block that a query at `position` attends to; those before it are never read again."""
        return 0 if self._window is None else max(0, position - self._window + 1) // self._block

    def _reaches(self, path: list[Node], position: int) -> bool:
        """Whether a sequence can go on at `position` behind the blocks of `path`."""
        return all(node.block for node in path[self.first_visible(position) :])

    def add(self, parent: Node, tokens: Tokens, block: int) -> Node | None:
        """Puts a block behind `parent`.

        Returns:
            Its node, or None if the tree has these tokens there already.
        """
        if any(_common(child.tokens, tokens) == len(tokens) for child in parent.children.values()):
            return None
        node = Node(tokens, block, parent, next(self._clock))
        parent.children[tokens] = node
        return node

    def covered(self, node: Node) -> list[Node]:
        """Partly filled leaves beside `node` whose tokens it begins with: they are of no more use."""
        siblings = node.parent.children.values() if node.parent is not None else ()
        return [
            other
            for other in siblings
            if len(other.tokens) < len(node.tokens) and _common(other.tokens, node.tokens) == len(other.tokens)
        ]

    def remove(self, node: Node) -> None:
        """Takes a leaf out, and the hollow nodes that lead to nothing else."""
        assert not node.children
        while node.parent is not None:
            parent = node.parent
            del parent.children[node.tokens]
            if parent.children or parent.block:  # a root's block is -1
                return
            node = parent

    def give_up(self, removable: Callable[[int], bool]) -> int | None:
        """Gives up the block that was used least recently among those that are `removable`.

        Without a window those are leaves; with one the blocks of other nodes too, which become hollow.

        Returns:
            The block, or None if there is none.
        """
        found = (node for node in self.nodes() if removable(node.block))
        if self._window is None:
            found = (node for node in found if not node.children)
        node = min(found, key=lambda node: node.used, default=None)
        if node is None:
            return None
        block = node.block
        if node.children:
            node.block = 0
        else:
            self.remove(node)
        return block

    def nodes(self) -> Iterator[Node]:
        """All nodes of the tree that have a block."""
        stack = [child for root in self._roots.values() for child in root.children.values()]
        while stack:
            node = stack.pop()
            if node.block:
                yield node
            stack.extend(node.children.values())


def _common(a: Tokens, b: Tokens) -> int:
    """Length of the longest common beginning."""
    return next((index for index, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
