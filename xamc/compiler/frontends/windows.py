"""Which layers attend to a sliding window, by a family's rule and its keys of config.json."""

from __future__ import annotations

from typing import Any

from xamc.compiler.frontends.config_reader import ConfigReader
from xamc.errors import InputError, UnsupportedError
from xamc.model.layer import Family

Windows = tuple[tuple[int | None, ...], dict[str, Any]]


def read_windows(reader: ConfigReader, family: Family, layers: int) -> Windows:
    """Window per layer in tokens, None for full attention, and the same as arguments of transformers' config class.

    Raises:
        InputError: E1104 keys that contradict each other.
        UnsupportedError: E1107 windows that the family doesn't have.
    """
    match family.windows:
        case "all":
            return _all_layers(reader, layers)
        case "upper":
            return _upper_layers(reader, layers)
        case "none":
            _refuse_windows(reader, layers)
            return (None,) * layers, {}


def _all_layers(reader: ConfigReader, layers: int) -> Windows:
    # An absent key means 4096 in transformers' MistralConfig; null means none.
    absent = "sliding_window" not in reader.values
    window = 4096 if absent else reader.integer("sliding_window", None)
    kinds = reader.take("layer_types")
    if kinds not in (None, ["full_attention" if window is None else "sliding_attention"] * layers):
        raise UnsupportedError(
            "E1107",
            f"{reader.source}: layer_types and sliding_window {window} don't say the same of all {layers} layers",
            "Mistral has one window for all layers, or none; Ministral, whose layers differ, is not supported",
        )
    return (window,) * layers, {"sliding_window": window}


def _upper_layers(reader: ConfigReader, layers: int) -> Windows:
    # Absent means 4096, null means none.
    length = reader.integer("sliding_window", None) if "sliding_window" in reader.values else 4096
    first = reader.integer("max_window_layers", 28, low=0)
    use = reader.flag("use_sliding_window", False)
    kinds = reader.take("layer_types")
    if kinds is None:
        kinds = ["sliding_attention" if use and length and i >= first else "full_attention" for i in range(layers)]
    names = ("full_attention", "sliding_attention")
    if not isinstance(kinds, list) or len(kinds) != layers or any(kind not in names for kind in kinds):
        raise InputError(
            "E1104", f"{reader.source}: layer_types is not a list of {layers} entries of {names}", "restore config.json"
        )
    if not (use and length) and "sliding_attention" in kinds:
        raise InputError(
            "E1104",
            f"{reader.source}: layer_types asks for windows, use_sliding_window and sliding_window do not",
            "restore config.json",
        )
    windows = tuple(length if kind == "sliding_attention" else None for kind in kinds)
    keys = {"use_sliding_window": use, "sliding_window": length, "max_window_layers": first, "layer_types": kinds}
    return windows, keys


def _refuse_windows(reader: ConfigReader, layers: int) -> None:
    """Refuses keys that give some layers a window where all attend alike.

    transformers' Llama has no window in its masks, but its cache drops keys by `sliding_window` and `layer_types`.
    """
    reader.used |= {"sliding_window", "layer_types", "use_sliding_window", "max_window_layers"}
    values, source = reader.values, reader.source
    window, kinds = values.get("sliding_window"), values.get("layer_types")
    positions = values.get("max_position_embeddings")
    reaches = type(window) is int and type(positions) is int and window >= positions
    if window not in (None, False, 0) and not reaches and values.get("use_sliding_window") is not False:
        raise UnsupportedError(
            "E1107",
            f"{source}: sliding_window {window!r} is not supported for model_type {values.get('model_type')}",
            "mistral, qwen2 and qwen3 have windows; for full attention set it to null",
        )
    if kinds is not None and kinds != ["full_attention"] * layers:
        raise UnsupportedError(
            "E1107",
            f"{source}: layer_types is not full_attention for each of {layers} layers, which model_type "
            f"{values.get('model_type')} has",
            "qwen2 and qwen3 have layers of two kinds",
        )
