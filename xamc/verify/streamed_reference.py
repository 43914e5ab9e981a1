"""transformers' fp32 logits of a real checkpoint, one decoder layer in memory at a time.

Each layer is transformers' own module, unpatched, with eager attention. Its weights are read into it, applied to all
prompts one by one, and dropped; embedding rows are read one by one, and lm_head in blocks of rows. The peak is one
layer in fp32 and one block: 0.8 GiB for an 8B model, where loading it would take 33.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xamc.ir.weights.lazy import LazyTensor, row_blocks
from xamc.jobs.child import Limits, run_child
from xamc.model.config import ModelConfig
from xamc.model.layer import EMBEDDING_WEIGHT, FINAL_NORM, HEAD_WEIGHT
from xamc.model.parameters import has_key_biases, layer_name, layer_of

I64 = NDArray[np.int64]
F32 = NDArray[np.float32]

_REQUEST, _RESULT = "reference.pickle", "reference.npz"
_LIMITS = Limits(seconds=3 * 3600)


def reference_logits(
    config: ModelConfig, tensors: Mapping[str, LazyTensor], prompts: Sequence[I64], folder: Path, reproducers: Path
) -> list[F32]:
    """Logits of prompts by transformers in fp32, computed in a child process.

    Args:
        config: the model.
        tensors: its parameters by transformers name, of any floating dtype.
        prompts: int64 [T] each, token ids.
        folder: an existing scratch folder.
        reproducers: where a folder for a hard failure is made.

    Returns:
        float32 [T, V] for each prompt.

    Raises:
        ToolchainError: E152x, the child failed.
    """
    # written and read by this program only, a moment apart
    (folder / _REQUEST).write_bytes(pickle.dumps((config, dict(tensors), list(prompts))))
    run_child(f"{__name__}:run_request", str(folder), folder=folder, limits=_LIMITS, reproducers=reproducers)
    with np.load(folder / _RESULT) as results:
        return [results[str(index)] for index in range(len(prompts))]


def run_request(folder: str) -> None:
    """The child's side of `reference_logits`."""
    config, tensors, prompts = pickle.loads((Path(folder) / _REQUEST).read_bytes())
    named: dict[str, Any] = {str(index): row for index, row in enumerate(streamed_logits(config, tensors, prompts))}
    np.savez(Path(folder) / _RESULT, **named)


def streamed_logits(config: ModelConfig, tensors: Mapping[str, LazyTensor], prompts: Sequence[I64]) -> list[F32]:
    """Logits [T, V] of each prompt; every weight is read once, however many prompts there are.

    Args:
        config: the model.
        tensors: its parameters by transformers name, of any floating dtype.
        prompts: int64 [T] each, token ids.
    """
    import torch

    model = StreamedModel(config, tensors)
    with torch.no_grad():
        hidden = [model.embed(ids[None]) for ids in prompts]
        for index in range(config.num_layers):
            with model.layer(index) as run:
                hidden = [run(states) for states in hidden]
        norm = model.norm()
        return model.head([norm(states) for states in hidden])


class StreamedModel:
    """transformers' modules of a checkpoint, each with its weights only while it is used."""

    def __init__(self, config: ModelConfig, tensors: Mapping[str, LazyTensor], attention: str = "eager") -> None:
        """Builds the model on the meta device.

        Args:
            config: the model.
            tensors: its parameters by transformers name, of any floating dtype.
            attention: the name of an attention function that transformers knows.
        """
        from xamc.model.meta_model import meta_model

        self._config, self._tensors = config, tensors
        self._head = EMBEDDING_WEIGHT if config.tie_word_embeddings else HEAD_WEIGHT
        self._meta = meta_model(config, attention)

    def embed(self, ids: NDArray[np.int64]) -> Any:
        """Embeddings of token ids [B, T], a float32 torch tensor [B, T, H]; only the rows in use are read."""
        import torch

        return torch.from_numpy(_embedding_rows(self._tensors[EMBEDDING_WEIGHT], ids))

    @contextmanager
    def layer(self, index: int) -> Iterator[Callable[..., Any]]:
        """A function from hidden states [B, T, H] to those after decoder layer `index`, positions 0 to T - 1.

        Its second argument, if any, is given to transformers as the cache that takes the layer's keys and values. The
        weights are in memory until the context ends.
        """
        import torch

        layer, window = self.module(index), self._config.sliding_windows[index]
        _load(layer, layer_name(index), self._tensors)

        def run(hidden: Any, cache: Any = None) -> Any:
            length = hidden.shape[1]
            positions = torch.arange(length)[None]
            with torch.no_grad():
                result = layer(
                    hidden,
                    attention_mask=_mask(length, window),
                    position_ids=positions,
                    position_embeddings=self._rotations(hidden, positions),
                    past_key_values=cache,
                    use_cache=cache is not None,
                )
            return result[0] if isinstance(result, tuple) else result

        try:
            yield run
        finally:
            # back to the meta device: its memory is free before the next layer is read
            layer.to_empty(device="meta")

    def _rotations(self, hidden: Any, positions: Any) -> Any:
        """cos and sin of a call, from a fresh module: one for dynamic scaling remembers its longest call."""
        return type(self._meta.model.rotary_emb)(config=self._meta.config)(hidden, positions)

    @property
    def has_head(self) -> bool:
        """Whether the checkpoint yields logits."""
        return self._head in self._tensors

    def module(self, index: int) -> Any:
        """transformers' module of a decoder layer."""
        return self._meta.get_submodule(layer_name(index))

    def rotated_key_bias(self, index: int, hidden: Any) -> Any | None:
        """What the bias of a layer's keys adds to each of them after RoPE, [1, Hkv, T, D]; None where it has none.

        None as well where a norm comes between the two, or where a position's rotation depends on the length. The
        layer's weights have to be in memory.

        Args:
            index: the layer.
            hidden: hidden states [B, T, H], whose positions are 0 to T - 1.
        """
        import torch

        if not has_key_biases(self._config):
            return None
        bias = self.module(index).get_submodule(layer_of(self._config).linear("key").name).bias
        cos, sin = self._rotations(hidden, torch.arange(hidden.shape[1])[None])
        keys = bias.detach().view(-1, 1, self._config.head_dim)
        low, high = keys.chunk(2, -1)
        return keys * cos[:, None] + torch.cat((-high, low), -1) * sin[:, None]

    def head(self, hidden: Sequence[Any]) -> list[F32]:
        """Logits [T, V] of normalized hidden states [1, T, H] each; lm_head is read in blocks of rows."""
        import torch

        head = self._tensors[self._head]
        logits = [np.empty((states.shape[1], self._config.vocab_size), np.float32) for states in hidden]
        for start, stop in row_blocks(head):
            block = torch.from_numpy(_float32(head, start, stop))
            for states, answer in zip(hidden, logits, strict=True):
                answer[:, start:stop] = torch.nn.functional.linear(states[0], block).numpy()
        return logits

    def norm(self) -> Any:
        """The final norm with its weight, a function of hidden states."""
        norm = self._meta.get_submodule(FINAL_NORM.name)
        _load(norm, FINAL_NORM.name, self._tensors)
        return norm


def _mask(length: int, window: int | None) -> Any:
    """[1, 1, T, T] to add to the scores: 0 where query i sees key j (i - window < j <= i), else the lowest float."""
    import torch

    query, key = torch.arange(length)[:, None], torch.arange(length)[None, :]
    seen = key <= query
    if window is not None:
        seen &= key > query - window
    return torch.where(seen, 0.0, torch.finfo(torch.float32).min)[None, None]


def _load(module: Any, path: str, tensors: Mapping[str, LazyTensor]) -> None:
    """Gives a module on the meta device its weights in fp32, read in row blocks."""
    import torch

    module.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            tensor = tensors[f"{path}.{name}"]
            for start, stop in row_blocks(tensor):
                parameter[start:stop] = torch.from_numpy(_float32(tensor, start, stop))


def _float32(tensor: LazyTensor, start: int, stop: int) -> F32:
    return np.ascontiguousarray(tensor.read_rows(start, stop).astype(np.float32))


def _embedding_rows(table: LazyTensor, ids: NDArray[np.int64]) -> F32:
    rows = {int(token): _float32(table, int(token), int(token) + 1)[0] for token in np.unique(ids)}
    return np.stack([[rows[int(token)] for token in row] for row in ids])
