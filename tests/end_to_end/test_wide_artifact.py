"""Whole artifacts for AVX-512 with VNNI, in this runtime, on an emulated processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.end_to_end.models import Workshop, prompts, spec
from tests.targets.kernels.emulated import machine, needs_machine
from tools.levels.closure import closure
from xamc.ir.tolerances import tolerance
from xamc.targets.kernels.isa import Isa
from xamc.verify.metrics import relative_error

SCRIPT = """
import json, os, sys
os.environ["NPY_DISABLE_CPU_FEATURES"] = "X86_V4 AVX512_ICL AVX512_SPR"  # their gathers are what the emulator refuses
import numpy as np
from xamc.runtime import load
from xamc.runtime.prefill import feed_prompts
from xamc.runtime.sequence import Sequence
artifact, tokens, result = sys.argv[1:4]
rows, following = json.loads(tokens)
model = load(artifact, threads=2)
slots, sequence = model.engine._slots, Sequence(np.array(rows), model.manifest.model)
slots.seat([sequence])
logits = [feed_prompts(slots, [sequence], all_positions=True)[0]]
for token in following:
    sequence.tokens.append(token)
    logits.append(slots.feed_next([sequence]).copy())
np.save(result, np.concatenate(logits))
print(model.cpu_level)
"""
LEVEL = "x86-64-v4+vnni"
STEPS = 3


@needs_machine
@pytest.mark.parametrize("weights", ["fp16", "w8a16_rtn"])
def test_an_artifact_answers_as_on_this_machine(weights: str, workshop: Workshop, tmp_path: Path) -> None:
    """A prompt and tokens behind it; layers of the second multiply in integers, which VNNI does in other groups."""
    checkpoint = workshop.checkpoint("llama")
    backend = {"type": "tvm_cpu", "dtype": "fp16", "compile": {"cpu": [Isa.host().name, LEVEL]}}
    sections: dict[str, Any] = {"backend": backend}
    if weights != "fp16":
        del backend["dtype"]
        sections["frontend"] = spec(checkpoint)["frontend"] | {"quantize": {"type": weights}}
    path = workshop.compiled(checkpoint, f"wide-{weights}", **sections).path
    rows, following = prompts([19], STEPS)
    arguments = [str(path), json.dumps([rows[0].tolist(), following[0].tolist()]), str(tmp_path / "logits.npy")]
    files, links, command = closure(SCRIPT, arguments)
    expected = np.load(tmp_path / "logits.npy")
    files |= {str(file): file for file in path.rglob("*") if file.is_file()}
    command[-1] = "/logits.npy"  # the folder is not there
    done = machine().run(command, files, links, command[-1:], timeout_s=1800)
    assert done.status == 0, done.printed
    assert done.printed.split()[-1] == LEVEL
    (tmp_path / "emulated.npy").write_bytes(done.files[command[-1]])
    actual = np.load(tmp_path / "emulated.npy")
    assert np.isfinite(actual).all()
    assert relative_error(actual, expected) <= tolerance("golden_other_level")
