"""Tensor parallelism: one program becomes one per rank.

`plan` divides heads, columns and rows; `roles` knows the weights by name and cuts them; `propagate` and `reshape`
follow the cuts through the graph; `split` writes the ranks' graphs.
"""

from __future__ import annotations

from xamc.passes.graph.shard.plan import ShardPlan, Share
from xamc.passes.graph.shard.split import Shard

__all__ = ["Shard", "ShardPlan", "Share"]
