"""Checkpoints: what a model is and where its weights lie, without reading a weight."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from xamc.compiler.errors import MisuseError
from xamc.compiler.frontends.checkpoint import Checkpoint, resolve_checkpoint

__all__ = ["Checkpoint", "open_checkpoint"]


def open_checkpoint(checkpoint: str | Path, type: Literal["huggingface", "gguf"]) -> Checkpoint:
    """Opens a checkpoint: reads headers, config and tokenizer, checks that they fit each other, reads no weight.

    Args:
        checkpoint: a folder (huggingface), a .gguf file (gguf), or ``package:<python package>/<file>`` for weights
            that ship inside an installed package.
        type: the spec's ``frontend.type``.

    Raises:
        InputError: E11xx, a damaged or contradictory checkpoint; the message names file and tensor.
        UnsupportedError: E11xx, an intact checkpoint that xamc can't map.
    """
    path = resolve_checkpoint(checkpoint)
    if type == "huggingface":
        from xamc.compiler.frontends.huggingface import open_huggingface

        return open_huggingface(path)
    if type == "gguf":
        from xamc.compiler.frontends.gguf import open_gguf

        return open_gguf(path)
    raise MisuseError("E1100", f"frontend.type {type!r} is not a checkpoint format", "use huggingface or gguf")
