"""Checkpoints: what a model is and where its weights lie, without reading a weight."""

from __future__ import annotations

from pathlib import Path

from xamc.compiler.frontends.checkpoint import KEYS, Checkpoint, resolve_checkpoint
from xamc.errors import UnsupportedError

__all__ = ["Checkpoint", "open_checkpoint"]


def open_checkpoint(checkpoint: str | Path, type: str, allow_pickle: bool = False) -> Checkpoint:
    """Opens a checkpoint: reads headers, config and tokenizer, checks that they fit each other, reads no weight.

    Args:
        checkpoint: a folder (huggingface), a .gguf file (gguf), or ``package:<python package>/<file>`` for weights
            that ship inside an installed package.
        type: the spec's ``frontend.type``; vamc has more of them than xamc can open.
        allow_pickle: whether weights that lie in a folder as pickles alone are read (in a restricted child process).

    Raises:
        InputError: E11xx, a damaged or contradictory checkpoint; the message names file and tensor.
        UnsupportedError: E1100 another type; E11xx an intact checkpoint that xamc can't map.
    """
    if type not in ("huggingface", "gguf"):
        raise UnsupportedError(
            "E1100",
            f"frontend.type {type} is not supported: xamc reads language models of type huggingface and gguf",
            "give a Hugging Face folder or a .gguf file; graphs of other frameworks compile with vamc",
            keys=("frontend.type", *KEYS),
        )
    path = resolve_checkpoint(checkpoint)
    if type == "huggingface":
        from xamc.compiler.frontends.huggingface.checkpoint import open_huggingface

        return open_huggingface(path, allow_pickle)
    from xamc.compiler.frontends.gguf.checkpoint import open_gguf

    return open_gguf(path)
