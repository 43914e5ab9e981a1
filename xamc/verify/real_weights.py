"""What a model's real weights do on a few prompts: how large values grow inside it, and what a KV cache's type costs.

transformers runs the checkpoint in fp32, one decoder layer in memory at a time. Every module's inputs and outputs are
looked at, and attention's queries, keys, values and scores, as a target that computes in float16 has to hold them all.
Beside the exact run goes one whose keys and values are rounded as the cache stores them; both yield logits.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xamc.ir.weights.lazy import LazyTensor
from xamc.jobs.child import Limits, run_child
from xamc.model.config import ModelConfig
from xamc.model.layer import EMBEDDING, HEAD
from xamc.model.parameters import layer_name, layer_of
from xamc.verify.cache_rounding import CacheRounding
from xamc.verify.metrics import kl_divergence, top1_agreement
from xamc.verify.streamed_reference import StreamedModel

I64 = NDArray[np.int64]

_REQUEST, _RESULT = "real_weights.pickle", "observed.pickle"
_LIMITS = Limits(seconds=3 * 3600)
_ATTENTION = "xamc_observed"

KEYS, VALUES, UNSCALED = "keys", "values", "scores before they are scaled"


@dataclass(frozen=True)
class Magnitude:
    """The largest magnitude of one kind of values: where (`model.layers.3.mlp.down_proj`), what, and how large."""

    module: str
    what: str
    largest: float

    def __str__(self) -> str:
        return f"the {self.what} of {self.module} ({self.largest:.3g})"


@dataclass(frozen=True)
class Observed:
    """What was seen.

    Attributes:
        magnitudes: in order of execution, module by module.
        positions: how many positions the two below are taken over.
        mean_kl: Kullback-Leibler divergence of the next token with the rounded cache from that with an exact one, nats.
        top1_agreement: share of positions with the same likeliest token.
    """

    magnitudes: tuple[Magnitude, ...]
    positions: int
    mean_kl: float
    top1_agreement: float


def observe(
    config: ModelConfig,
    tensors: Mapping[str, LazyTensor],
    prompts: Sequence[I64],
    cache: CacheRounding,
    folder: Path,
    reproducers: Path,
) -> Observed:
    """Runs the checkpoint over the prompts in a child process.

    Args:
        config: the model.
        tensors: its parameters by transformers name, of any floating dtype.
        prompts: int64 [T] each, token ids.
        cache: how keys and values are stored.
        folder: an existing scratch folder.
        reproducers: where a folder for a hard failure is made.

    Raises:
        ToolchainError: E152x, the child failed.
    """
    # written and read by this program only, a moment apart
    request = (config, dict(tensors), list(prompts), cache)
    (folder / _REQUEST).write_bytes(pickle.dumps(request))
    run_child(f"{__name__}:run_request", str(folder), folder=folder, limits=_LIMITS, reproducers=reproducers)
    observed: Observed = pickle.loads((folder / _RESULT).read_bytes())
    return observed


def run_request(folder: str) -> None:
    """The child's side of `observe`."""
    request = pickle.loads((Path(folder) / _REQUEST).read_bytes())
    (Path(folder) / _RESULT).write_bytes(pickle.dumps(observed(*request)))


def observed(
    config: ModelConfig, tensors: Mapping[str, LazyTensor], prompts: Sequence[I64], cache: CacheRounding
) -> Observed:
    """What the model does on the prompts; every weight is read once.

    Args:
        config: the model.
        tensors: its parameters by transformers name, of any floating dtype.
        prompts: int64 [T] each, token ids.
        cache: how keys and values are stored in the second run; with float32 there is none.
    """
    import torch

    magnitudes, attention = _Magnitudes(), layer_of(config).linear("query").block
    with torch.no_grad(), _observing(magnitudes):
        model = StreamedModel(config, tensors, _ATTENTION)
        exact = [model.embed(ids[None]) for ids in prompts]
        for states in exact:
            magnitudes.add(EMBEDDING.name, "output", states)
        rounded = list(exact) if cache.dtype != "float32" else []
        for index in range(config.num_layers):
            with model.layer(index) as run:
                with magnitudes.watching(model.module(index), layer_name(index), attention):
                    exact = [run(states, _Cache(CacheRounding("float32"))) for states in exact]
                rounded = [run(states, _Cache(cache, model.rotated_key_bias(index, states))) for states in rounded]
        norm = model.norm()
        # an embedding model has no head
        logits = [model.head([norm(states) for states in run]) if model.has_head else [] for run in (exact, rounded)]
    for states in logits[0]:
        magnitudes.add(HEAD.name, "output", torch.from_numpy(states))
    kl, same = np.zeros(1), 1.0
    if rounded and model.has_head:
        before, after = (np.concatenate(run) for run in logits)
        kl, same = kl_divergence(before, after), top1_agreement(before, after)
    return Observed(magnitudes.found(), sum(map(len, prompts)), float(kl.mean()), same)


class _Magnitudes:
    """The largest magnitude by module and kind."""

    def __init__(self) -> None:
        self._largest: dict[tuple[str, str], float] = {}
        self.attention = ""

    def add(self, module: str, what: str, states: Any) -> None:
        largest = float(states.abs().max())
        key = (module, what)
        self._largest[key] = max(largest, self._largest.get(key, 0.0))

    def found(self) -> tuple[Magnitude, ...]:
        return tuple(Magnitude(module, what, largest) for (module, what), largest in self._largest.items())

    @contextmanager
    def watching(self, layer: Any, name: str, attention: str) -> Iterator[None]:
        """Looks at what goes into and comes out of every module of a layer, and at `attention`, the path of one."""
        import torch

        def look(path: str) -> Any:
            def hook(_: Any, inputs: Any, output: Any) -> None:
                for what, value in (("input", inputs), ("output", output)):
                    first = value[0] if isinstance(value, tuple) and value else value
                    if isinstance(first, torch.Tensor) and first.is_floating_point():
                        self.add(path, what, first)

            return hook

        self.attention = f"{name}.{attention}"
        modules = [(f"{name}.{path}" if path else name, module) for path, module in layer.named_modules()]
        handles = [module.register_forward_hook(look(path)) for path, module in modules]
        try:
            yield
        finally:
            self.attention = ""
            for handle in handles:
                handle.remove()


class _Cache:
    """Stands in for transformers' cache: hands keys and values back as they would be read from a real one."""

    def __init__(self, rounding: CacheRounding, key_bias: Any = None) -> None:
        self._rounding, self._key_bias = rounding, key_bias

    def update(self, key: Any, value: Any, layer: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Called by every attention layer with the new tokens' keys and values, [B, Hkv, T, D] each."""
        keys = self._rounding.stored(key, layer, "key", self._key_bias)
        return keys, self._rounding.stored(value, layer, "value")


@contextmanager
def _observing(magnitudes: _Magnitudes) -> Iterator[None]:
    """Registers attention that looks at its operands and scores, under the name of `_ATTENTION`."""
    import torch
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def attention(
        module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float, **_: Any
    ) -> tuple[Any, None]:
        """softmax(scaling q k^T + mask) v; q [B, Hq, T, D], k and v [B, Hkv, T, D]."""
        group = query.shape[1] // key.shape[1]
        scores = query @ key.repeat_interleave(group, 1).transpose(2, 3)
        if magnitudes.attention:
            # hidden keys count as well: a target computes their scores before it masks them
            looked_at = (("queries", query), (KEYS, key), (VALUES, value), (UNSCALED, scores))
            for what, states in (*looked_at, ("scores", scores * scaling)):
                magnitudes.add(magnitudes.attention, what, states)
        weights = torch.softmax(scores * scaling + attention_mask, -1)
        return (weights @ value.repeat_interleave(group, 1)).transpose(1, 2).contiguous(), None

    registry: MutableMapping[str, Any] = ALL_ATTENTION_FUNCTIONS
    registry[_ATTENTION] = attention
    try:
        yield
    finally:
        del registry[_ATTENTION]
