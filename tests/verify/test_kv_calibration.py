"""Ranges of keys and values, streamed layer by layer, against a whole transformers model with its own cache."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from tests import twins
from tests.checkpoints import write_tiny
from xamc.compiler.export.worker import eager_model
from xamc.compiler.frontends import open_checkpoint
from xamc.ir.tolerances import tolerance
from xamc.ir.weights.kv_scales import KvScales, past_names, read_kv_scales
from xamc.verify.kv_calibration import HEADROOM, calibrate, scales_of_cases, streamed_kv_ranges
from xamc.verify.metrics import relative_error
from xamc.verify.oracle import materialize

# two texts of different length: the second one's keys start at position 0 again
SAMPLES = [np.random.default_rng(seed).integers(0, 272, length) for seed, length in ((0, 13), (1, 7))]


@pytest.mark.parametrize("name", ["llama3", "internlm2_bias", "qwen2_window", "qwen3"])
def test_ranges_are_those_of_the_whole_model(name: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "model", name), "huggingface")
    model = eager_model(checkpoint.config, materialize(checkpoint.tensors))
    keys, values = [], []
    for sample in SAMPLES:
        cache = transformers.DynamicCache()
        with torch.no_grad():
            model(input_ids=torch.from_numpy(sample[None]), past_key_values=cache, use_cache=True)
        keys.append(cache.layers[1].keys[0].numpy())
        values.append(cache.layers[1].values[0].numpy())
    found = streamed_kv_ranges(checkpoint.config, checkpoint.tensors, SAMPLES, tmp_path)
    assert sorted(found) == sorted(past_names(checkpoint.config))
    for past, parts in (("past_key.1", keys), ("past_value.1", values)):
        whole = np.concatenate(parts, axis=1)
        for mine, theirs in zip(found[past], (whole.min(axis=1), whole.max(axis=1)), strict=True):
            assert mine.shape == (checkpoint.config.num_kv_heads, checkpoint.config.head_dim)
            assert relative_error(mine, theirs) <= tolerance("export_fp32")
    # the sliding window's layer keeps all keys here: a static graph masks them, it does not drop them
    assert not list(tmp_path.glob("*.f32"))


def test_a_calibration_in_a_child_process(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "model", "llama"), "huggingface")
    (tmp_path / "scratch").mkdir()
    path = calibrate(checkpoint.config, checkpoint.tensors, SAMPLES, tmp_path / "scratch", tmp_path / "reproducers")
    found = read_kv_scales(path, checkpoint.config)
    ranges = streamed_kv_ranges(checkpoint.config, checkpoint.tensors, SAMPLES, tmp_path)
    for name, array in KvScales.from_ranges(checkpoint.config, ranges).tensors.items():
        expected = array * HEADROOM if name.endswith(".scales") else array
        assert relative_error(found.tensors[name], expected) <= tolerance("export_fp32")
    assert [file.name for file in (tmp_path / "scratch").iterdir() if file.suffix in (".pickle", ".f32")] == []


def test_a_twins_scales_reach_the_ends_of_its_own_calls() -> None:
    """Every channel uses all codes, and no value of any call is clamped."""
    program, cases = twins.twin("windowed")
    tensors = scales_of_cases(program.config, cases).tensors
    for past in past_names(program.config):
        scale, zero = (tensors[f"{past}.{part}"][:, None].astype(np.float64) for part in ("scales", "zeros"))
        levels = [(case.fetches[past.replace("past", "present")] - zero) / scale for case in cases]
        reached = np.max([np.abs(part).max(axis=(0, 2)) for part in levels], axis=0)
        np.testing.assert_allclose(reached, 127, atol=1e-3)
