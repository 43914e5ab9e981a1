"""Patches that make a transformers model export as high-level ONNX operators.

Everything is installed inside one context manager and restored when it ends, also after an error. The public
registries of transformers are used for attention and masks; rotary embedding and RMSNorm are replaced per modeling
module, because transformers has no registry for them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any
from unittest import mock

import torch
import torch.onnx.ops as onnx_ops
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from xamc.errors import InternalError
from xamc.ir.names import MASK_DOMAIN, MASK_OP

ATTENTION_NAME = "xamc_export"


@dataclass
class ExportState:
    """What the patched functions read and write during one trace.

    `past` holds (keys, values) per layer, each [B, Hkv, P, D]; `present` is filled with [B, Hkv, P + S, D] pairs.
    """

    position_ids: torch.Tensor
    past: list[tuple[torch.Tensor, torch.Tensor]]
    sliding_windows: tuple[int | None, ...]
    present: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    masks: dict[int, torch.Tensor] = field(default_factory=dict)


_STATE: list[ExportState] = []


@contextmanager
def tracing(state: ExportState) -> Iterator[ExportState]:
    """Makes `state` the one that the patched functions use."""
    _STATE.append(state)
    try:
        yield state
    finally:
        _STATE.pop()


def _window_mask(state: ExportState, window: int, kv_length: torch.SymInt | int) -> torch.Tensor:
    """A boolean [B, 1, S, T] mask that is true where key j > query position - window; one per window length."""
    if window not in state.masks:
        batch, length = state.position_ids.shape
        state.masks[window] = onnx_ops.symbolic(
            f"{MASK_DOMAIN}::{MASK_OP}",
            (state.position_ids, torch.scalar_tensor(kv_length, dtype=torch.int64)),
            attrs={"window": window},
            dtype=torch.bool,
            shape=(batch, 1, length, kv_length),
        )
    return state.masks[window]


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface as ONNX `Attention` with past and present (opset 23)."""
    state = _STATE[-1]
    layer = int(module.layer_idx)
    past_key, past_value = state.past[layer]
    window = state.sliding_windows[layer]
    mask = None if window is None else _window_mask(state, window, past_key.shape[2] + query.shape[2])
    output, present_key, present_value, _qk = onnx_ops.attention(
        query, key, value, mask, past_key, past_value, is_causal=True, scale=scaling
    )
    state.present[layer] = (present_key, present_value)
    return output.transpose(1, 2), None


def _rotary(
    query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """transformers' apply_rotary_pos_emb as two ONNX `RotaryEmbedding`; cos and sin are tables [R, D/2]."""
    positions = _STATE[-1].position_ids
    return (
        onnx_ops.rotary_embedding(query, cos, sin, positions),
        onnx_ops.rotary_embedding(key, cos, sin, positions),
    )


def _rms_norm(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """RMSNorm as `F.rms_norm`, which exports as ONNX `RMSNormalization`."""
    return torch.nn.functional.rms_norm(hidden_states, (hidden_states.shape[-1],), self.weight, self.variance_epsilon)


def _no_mask(*_: Any, **__: Any) -> None:
    return None


@contextmanager
def patched(modeling: ModuleType) -> Iterator[None]:
    """Installs all patches for one `transformers.models.<x>.modeling_<x>` module, and removes them at the end.

    Raises:
        InternalError: E1201 when the module has no `apply_rotary_pos_emb` or no RMSNorm class (a transformers
            release that moved them).
    """
    norms = [
        cls
        for name, cls in inspect.getmembers(modeling, inspect.isclass)
        if name.endswith("RMSNorm") and cls.__module__ == modeling.__name__
    ]
    if not norms or not hasattr(modeling, "apply_rotary_pos_emb"):
        raise InternalError(
            "E1201",
            f"{modeling.__name__} has no RMSNorm class or no apply_rotary_pos_emb to patch",
            fix="install the transformers version of constraints.txt (xamc doctor)",
        )
    with ExitStack() as stack:
        stack.enter_context(_registered(ALL_ATTENTION_FUNCTIONS, _attention))
        stack.enter_context(_registered(ALL_MASK_ATTENTION_FUNCTIONS, _no_mask))
        stack.enter_context(mock.patch.object(modeling, "apply_rotary_pos_emb", _rotary))
        for cls in norms:
            stack.enter_context(mock.patch.object(cls, "forward", _rms_norm))
        yield


@contextmanager
def _registered(registry: MutableMapping[str, Any], function: Any) -> Iterator[None]:
    registry[ATTENTION_NAME] = function
    try:
        yield
    finally:
        del registry[ATTENTION_NAME]
