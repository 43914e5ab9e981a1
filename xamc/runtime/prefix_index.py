"""Which blocks of the KV cache hold which tokens: a tree of blocks, each with the tokens it caches.

A path from a root spells the beginning of a sequence; a node is one block of it. Only the last block of a path may be
partly filled. Blocks that nothing but this index holds are given up in the order of their last use, leaves first.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import count

Tokens = tuple[int, ...]


class Node:
    """One block of cached tokens behind the blocks of its ancestors; a root has neither block nor tokens."""

    __slots__ = ("block", "children", "parent", "tokens", "used")

    def __init__(self, tokens: Tokens, block: int, parent: Node | None, used: int) -> None:
        self.tokens, self.block, self.parent, self.used = tokens, block, parent, used
        self.children: dict[Tokens, Node] = {}


class PrefixIndex:
    """The tree. It knows nothing of pools: what a block number means is its owner's matter."""

    def __init__(self, block: int) -> None:
        """Args:
        block: tokens of a full block.
        """
        self._block = block
        self._roots: dict[Hashable, Node] = {}
        self._clock = count(1)

    def root(self, kind: Hashable) -> Node:
        """The root of sequences whose keys are comparable: those of another kind never share a block."""
        return self._roots.setdefault(kind, Node((), -1, None, 0))

    def find(self, root: Node, tokens: Sequence[int]) -> tuple[list[Node], Node | None, int]:
        """The longest cached beginning of `tokens`.

        Returns:
            The nodes of its full blocks; the node of which only a beginning matches, or None; and how many tokens of
            that one match.
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
            if same > longest:
                best, longest = child, same
        now = next(self._clock)
        for found in [*path, *([best] if best else [])]:
            found.used = now
        return path, best, longest

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
        """Takes a leaf out."""
        assert node.parent is not None and not node.children
        del node.parent.children[node.tokens]

    def oldest(self, removable: Callable[[int], bool]) -> Node | None:
        """The leaf that was used least recently among those whose block is `removable`, or None."""
        leaves = (node for node in self.nodes() if not node.children and removable(node.block))
        return min(leaves, key=lambda node: node.used, default=None)

    def nodes(self) -> Iterator[Node]:
        """All blocks of the tree."""
        stack = [child for root in self._roots.values() for child in root.children.values()]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())


def _common(a: Tokens, b: Tokens) -> int:
    """Length of the longest common beginning."""
    return next((index for index, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
