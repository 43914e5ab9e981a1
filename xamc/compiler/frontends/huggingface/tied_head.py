"""``tie_word_embeddings: true`` beside a stored output matrix: which of both counts.

As in transformers 5 (`PreTrainedModel.tie_weights` after loading): where embedding and head are stored and differ, the
file is believed and both are kept; where one alone is stored, it serves as both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xamc.compiler.frontends.tensor_source import TensorSource
from xamc.ir.weights.lazy import LazyTensor, row_blocks
from xamc.ir.weights.transforms import Zeros
from xamc.model.config import ModelConfig
from xamc.model.layer import EMBEDDING_WEIGHT, HEAD_WEIGHT

if TYPE_CHECKING:
    from xamc.compiler.frontends.families import StoredFamily

_BLOCK_BYTES = 4 * 2**20  # matrices that differ mostly do so in their first rows


def read_parameters(
    family: StoredFamily, config: ModelConfig, source: TensorSource
) -> tuple[ModelConfig, dict[str, LazyTensor]]:
    """The family's parameters, and `config` as the stored head makes it.

    Both matrices are read and compared where a tied model's file holds both; nothing else is read.

    Args:
        family: maps `source` to the transformers class.
        config: of config.json.
        source: the checkpoint's tensors; problems of taking them are raised by its `finish`.

    Returns:
        `config`, not tied where embedding and head differ; parameters by name, without a head where it is tied.
    """
    if not config.tie_word_embeddings or family.head_name not in source:
        return config, family.parameters(config, source)
    untied = config.changed(tie_word_embeddings=False)
    tensors = family.parameters(untied, source)
    embedding, head = tensors[EMBEDDING_WEIGHT], tensors.pop(HEAD_WEIGHT)
    if isinstance(embedding, Zeros) and family.head_name not in source.missing and not source.mismatched:
        # only the head is stored: the embedding, taken first by every family, is the same matrix
        source.missing.pop(0)
        return config, tensors | {EMBEDDING_WEIGHT: head}
    if are_different(embedding, head):
        return untied, tensors | {HEAD_WEIGHT: head}
    source.taken.discard(family.head_name)
    return config, tensors


def are_different(embedding: LazyTensor, head: LazyTensor) -> bool:
    """Whether the two matrices, [vocabulary, hidden], hold other numbers; both are read until they do."""
    # a shape that config.json contradicts is already a problem of the source, and a pickle may name one tensor twice
    if embedding == head or isinstance(embedding, Zeros) or isinstance(head, Zeros):
        return False
    if embedding.shape != head.shape:
        return True
    for start, stop in row_blocks(embedding, limit=_BLOCK_BYTES):
        one, other = embedding.read_rows(start, stop), head.read_rows(start, stop)
        # numbers, not bytes: the two may be stored in different types, and 0 equals -0
        if not np.array_equal(one.astype(np.float32), other.astype(np.float32)):
            return True
    return False
