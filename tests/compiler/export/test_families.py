"""Every family's twin, exported and run by ONNX Runtime, against unpatched transformers in eager fp32."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import FAMILIES, write_tiny
from tests.golden_files import check_golden
from xamc.compiler.contract import RopeConfig
from xamc.compiler.export.exporter import export_model
from xamc.compiler.export.job import twin_program
from xamc.compiler.export.worker import answers
from xamc.compiler.frontends import open_checkpoint
from xamc.compiler.frontends.configuration import rope_parameters
from xamc.compiler.program import Program
from xamc.compiler.verify.proof import prove
from xamc.compiler.verify.twin import twin_config
from xamc.passes.graph.cleanup import Cleanup
from xamc.passes.text import program_text

NAMES = (*FAMILIES, "qwen2_window")


@functools.cache
def _exported(name: str, folder: Path) -> Program:
    config = twin_config(open_checkpoint(write_tiny(folder, name), "huggingface").config)
    return twin_program(export_model(config), config)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


def _fresh(name: str, folder: Path, **changes: Any) -> Program:
    program = _exported(name, folder / name)
    return Program(program.model.clone(), dict(program.weights), replace(program.config, **changes))


@pytest.mark.parametrize("name", NAMES)
def test_twin_equals_transformers(name: str, folder: Path) -> None:
    program = _fresh(name, folder)
    prove([Cleanup()], program, answers(program)).require()


@pytest.mark.parametrize("name", NAMES)
def test_golden_export(name: str, folder: Path) -> None:
    program = _fresh(name, folder)
    Cleanup().run(program)
    check_golden(f"export/{name}.txt", _first_layer(program_text(program)))


def _first_layer(text: str) -> str:
    """Without the layers after the first, which repeat it (a window's mask is kept)."""
    kept, skip = [], False
    for line in text.splitlines():
        heading = re.match(r"  # (.*)", line)
        if heading:
            skip = re.match(r"model\.layers\.[1-9]", heading[1]) is not None
        elif not line.startswith("  "):
            skip = False
        if re.match(r"  (model\.layers|past_\w+|present_\w+)\.[1-9]", line) or (skip and "SlidingWindow" not in line):
            continue
        kept.append(line)
    return "\n".join(kept) + "\n"


def _with_rope(name: str, folder: Path, rope: RopeConfig, positions: int) -> Program:
    """The exported graph does not depend on the rotary embedding: tables are inputs."""
    hf = dict(_exported(name, folder / name).config.hf_config)
    hf |= {"rope_parameters": rope_parameters(rope), "max_position_embeddings": positions}
    return _fresh(name, folder, rope=rope, max_position_embeddings=positions, hf_config=hf)


@pytest.mark.parametrize(
    "rope",
    [
        RopeConfig("linear", 10000.0, factor=4.0),
        RopeConfig("llama3", 500000.0, 8.0, 1.0, 4.0, original_max_position_embeddings=16),
        RopeConfig("dynamic", 10000.0, factor=2.0),
    ],
    ids=lambda rope: rope.kind,
)
def test_rope_scalings_also_across_the_trained_length(rope: RopeConfig, folder: Path) -> None:
    # prefills of 2, 5 and 9 tokens and three more: one run starts beyond 6 positions, one crosses, one stays below
    program = _with_rope("llama", folder, rope, positions=6)
    prove([Cleanup()], program, answers(program)).require()


def test_a_wrong_base_is_noticed(folder: Path) -> None:
    """Tables of the plain kind, where transformers has grown the base: the test above can fail."""
    dynamic = answers(_with_rope("llama", folder, RopeConfig("dynamic", 10000.0, factor=2.0), positions=6))
    plain = _with_rope("llama", folder, RopeConfig("default", 10000.0), positions=6)
    tables = {(case.run, case.step): case.feeds["rope_cos"] for case in answers(plain)}
    for case in dynamic:
        case.feeds["rope_cos"] = tables[case.run, case.step]
    failed = prove([], plain, dynamic).failed
    assert failed is not None and failed.name == "export"
