"""Scales of an int8 KV cache: from the user's file, or calibrated on a text, which the cache keeps."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xamc.artifact.manifest import Quantization
from xamc.artifact.records import to_json
from xamc.artifact.staging import temporary_folder
from xamc.compiler.frontends import Checkpoint
from xamc.compiler.spec.model import Spec
from xamc.compiler.stages.job import Job
from xamc.compiler.stages.target_options import INT8_KV, SCALES_KEY
from xamc.errors import InputError
from xamc.ir.weights.fingerprint import fingerprint, reading_modules
from xamc.ir.weights.kv_scales import KvScales, read_kv_scales
from xamc.jobs.cache import stage_key
from xamc.verify.calibration_text import (
    DEFAULT_TEXTS,
    FEWEST_TOKENS,
    SAMPLES,
    TOKENS,
    is_varied,
    random_samples,
    read_texts,
    token_samples,
)
from xamc.verify.kv_calibration import RESULT, calibrate

_CALIBRATION = "xamc.verify.kv_calibration:calibrate"


def calibrated_scales(job: Job, spec: Spec, checkpoint: Checkpoint, quantization: Quantization) -> KvScales | None:
    """The stage that finds the scales of an int8 KV cache with one per channel; None for other caches."""
    if quantization.used != INT8_KV:
        return None
    with job.progress.stage("calibrate") as stage:
        scales = kv_scales(job, spec, checkpoint)
        layers = checkpoint.config.num_layers
        stage.result(f"keys and values of {layers} layers", job.cache.state("kv_scales"))
    return scales


def kv_scales(job: Job, spec: Spec, checkpoint: Checkpoint) -> KvScales:
    """The scales of a model's KV cache.

    `frontend.quantize.calib_args.kv_cache_scales` names a safetensors file with them. Otherwise transformers runs the
    checkpoint, layer by layer, over the file of `dataset.path` (`dataset.nsamples` pieces of `dataset.seqlen` tokens),
    or over a few paragraphs of xamc's own; the result is cached by checkpoint and text. Relative paths are against the
    spec's folder.

    Raises:
        InputError: E1161, E1162 the file of scales; E1345, E1346 the text; E1613 no tokenizer.
        ToolchainError: E152x the calibrating child failed.
    """
    quantize = spec.frontend.quantize
    given = quantize.calib_args.get(SCALES_KEY) if quantize is not None else None
    if given:
        return read_kv_scales(_resolve(str(given), spec), checkpoint.config)
    samples = calibration_samples(job, spec, checkpoint)
    inputs = {
        "config": to_json(checkpoint.config),
        "tensors": {name: fingerprint(tensor) for name, tensor in checkpoint.tensors.items()},
        "samples": [hashlib.sha256(sample.tobytes()).hexdigest() for sample in samples],
    }
    runs = (_CALIBRATION, *reading_modules(checkpoint.tensors.values()))
    key = stage_key("kv_scales", __name__, runs, inputs)

    def build(folder: Path) -> None:
        calibrate(checkpoint.config, checkpoint.tensors, samples, folder, job.cache.folder / "reproducers")

    folder = job.cache.get(key) or job.cache.publish(key, build)
    return read_kv_scales(folder / RESULT, checkpoint.config)


def calibration_samples(job: Job, spec: Spec, checkpoint: Checkpoint) -> Sequence[NDArray[np.int64]]:
    """Token ids of the calibration text, in pieces; a warning says when the spec names one that is not here."""
    dataset: Mapping[str, object] = spec.dataset
    named = dataset.get("path") or dataset.get("name")
    path = _resolve(str(dataset["path"]), spec) if dataset.get("path") else None
    if path is not None and path.is_file():
        texts: Sequence[str] = read_texts(path)
    else:
        if named:
            job.progress.warn(
                f"dataset names {named}, which is no file here; the KV cache is calibrated on xamc's own short text"
            )
        texts = DEFAULT_TEXTS
    samples, tokens = _number(dataset, "nsamples", SAMPLES), _number(dataset, "seqlen", TOKENS)
    config = checkpoint.config
    if not checkpoint.tokenizer:
        raise InputError(
            "E1613",
            f"{checkpoint.path} has no tokenizer, and the KV cache is calibrated on a text",
            f"put tokenizer.json there, or give frontend.quantize.calib_args.{SCALES_KEY}",
            keys=(f"frontend.quantize.calib_args.{SCALES_KEY}", "frontend.quantize.type"),
        )
    with temporary_folder("tokenizer") as folder:
        for name, content in checkpoint.tokenizer.items():
            data = content if isinstance(content, bytes) else Path(content).read_bytes()
            (folder / name).write_bytes(data)
        # the tokenizers library is loaded only here
        from xamc.runtime.tokenizer import Tokenizer

        tokenizer = Tokenizer(Path(folder))
    length = min(tokens, config.max_position_embeddings)
    pieces = token_samples(tokenizer, texts, samples, length, config.vocab_size)
    if texts is DEFAULT_TEXTS and not is_varied(pieces):
        job.progress.warn(
            f"the tokenizer makes fewer than {FEWEST_TOKENS} different tokens of xamc's own text, so the KV cache "
            "is calibrated on random tokens as well; name a text of the model's own in dataset.path"
        )
        pieces += random_samples(samples, length, config.vocab_size)
    return pieces


def _number(dataset: Mapping[str, object], key: str, default: int) -> int:
    """vamc's own keys are checked leniently when a spec is read, as most compiles only record them."""
    value = dataset.get(key)
    if value is None:
        return default
    if not isinstance(value, int) or value < 1:
        raise InputError(
            "E1345", f"dataset.{key} is {value!r}, not a number of 1 or more", fix=f"set dataset.{key}: 32"
        )
    return value


def _resolve(path: str, spec: Spec) -> Path:
    folder = spec.source.parent if spec.source is not None else Path.cwd()
    return folder / Path(path).expanduser()
