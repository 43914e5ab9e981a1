"""Where the scales of an int8 KV cache come from, and what the cache keeps of them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tests.checkpoints import write_tiny
from xamc.compiler.frontends import Checkpoint, open_checkpoint
from xamc.compiler.spec import load_spec
from xamc.compiler.spec.model import Spec
from xamc.compiler.stages import kv_scales as stage
from xamc.compiler.stages.job import CompileOptions, Job
from xamc.compiler.stages.kv_scales import calibration_samples, kv_scales
from xamc.errors import InputError
from xamc.ir.weights.kv_scales import KvScales, past_names, read_kv_scales
from xamc.jobs.cache import StageCache
from xamc.jobs.progress import Progress
from xamc.verify.calibration_text import is_varied
from xamc.verify.kv_calibration import RESULT


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_tiny(tmp_path_factory.mktemp("model"), "llama"), "huggingface")


@pytest.fixture
def job(tmp_path: Path) -> Job:
    cache = StageCache(tmp_path / "scratch", tmp_path / "cache")
    return Job(CompileOptions(), cache, Progress(Console(quiet=True)), 1)


def _spec(folder: Path, checkpoint: Checkpoint, calib_args: str = "{}", dataset: str = "{}") -> Spec:
    path = folder / "build.yaml"
    path.write_text(
        f"frontend: {{checkpoint: {checkpoint.path}, shape: {{input_ids: [[16], [32]]}}, "
        f"quantize: {{type: w16kv8, calib_args: {calib_args}}}}}\n"
        f"backend: {{type: tvm_vacc, dtype: int8}}\ndataset: {dataset}\n",
        encoding="utf-8",
    )
    return load_spec(path).spec


def _scales(checkpoint: Checkpoint, top: float) -> KvScales:
    shape = (checkpoint.config.num_kv_heads, checkpoint.config.head_dim)
    pair = np.full(shape, -1.0, np.float32), np.full(shape, top, np.float32)
    return KvScales.from_ranges(checkpoint.config, dict.fromkeys(past_names(checkpoint.config), pair))


def test_a_users_file_is_taken_relative_to_the_spec(tmp_path: Path, checkpoint: Checkpoint, job: Job) -> None:
    expected = _scales(checkpoint, 3.0)
    expected.save(tmp_path / "kv.safetensors")
    found = kv_scales(job, _spec(tmp_path, checkpoint, "{kv_cache_scales: kv.safetensors}"), checkpoint)
    assert all(np.array_equal(found.tensors[name], array) for name, array in expected.tensors.items())
    assert not job.progress.warnings


def test_a_users_pickle_is_refused(tmp_path: Path, checkpoint: Checkpoint, job: Job) -> None:
    (tmp_path / "kv.pth").write_bytes(b"\x80\x02.")
    with pytest.raises(InputError) as error:
        kv_scales(job, _spec(tmp_path, checkpoint, "{kv_cache_scales: kv.pth}"), checkpoint)
    assert error.value.code == "E1161"


def test_a_calibration_is_done_once_per_text(
    tmp_path: Path, checkpoint: Checkpoint, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[int]] = []

    def calibrate(_: object, __: object, samples: list[np.ndarray], folder: Path, ___: Path) -> None:
        calls.append([len(sample) for sample in samples])
        _scales(checkpoint, float(len(calls))).save(folder / RESULT)

    monkeypatch.setattr(stage, "calibrate", calibrate)
    (tmp_path / "text.txt").write_text("A text of the user's own, with a few words in it. " * 3, encoding="utf-8")
    own = _spec(tmp_path, checkpoint)
    users = _spec(tmp_path, checkpoint, dataset="{path: text.txt, nsamples: 2, seqlen: 7}")
    first, again, other = (kv_scales(job, spec, checkpoint) for spec in (own, own, users))
    assert len(calls) == 2 and calls[1] == [7, 7]
    # five paragraphs, cut at the model's 64 positions
    assert len(calls[0]) == 32 and max(calls[0]) == checkpoint.config.max_position_embeddings
    name = "past_value.1.scales"
    assert np.array_equal(first.tensors[name], again.tensors[name])
    assert not np.array_equal(first.tensors[name], other.tensors[name])
    assert not job.progress.warnings
    changed = replace(checkpoint, tensors=dict(list(checkpoint.tensors.items())[1:]))
    kv_scales(job, own, changed)
    assert len(calls) == 3


def test_a_set_of_another_machine_is_a_warning(tmp_path: Path, checkpoint: Checkpoint, job: Job) -> None:
    spec = _spec(tmp_path, checkpoint, dataset="{type: huggingface, name: alpaca, path: /path/to/en_alpaca_data.json}")
    samples = calibration_samples(job, spec, checkpoint)
    assert len(samples) == 32
    assert any("/path/to/en_alpaca_data.json" in text and "own short text" in text for text in job.progress.warnings)


def test_a_number_of_samples_is_a_number(tmp_path: Path, checkpoint: Checkpoint, job: Job) -> None:
    spec = replace(_spec(tmp_path, checkpoint), dataset={"nsamples": "many"})
    with pytest.raises(InputError) as error:
        calibration_samples(job, spec, checkpoint)
    assert error.value.code == "E1345" and "nsamples" in error.value.message


def test_a_tokenizer_that_knows_no_word_of_the_text_is_not_all_there_is(
    tmp_path: Path, checkpoint: Checkpoint, job: Job
) -> None:
    """Its one token's keys and values would be the ranges, and everything else would be clamped."""
    model = {"type": "WordLevel", "vocab": {"<unk>": 0, "w1": 1, "w2": 2}, "unk_token": "<unk>"}
    tokenizer = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "WhitespaceSplit"}, "model": model}
    others = {name: content for name, content in checkpoint.tokenizer.items() if name != "tokenizer.json"}
    unknowing = replace(checkpoint, tokenizer={**others, "tokenizer.json": json.dumps(tokenizer).encode()})
    samples = calibration_samples(job, _spec(tmp_path, unknowing), unknowing)
    assert is_varied(samples) and max(int(ids.max()) for ids in samples) < checkpoint.config.vocab_size
    assert "random tokens" in job.progress.warnings[0] and "dataset.path" in job.progress.warnings[0]
    job.progress.warnings.clear()
    assert is_varied(calibration_samples(job, _spec(tmp_path, checkpoint), checkpoint)) and not job.progress.warnings


def test_a_calibration_without_the_keys_biases_says_so_in_its_file(tmp_path: Path) -> None:
    biased = open_checkpoint(write_tiny(tmp_path / "model", "qwen2"), "huggingface")
    ranges = dict.fromkeys(past_names(biased.config), (np.full((2, 8), -1.0, "f4"), np.full((2, 8), 1.0, "f4")))
    for apart in (False, True):
        KvScales.from_ranges(biased.config, ranges, apart).save(tmp_path / "kv.safetensors")
        assert read_kv_scales(tmp_path / "kv.safetensors", biased.config).unbiased_keys is apart
