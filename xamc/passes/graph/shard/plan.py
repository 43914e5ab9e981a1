"""Which heads, MLP columns and vocabulary rows each rank of a tensor-parallel model owns.

Megatron's division (Shoeybi et al. 2019): the projections that widen are split by output rows, those that narrow by
input columns, so that one all-reduce after the attention and one after the MLP suffice. Sizes that do not divide are
padded with zero rows and columns, which add nothing to any sum, so that every rank's graph has the same shapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from xamc.errors import InputError
from xamc.model.config import ModelConfig

Kind = Literal["head", "kv_head", "group", "intermediate", "vocab"]
Span = tuple[int, int]
WIDTH_MULTIPLE = 16
"""A rank's MLP width is a multiple of this."""


@dataclass(frozen=True)
class Share:
    """What a rank owns of the whole model, as half-open ranges; what its local sizes have beyond them is padding."""

    rank: int
    heads: Span
    kv_heads: Span
    intermediate: Span
    vocab: Span

    def of(self, kind: Kind) -> Span:
        """The range of one kind of thing.

        Raises:
            KeyError: `group`, which has no range of its own.
        """
        spans: dict[Kind, Span] = {
            "head": self.heads,
            "kv_head": self.kv_heads,
            "intermediate": self.intermediate,
            "vocab": self.vocab,
        }
        return spans[kind]


@dataclass(frozen=True)
class ShardPlan:
    """The division of one model among `tp` ranks; `vocab_rows` are the rows of lm_head, padding included.

    Query heads are contiguous per rank, and so are KV heads. With K KV heads of G query heads each:

    - K is a multiple of tp: K / tp whole groups per rank;
    - tp is a multiple of K: each KV head lies on tp / K ranks, which share its G query heads out among them, at most
      ceil(G / (tp / K)) each; where G does not divide, ranks are padded with query heads of zeros (with G = 1 there is
      nothing to share out, and the next rule applies);
    - otherwise K is padded with groups of zeros to a number that meets one of the two conditions: the one with the
      fewest heads per rank, counting query and KV heads alike (each is two matrices), and the smallest of equals.
      SmolLM2's 3 groups of 3 become 4 at tp 2 and 4, and at tp 8 four groups on two ranks each.
    """

    tp: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_rows: int

    def __post_init__(self) -> None:
        if self.tp < 1:
            raise InputError("E1331", f"tensor parallelism of {self.tp} ranks", fix="set tp to 1, 2, 4, 8 or 16")
        if self.num_heads % self.num_kv_heads:
            raise InputError(
                "E1331",
                f"{self.num_heads} heads can't share {self.num_kv_heads} KV heads evenly",
                fix="config.json is damaged; use the checkpoint's own",
            )

    @staticmethod
    def of(config: ModelConfig, tp: int, vocab_rows: int | None = None) -> ShardPlan:
        """The plan of a model.

        Args:
            config: the whole model.
            tp: number of ranks.
            vocab_rows: rows of lm_head, padding included; `config.vocab_size` when None.

        Raises:
            InputError: E1331 for fewer than one rank, or heads that do not divide into groups.
        """
        return ShardPlan(
            tp,
            config.num_heads,
            config.num_kv_heads,
            config.head_dim,
            config.intermediate_size,
            config.vocab_size if vocab_rows is None else vocab_rows,
        )

    @property
    def group(self) -> int:
        """Query heads per KV head of the whole model."""
        return self.num_heads // self.num_kv_heads

    @cached_property
    def kv_groups(self) -> int:
        """KV heads with padding: a multiple or a divisor of `tp`."""
        whole = -(-self.num_kv_heads // self.tp) * self.tp
        shared = [n for n in range(self.num_kv_heads, self.tp) if self.tp % n == 0 and self.group > 1]
        return min([*shared, whole], key=lambda groups: (sum(self._heads(groups)), groups))

    def _heads(self, groups: int) -> tuple[int, int]:
        """Query and KV heads per rank for a padded number of KV heads."""
        if groups % self.tp == 0:
            return groups // self.tp * self.group, groups // self.tp
        return -(-self.group // (self.tp // groups)), 1

    @property
    def replicas(self) -> int:
        """Number of ranks that hold the same KV head; 1 when KV heads are shared out."""
        return max(1, self.tp // self.kv_groups)

    def total(self, kind: Kind) -> int:
        """How many the whole model has."""
        totals: dict[Kind, int] = {
            "head": self.num_heads,
            "kv_head": self.num_kv_heads,
            "group": self.group,
            "intermediate": self.intermediate_size,
            "vocab": self.vocab_rows,
        }
        return totals[kind]

    def local(self, kind: Kind) -> int:
        """How many each rank has, padding included; the same for all ranks."""
        heads, kv_heads = self._heads(self.kv_groups)
        match kind:
            case "head":
                return heads
            case "kv_head":
                return kv_heads
            case "group":
                return heads // kv_heads
            case "intermediate":
                if self.tp == 1:
                    return self.intermediate_size
                return -(-self.intermediate_size // (self.tp * WIDTH_MULTIPLE)) * WIDTH_MULTIPLE
            case "vocab":
                return -(-self.vocab_rows // self.tp)

    def padding(self, kind: Kind) -> int:
        """How many zeros of a kind all ranks together hold."""
        return sum(self.local(kind) - (stop - start) for start, stop in (share.of(kind) for share in self.shares))

    @cached_property
    def shares(self) -> tuple[Share, ...]:
        """What each rank owns, in order."""
        return tuple(self._shares())

    def _shares(self) -> Iterator[Share]:
        heads, kv_heads = self.local("head"), self.local("kv_head")
        for rank in range(self.tp):
            if self.replicas > 1:
                kv, part = divmod(rank, self.replicas)
                # the ranks of a KV head share out its own query heads only
                first, last = kv * self.group, (kv + 1) * self.group
                start = first + part * heads
            else:
                kv = rank * kv_heads
                start, last = rank * heads, self.num_heads
            last = min(last, self.num_heads)
            yield Share(
                rank,
                _span(start, heads, last),
                _span(kv, kv_heads, self.num_kv_heads),
                _span(rank * self.local("intermediate"), self.local("intermediate"), self.intermediate_size),
                _span(rank * self.local("vocab"), self.local("vocab"), self.vocab_rows),
            )


def _span(start: int, size: int, end: int) -> Span:
    """`size` things from `start` on, of which those beyond `end` do not exist."""
    return min(start, end), min(start + size, end)
