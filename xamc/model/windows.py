"""Which layers attend to a sliding window, in the words of config.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def window_keys(hf: Mapping[str, Any], windows: Sequence[int | None]) -> dict[str, Any]:
    """The config keys by which transformers gives each layer of a model its window.

    Args:
        hf: config.json of a model with the same keys.
        windows: of each layer, the window's length in tokens, or None for full attention.
    """
    lengths = {window for window in windows if window is not None}
    keys: dict[str, Any] = {}
    if hf.get("sliding_window") is not None:
        # transformers knows one length per model
        keys["sliding_window"] = max(lengths) if lengths else None
    if hf.get("layer_types") is not None:
        keys["layer_types"] = ["full_attention" if window is None else "sliding_attention" for window in windows]
    if hf.get("max_window_layers") is not None:
        keys["max_window_layers"] = next((i for i, window in enumerate(windows) if window is not None), len(windows))
    return keys
