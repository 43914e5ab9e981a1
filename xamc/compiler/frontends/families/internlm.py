"""InternLM 1: Llama with biases on q, k, v and o (`bias`), full multi-head attention, its own `rotary` key."""

from __future__ import annotations

from xamc.compiler.frontends.config_reader import ConfigReader
from xamc.compiler.frontends.configuration import model_config
from xamc.errors import InputError
from xamc.model.config import ModelConfig, RopeConfig
from xamc.model.families.llama import LLAMA


def configure(reader: ConfigReader) -> ModelConfig:
    return model_config(reader, LLAMA, rope=_rotary(reader), flags={"attention_bias": reader.flag("bias", True)})


def _rotary(reader: ConfigReader) -> RopeConfig | None:
    """``rotary: {type: origin | dynamic, base, scaling_factor}``; None when the standard keys are used."""
    rotary = reader.mapping("rotary")
    if not rotary:
        return None
    values = ConfigReader(rotary, reader.source)
    kind, base = rotary.get("type", "dynamic"), values.number("base", 10000.0)
    if kind == "origin":
        return RopeConfig("default", base)
    if kind == "dynamic":
        return RopeConfig("dynamic", base, factor=values.number("scaling_factor", 1.0))
    raise InputError("E1106", f"{reader.source}: rotary.type {kind!r} is not supported", "supported: origin, dynamic")
