"""How far a twin's logits move because kernels round: a bound that follows from the arithmetic and the twin itself.

What the kernels round is known: keys and values to the type of the cache, the operands of linear layers to bfloat16
or to integers with a scale per group. Here the same program runs in NumPy, in float32, with random noise in their
place, uniform within half a step of what is rounded, the largest error that rounding to nearest can make. A twin with
peaked attention amplifies it, another hardly does, so that the distance from the exact answer is this twin's own. It
is found without any kernel. Two roundings of one size are within a small factor of each other
(`rounding_noise` in `ir.tolerances`); a kernel that is wrong, or rounds what it should not, is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xamc.artifact.packing import WeightFormat
from xamc.passes.lowering import interpreter
from xamc.passes.lowering.evaluate import Evaluation
from xamc.passes.lowering.interpreter import Array, Definition
from xamc.targets.kernels.integer_dot import IntegerDot
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.kv_pages import LARGEST_CODE, KvDtype
from xamc.targets.kernels.linear import Activations, gemm_arithmetic, integers
from xamc.targets.kernels.microkernel import FLOAT32
from xamc.verify.metrics import relative_error

UNIT_ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
"""The largest relative error of rounding to nearest: half a unit in the last place of 11 and 8 significant bits."""

SEEDS = (0, 1, 2)
"""The largest of some draws: a maximum over logits differs by a few tenths between draws, not by factors."""


@dataclass(frozen=True)
class Rounding:
    """What is rounded on the way to the logits.

    Attributes:
        cache: type of the stored keys and values.
        activations: what linear layers multiply their inputs as.
        isa: the level whose kernels do it.
    """

    cache: KvDtype
    activations: Activations = "float32"
    isa: Isa | None = None

    def noise(self, seed: int) -> dict[str, Definition]:
        """Definitions of the operators whose inputs are rounded, with noise of that size."""
        random = np.random.default_rng(seed)

        def uniform(like: Array) -> Array:
            return np.asarray(random.uniform(-1.0, 1.0, like.shape), np.float32)

        def stored(array: Array) -> Array:
            if self.cache == "float32":
                return array
            values = array.astype(np.float32)
            if self.cache == "int8":
                step = np.abs(values).max(-1, keepdims=True) / LARGEST_CODE
                return np.asarray(values + uniform(values) * step / 2, np.float32)
            return np.asarray(values * (1 + uniform(values) * np.float32(UNIT_ROUNDOFF[self.cache])), np.float32)

        def rope_kv_write(*tensors: Array, **attributes: Any) -> tuple[Array, ...]:
            rotated, key, value = interpreter.rope_kv_write(*tensors, **attributes)
            return rotated, stored(key), stored(value)

        def linear(x: Array, weight: Array, *rest: Array, format: dict[str, Any], bias: bool, residual: bool) -> Array:
            fmt = WeightFormat(format["kind"], format["group"])
            tail = list(rest)
            dot = self._dot(fmt)
            if dot is not None:
                x = _noisy_groups(x, dot, uniform)
            elif self._in_bfloat16:
                if fmt.quantized:
                    parts = [tail.pop(0) for _ in range(2 if fmt.kind == "uint4" else 1)]
                    weight = interpreter.dequantize(weight, *parts, kind=fmt.kind, group=fmt.group_size)
                    format = {"kind": "float32", "group": None}
                unit = np.float32(UNIT_ROUNDOFF["bfloat16"])
                x, weight = (a * (1 + uniform(a) * unit) for a in (x, weight.astype(np.float32)))
            return interpreter.linear(x, weight, *tail, format=format, bias=bias, residual=residual)

        return {"rope_kv_write": rope_kv_write, "linear": linear}

    def rounds_activations(self, formats: Iterable[WeightFormat]) -> bool:
        """Whether layers with weights of one of these formats round their inputs to less than 16 bits."""
        dots = [dot for fmt in formats if (dot := self._dot(fmt)) is not None]
        return self._in_bfloat16 or any(dot.levels == 127 for dot in dots)

    @property
    def _in_bfloat16(self) -> bool:
        return self.isa is not None and gemm_arithmetic(self.isa, self.activations) is not FLOAT32

    def _dot(self, fmt: WeightFormat) -> IntegerDot | None:
        kind = integers(fmt, self.activations)
        return None if kind is None or self.isa is None else IntegerDot.of(fmt, self.isa, kind)


def _noisy_groups(x: Array, dot: IntegerDot, uniform: Callable[[Array], Array]) -> Array:
    """x [..., K] with noise of half a step of its group's scale."""
    k = x.shape[-1]
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -k % dot.group)])
    groups = padded.reshape(*x.shape[:-1], -1, dot.group)
    step = np.abs(groups).max(-1, keepdims=True) / dot.levels
    return np.asarray((groups + uniform(groups) * step / 2).reshape(padded.shape)[..., :k], np.float32)


def rounding_effect(
    program: Evaluation,
    calls: Sequence[Mapping[str, Array]],
    expected: Sequence[Sequence[Array]],
    rounding: Rounding,
) -> list[float]:
    """For each output in `expected` the largest relative deviation from it under noise as large as the rounding.

    Args:
        program: the twin, whose caches are as its passes left them: where these round already, no noise is added.
        calls: the feeds of each call.
        expected: for each call the exact outputs, or the first of them.
        rounding: what is rounded.
    """
    worst = [0.0] * len(expected[0])
    for seed in SEEDS:
        for outputs, exact in zip(program.run(calls, rounding.noise(seed)), expected, strict=True):
            for place, right in enumerate(exact):
                worst[place] = max(worst[place], relative_error(outputs[place], right))
    return worst
