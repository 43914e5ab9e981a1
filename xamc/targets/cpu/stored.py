"""Weights inside the code-generating child: names, shapes and dtypes, without the bytes behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xamc.errors import InternalError
from xamc.ir.weights.lazy import Array, ConcatRows, LazyTensor


@dataclass(frozen=True)
class StoredTensor:
    """Stands for a tensor of the compiling process."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    def read_rows(self, start: int, stop: int) -> Array:
        """Never called: code generation reads no weight."""
        raise InternalError("E1405", f"code generation tried to read the weight {self.name}")


def recipe(tensor: LazyTensor) -> list[str]:
    """The names whose rows, one tensor after the other, make up `tensor`."""
    if isinstance(tensor, StoredTensor):
        return [tensor.name]
    if isinstance(tensor, ConcatRows):
        return [name for source in tensor.sources for name in recipe(source)]
    raise InternalError("E1405", f"a Relax pass made a weight of a form without a recipe: {type(tensor).__name__}")


def follow(names: Sequence[str], weights: Mapping[str, LazyTensor]) -> LazyTensor:
    """The tensor that a recipe stands for."""
    sources = tuple(weights[name] for name in names)
    return sources[0] if len(sources) == 1 else ConcatRows(sources)
