"""Golden logits: what an artifact must answer, re-checked by `xamc verify` on any machine that can run it.

``golden/golden.safetensors`` holds for prompt i `i.token_ids` int64[T], `i.logits` float32[T, V], what the artifact
answered when it was made, and `i.reference` float32[T, V], what transformers answers in fp32, where that was asked for.
``golden/golden.json`` says where the numbers come from. An artifact for a CPU that the compiling machine can't execute
has no logits of its own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xamc.errors import InputError

GOLDEN_FOLDER = "golden"
GOLDEN_FILE = "golden.safetensors"
FACTS_FILE = "golden.json"

I64 = NDArray[np.int64]
F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Sample:
    """One prompt: token ids [T], the artifact's logits [T, V], transformers' fp32 logits [T, V]; None: not computed."""

    token_ids: I64
    logits: F32 | None = None
    reference: F32 | None = None


@dataclass(frozen=True)
class Golden:
    """The golden logits of an artifact: one sample per prompt; all have logits, or none has, and so for references.

    Attributes:
        not_run: why the machine that compiled couldn't run the artifact; empty when it did.
        cpu_level: of the code that gave the logits; empty where there is one library alone.
    """

    samples: tuple[Sample, ...]
    not_run: str = ""
    cpu_level: str = ""


def golden_files(golden: Golden) -> dict[str, bytes]:
    """Name → content of the files in the artifact's golden folder; equal logits give equal bytes."""
    import safetensors.numpy

    tensors = {
        f"{index}.{name}": array
        for index, sample in enumerate(golden.samples)
        for name, array in vars(sample).items()
        if array is not None
    }
    facts: dict[str, Any] = {"prompts": len(golden.samples)}
    if golden.not_run:
        facts["not_run"] = golden.not_run
    else:
        facts |= {"logits": "this artifact, when it was compiled", "tolerance": "golden"}
    if golden.cpu_level:
        facts["cpu_level"] = golden.cpu_level
    if golden.samples[0].reference is not None:
        facts["reference"] = "transformers, float32, the checkpoint's weights, layer by layer"
    return {
        GOLDEN_FILE: safetensors.numpy.save(tensors),
        FACTS_FILE: (json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode(),
    }


def read_golden(folder: Path) -> Golden:
    """The golden logits in an artifact's golden folder.

    Raises:
        InputError: E1510 a file is damaged.
    """
    import safetensors
    import safetensors.numpy

    try:
        tensors: dict[str, Any] = safetensors.numpy.load_file(folder / GOLDEN_FILE)
        facts = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
        samples = tuple(_sample(tensors, index) for index in range(int(facts["prompts"])))
        not_run, cpu_level = str(facts.get("not_run", "")), str(facts.get("cpu_level", ""))
    except (OSError, KeyError, ValueError, TypeError, AttributeError, safetensors.SafetensorError) as error:
        raise InputError("E1510", f"{folder} can't be read: {error}", fix="compile the model again") from None
    if not samples or any((sample.logits is None) != bool(not_run) for sample in samples):
        raise InputError("E1510", f"{folder}: tensors and {FACTS_FILE} do not agree", fix="compile the model again")
    return Golden(samples, not_run, cpu_level)


def _sample(tensors: dict[str, Any], index: int) -> Sample:
    """Tensors of one prompt.

    Raises:
        KeyError: it has no token ids; ValueError: shapes that do not fit each other.
    """
    optional = (tensors.get(f"{index}.{name}") for name in ("logits", "reference"))
    sample = Sample(tensors[f"{index}.token_ids"], *optional)
    rows = sample.token_ids.shape
    for logits in (sample.logits, sample.reference):
        if logits is not None and (logits.ndim != 2 or logits.shape[:1] != rows or not rows[0]):
            raise ValueError(f"prompt {index}: token_ids {list(rows)} and logits {list(logits.shape)} do not fit")
    return sample
