"""What a type of KV cache makes of keys and values: what was stored and read again, in torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xamc.ir.weights.kv_scales import LARGEST_CODE, KvScales, scales_name, zeros_name
from xamc.model.kv_cache import past_key, past_value

SIXTEEN_BITS = ("float16", "bfloat16")


@dataclass(frozen=True)
class CacheRounding:
    """How a target stores keys and values.

    Attributes:
        dtype: float32, float16, bfloat16 or int8.
        scales: of an int8 cache with constant ones per head and channel; None for one scale per token and head.
        unbiased_keys: whether an int8 cache holds keys without their rotated biases (see `targets.kernels.key_bias`).
    """

    dtype: str
    scales: KvScales | None = None
    unbiased_keys: bool = False

    def stored(self, states: Any, layer: int, kind: str, added: Any = None) -> Any:
        """Keys or values as they are read back.

        Args:
            states: float32 [B, Hkv, T, D], keys after RoPE.
            layer: their layer.
            kind: ``key`` or ``value``.
            added: what is added to the keys when they are read, [1, Hkv, T, D], or None.
        """
        import torch

        if self.dtype == "float32":
            return states
        if self.dtype in SIXTEEN_BITS:
            return states.to(getattr(torch, self.dtype)).to(torch.float32)
        if added is not None and self.unbiased_keys:
            return self._int8(states - added, layer, kind) + added
        return self._int8(states, layer, kind)

    def _int8(self, states: Any, layer: int, kind: str) -> Any:
        import torch

        if self.scales is None:
            scale = states.abs().amax(-1, keepdim=True) / LARGEST_CODE
            return torch.round(states / scale.clamp(min=1e-30)) * scale
        past = (past_key if kind == "key" else past_value)(layer)
        scale, zero = (torch.from_numpy(self.scales.tensors[n(past)])[:, None] for n in (scales_name, zeros_name))
        return torch.round((states - zero) / scale).clamp(-LARGEST_CODE, LARGEST_CODE) * scale + zero
