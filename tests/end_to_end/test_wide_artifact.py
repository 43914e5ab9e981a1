"""Whole artifacts for the highest level, in this runtime, on an emulated processor with AVX-512, VNNI and BF16."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.end_to_end.models import Workshop, prompts
from tests.targets.kernels.emulated import machine, needs_machine
from tools.levels.closure import closure
from xamc.compiler.verify.tolerances import tolerance
from xamc.targets.kernels.isa import Isa

SCRIPT = """
import json, sys
import numpy as np
from xamc.runtime import load
artifact, tokens, result = sys.argv[1:4]
rows, following = json.loads(tokens)
model = load(artifact, threads=2)
session = model._session([np.array(rows)], len(rows) + len(following))
logits = [session.prefill([np.array(rows)], all_positions=True)[0, : len(rows)].copy()]
for token in following:
    logits.append(session.decode(np.array([token]), np.ones(1, np.bool_))[:1].copy())
np.save(result, np.concatenate(logits))
print(model.cpu_level)
"""
HIGHEST = "x86-64-v4+vnni+bf16"
STEPS = 3


@needs_machine
@pytest.mark.parametrize("dtype", ["bf16", "int4"])
def test_an_artifact_answers_as_on_this_machine(dtype: str, workshop: Workshop, tmp_path: Path) -> None:
    """A prompt of one block and of several, and tokens after it; both levels round activations to integers for int4."""
    here = Isa.host().name
    backend = {"type": "tvm_cpu", "dtype": dtype, "compile": {"cpu": [here, HIGHEST]}}
    quantize = {"frontend": {"quantize": {"type": "w4a16_rtn", "group_size": 32}}} if dtype == "int4" else {}
    checkpoint = workshop.checkpoint("llama")
    sections = {"backend": backend}
    if quantize:
        from tests.end_to_end.models import spec

        sections["frontend"] = spec(checkpoint)["frontend"] | quantize["frontend"]
    path = workshop.compiled(checkpoint, f"wide-{dtype}", **sections).path
    rows, following = prompts([19], STEPS)
    arguments = [str(path), json.dumps([rows[0].tolist(), following[0].tolist()]), str(tmp_path / "logits.npy")]
    files, links, command = closure(SCRIPT, arguments)
    expected = np.load(tmp_path / "logits.npy")
    files |= {str(file): file for file in path.rglob("*") if file.is_file()}
    files.pop(arguments[2], None)
    done = machine().run(["/bin/true"] if not files else command, files, links, [arguments[2]], timeout_s=1800)
    assert done.status == 0, done.printed
    assert done.printed.split()[-1] == HIGHEST
    (tmp_path / "emulated.npy").write_bytes(done.files[arguments[2]])
    actual = np.load(tmp_path / "emulated.npy")
    bound = tolerance("golden_other_level") * np.abs(expected).max()
    difference = np.abs(actual - expected).max()
    print(f"{dtype}: largest difference {difference / np.abs(expected).max():.2e} of the largest logit", end=" ")
    assert np.isfinite(actual).all() and difference <= bound
