"""Tensors of the lowering: a flat Relax variable, and how the elements of a value lie in it.

Reshapes, transposes, slices and broadcasts only change a view; elements move when an operator needs them in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from xamc.targets.kernels.strided import Strides, row_major

# NumPy does the arithmetic of strides, on arrays of one-byte elements that all begin at or behind this byte and are
# never read.
_ORIGIN = np.zeros(1, np.uint8)


@dataclass(frozen=True)
class View:
    """A value whose elements lie somewhere in a flat variable.

    Attributes:
        var: Relax variable or constant [size].
        dtype: of its elements; booleans are int8.
        size: elements of `var`.
        layout: a NumPy array that has the value's strides, in elements, and offset.
        groups: how many dimensions of `layout` make up each dimension of the value. More than one where dimensions
            that don't follow each other in memory were merged, as those of repeated KV heads.
    """

    var: Any
    dtype: str
    size: int
    layout: NDArray[np.uint8]
    groups: tuple[int, ...]

    @staticmethod
    def of(var: Any, dtype: str, shape: Sequence[int]) -> View:
        """A whole variable in C order."""
        layout = as_strided(_ORIGIN, tuple(shape), row_major(shape))
        return View(var, dtype, prod(shape), layout, (1,) * len(shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """The value's shape."""
        shape, at = [], 0
        for count in self.groups:
            shape.append(prod(self.layout.shape[at : at + count]))
            at += count
        return tuple(shape)

    @property
    def is_merged(self) -> bool:
        """Whether a dimension of the value is made up of several."""
        return any(count != 1 for count in self.groups)

    @property
    def is_contiguous(self) -> bool:
        """Whether the value is the whole variable in C order."""
        return (
            self.layout.size == self.size
            and self.offset == 0
            and self.layout.strides is not None
            and all(
                dim == 1 or step == wanted
                for dim, step, wanted in zip(
                    self.layout.shape, self.layout.strides, row_major(self.layout.shape), strict=True
                )
            )
        )

    @property
    def offset(self) -> int:
        """Where in `var` the first element lies."""
        return int(self.layout.ctypes.data - _ORIGIN.ctypes.data)

    def strides(self, layout: NDArray[np.uint8] | None = None) -> Strides:
        """How a kernel reads it; `layout` is another array over the same elements, such as a broadcast one."""
        layout = self.layout if layout is None else layout
        return Strides(self.dtype, self.size, int(layout.ctypes.data - _ORIGIN.ctypes.data), tuple(layout.strides))

    def with_layout(self, layout: NDArray[np.uint8]) -> View:
        """The same variable read in another way."""
        return replace(self, layout=layout, groups=(1,) * layout.ndim)

    def transpose(self, permutation: Sequence[int]) -> View:
        """Dimensions in another order, those that make up one staying together."""
        starts = np.cumsum((0, *self.groups)).tolist()
        order = [axis for p in permutation for axis in range(starts[p], starts[p] + self.groups[p])]
        return replace(self, layout=self.layout.transpose(order), groups=tuple(self.groups[p] for p in permutation))

    def reshape(self, shape: Sequence[int]) -> View | None:
        """The same elements in the same order under another shape; None when they would have to move."""
        try:
            return self.with_layout(self.layout.reshape(tuple(shape), copy=False))
        except ValueError:  # NumPy's word for "only by a copy"
            return self._merge(shape)

    def _merge(self, shape: Sequence[int]) -> View | None:
        """Under a shape that only multiplies neighbouring dimensions."""
        groups, at = [], 0
        for dim in shape:
            start, have = at, 1
            while have < dim and at < self.layout.ndim:
                have *= self.layout.shape[at]
                at += 1
            if have != dim:
                return None
            while at < self.layout.ndim and self.layout.shape[at] == 1 and at == start:
                at += 1
            groups.append(max(at - start, 0))
        if at != self.layout.ndim or 0 in groups:
            return None
        return replace(self, groups=tuple(groups))
