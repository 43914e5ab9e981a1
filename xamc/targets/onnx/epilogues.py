"""What follows a convolution and is computed where its sums are written: bias, residual, and the bounds of ReLU."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import tvm
import tvm_ffi
from tvm import relax

from xamc.targets.kernels.convolution import Epilogue


@dataclass(frozen=True)
class ConvolutionEnd:
    """A convolution and its followers.

    Attributes:
        last: the variable that holds the result.
        absorbed: the variables before it, which nothing else reads.
        bias, residual: what is added, or None.
        epilogue: the same for the kernel.
    """

    last: Any
    absorbed: tuple[Any, ...]
    bias: Any
    residual: Any
    epilogue: Epilogue


def convolution_end(
    var: Any,
    producers: Mapping[Any, Any],
    users: Mapping[Any, list[Any]],
    is_weight: Callable[[Any], bool],
    taken: Callable[[Any], bool],
    rank: int,
) -> ConvolutionEnd:
    """Follows a convolution as long as each result has one reader that the kernel can compute.

    Args:
        var: the convolution's result [N, F, ...].
        producers: variable → its expression.
        users: variable → the variables that read it, None for the function's result.
        is_weight: whether an operand depends on weights alone.
        taken: whether a variable belongs to another kernel already.
        rank: spatial dimensions.
    """
    features = int(list(var.ty.shape)[1])
    chain, bias, residual, low, high = [var], None, None, None, None
    while True:
        readers = users.get(chain[-1], [])
        if len(readers) != 1 or readers[0] is None or taken(readers[0]):
            break
        value = producers[readers[0]]
        if not isinstance(value, relax.Call) or not hasattr(value.op, "name"):
            break
        name = value.op.name
        if name == "relax.add" and low is None and high is None:
            left, right = value.args
            other = right if left.same_as(chain[-1]) else left
            if not isinstance(other, relax.Var | tvm.ir.GenericConst) or other.same_as(chain[-1]):
                break
            if bias is None and residual is None and is_weight(other) and _per_feature(other, features, rank):
                bias = other
            elif residual is None and tvm_ffi.structural_equal(other.ty, var.ty):
                residual = other
            else:
                break
        elif name == "relax.nn.relu" and low is None and high is None:
            low = 0.0
        elif (found := _bound(value, chain[-1])) is not None and high is None:
            kind, number = found
            if kind == "maximum" and low is None:
                low = number
            elif kind == "minimum":
                high = number
            else:
                break
        else:
            break
        chain.append(readers[0])
    epilogue = Epilogue(bias is not None, residual is not None, low, high)
    return ConvolutionEnd(chain[-1], tuple(chain[:-1]), bias, residual, epilogue)


def _per_feature(var: Any, features: int, rank: int) -> bool:
    """Whether a tensor has one value per feature, to be added to [N, F, ...]."""
    dims = [getattr(dim, "value", 0) for dim in var.ty.shape]
    return prod(dims) == features and len(dims) in (rank + 1, rank + 2) and dims[-rank - 1] == features


def _bound(value: Any, var: Any) -> tuple[str, float] | None:
    """("maximum" or "minimum", the bound) if a call is a maximum, or minimum, of `var` and a number."""
    kind = value.op.name.removeprefix("relax.")
    if kind not in ("maximum", "minimum") or not value.args[0].same_as(var):
        return None
    bound = value.args[1]
    if (
        not isinstance(bound, tvm.ir.GenericConst)
        or bound.value.numpy().size != 1
        or len(bound.ty.shape) > len(var.ty.shape)
    ):
        return None
    number = float(bound.value.numpy().reshape(()))
    return None if math.isnan(number) else (kind, number)
