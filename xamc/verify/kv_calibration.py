"""Ranges of keys and values over a text, from which the scales of an int8 KV cache follow.

transformers runs the real checkpoint in fp32 over the text, one decoder layer in memory at a time. Each layer hands
its keys (after RoPE) and values to a cache that only keeps their minima and maxima per KV head and channel. The hidden
states between layers, which grow with the text, lie in a mapped file, not in anonymous memory.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xamc.ir.weights.kv_scales import F32, KvScales, Range, past_names
from xamc.ir.weights.lazy import LazyTensor
from xamc.jobs.child import Limits, run_child
from xamc.model.config import ModelConfig
from xamc.model.kv_cache import past_key, past_value
from xamc.model.parameters import bias_name, has_key_biases
from xamc.passes.graph.key_bias_apart import rotated_bias
from xamc.verify.scenario import Case
from xamc.verify.streamed_reference import StreamedModel

I64 = NDArray[np.int64]

_REQUEST, RESULT, _HIDDEN = "calibration.pickle", "scales.safetensors", "hidden.f32"
HEADROOM = 1.25
"""How much wider than what a text showed a range is taken to be. A value beyond its range is clamped, which costs more
than steps that are a quarter larger: docs/vacc.md has the measurement."""
_LIMITS = Limits(seconds=6 * 3600)


def calibrate(
    config: ModelConfig, tensors: Mapping[str, LazyTensor], samples: Sequence[I64], folder: Path, reproducers: Path
) -> Path:
    """Scales from the ranges over `samples`, widened by `HEADROOM`, computed in a child process.

    Args:
        config: the model.
        tensors: its parameters by transformers name, of any floating dtype.
        samples: token ids of each calibration text, int64 [T].
        folder: an existing scratch folder on a disk with room for every token's hidden state in fp32.
        reproducers: where a folder for a hard failure is made.

    Returns:
        The safetensors file in `folder` that `read_kv_scales` reads.

    Raises:
        ToolchainError: E152x, the child failed.
    """
    # written and read by this program only, a moment apart
    (folder / _REQUEST).write_bytes(pickle.dumps((config, dict(tensors), list(samples))))
    run_child(f"{__name__}:run_request", str(folder), folder=folder, limits=_LIMITS, reproducers=reproducers)
    (folder / _REQUEST).unlink()
    return folder / RESULT


def run_request(folder: str) -> None:
    """The child's side of `calibrate`."""
    config, tensors, samples = pickle.loads((Path(folder) / _REQUEST).read_bytes())
    apart = has_key_biases(config)
    ranges = widened(streamed_kv_ranges(config, tensors, samples, Path(folder), unbiased_keys=apart), HEADROOM)
    KvScales.from_ranges(config, ranges, apart).save(Path(folder) / RESULT)


def streamed_kv_ranges(
    config: ModelConfig,
    tensors: Mapping[str, LazyTensor],
    samples: Sequence[I64],
    folder: Path,
    unbiased_keys: bool = False,
) -> dict[str, Range]:
    """(minimum, maximum) of keys and values per KV head and channel over all samples.

    Args:
        config: the model.
        tensors: its parameters by transformers name, of any floating dtype.
        samples: token ids of each text, int64 [T], T > 0; each starts at position 0 and sees only itself.
        folder: where the hidden states are kept meanwhile, in a file that is removed at the end.
        unbiased_keys: whether keys are looked at without their rotated biases.

    Returns:
        `past_key.0`, `past_value.0`, ... -> two float32 [Hkv, D]. Keys are those after RoPE.
    """
    import torch

    model = StreamedModel(config, tensors)
    ends = np.cumsum([len(sample) for sample in samples])
    bounds = [(int(end) - len(sample), int(end)) for sample, end in zip(samples, ends, strict=True)]
    path = folder / _HIDDEN
    recorder = RangeRecorder()
    try:
        hidden = np.memmap(path, np.float32, "w+", shape=(int(ends[-1]), config.hidden_size))
        for sample, (start, stop) in zip(samples, bounds, strict=True):
            hidden[start:stop] = model.embed(sample[None])[0].numpy()
        for index in range(config.num_layers):
            with model.layer(index) as run:
                for start, stop in bounds:
                    block = torch.from_numpy(np.array(hidden[start:stop]))[None]
                    recorder.key_bias = model.rotated_key_bias(index, block) if unbiased_keys else None
                    hidden[start:stop] = run(block, recorder)[0].numpy()
        del hidden
    finally:
        path.unlink(missing_ok=True)
    return recorder.ranges


def widened(ranges: Mapping[str, Range], factor: float) -> dict[str, Range]:
    """Ranges of `factor` times their width, round the same middles."""
    wide: dict[str, Range] = {}
    for name, (low, high) in ranges.items():
        margin = (high - low) * np.float32((factor - 1) / 2)
        wide[name] = (low - margin, high + margin)
    return wide


class RangeRecorder:
    """Stands in for transformers' cache: notes the range of what a layer would cache, and keeps nothing else."""

    def __init__(self) -> None:
        self.ranges: dict[str, Range] = {}
        # [1, Hkv, T, D], what the keys that come next are looked at without
        self.key_bias: Any = None

    def update(self, key: Any, value: Any, layer: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Called by every attention layer with the new tokens' keys and values, [B, Hkv, T, D] each."""
        looked_at = key if self.key_bias is None else key - self.key_bias
        for name, states in ((past_key(layer), looked_at), (past_value(layer), value)):
            low, high = states.amin(dim=(0, 2)).numpy(), states.amax(dim=(0, 2)).numpy()
            if name in self.ranges:
                low, high = np.minimum(low, self.ranges[name][0]), np.maximum(high, self.ranges[name][1])
            self.ranges[name] = (low, high)
        return key, value


def scales_of_cases(
    config: ModelConfig, cases: Sequence[Case], weights: Mapping[str, LazyTensor] | None = None
) -> KvScales:
    """Scales for a twin: the ranges of what transformers cached in its own calls, whose caches start empty.

    With its `weights`, of keys without their rotated biases.
    """
    ranges: dict[str, Range] = {}
    for past in past_names(config):
        present = past.replace("past_", "present_")
        parts: list[F32] = [case.fetches[present].astype(np.float32) for case in cases]
        name = bias_name(config, int(past.split(".")[1]), "key")
        if weights is not None and name in weights and past.startswith("past_key"):
            bias = weights[name].read_rows(0, weights[name].shape[0]).astype(np.float32)
            parts = [part - rotated_bias(bias, config, np.arange(part.shape[2])) for part in parts]
        low = np.min([part.min(axis=(0, 2)) for part in parts], axis=0)
        high = np.max([part.max(axis=(0, 2)) for part in parts], axis=0)
        ranges[past] = (low, high)
    return KvScales.from_ranges(config, ranges, weights is not None)
