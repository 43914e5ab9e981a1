"""What an export is asked to do and what it leaves behind, as files between this process and the exporting child."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from xamc.ir.onnx_graph import dims
from xamc.ir.program import Program
from xamc.model.config import ModelConfig, RopeConfig
from xamc.model.parameters import layer_of
from xamc.verify.scenario import Case, load_cases
from xamc.verify.twin import twin_weights

JOB_FILE = "job.json"
MODEL_FILE = "model.onnx"
TWIN_FILE = "twin.onnx"
TWIN_FACTS_FILE = "twin.json"
CASES_FILE = "cases.safetensors"


@dataclass(frozen=True)
class ExportJob:
    """An export of `config`, and of its twin when `twin`.

    The twin keeps the widths' divisibility by the quantization `group`, and that of its heads by `tp` ranks.
    """

    config: ModelConfig
    twin: bool = True
    group: int = 32
    tp: int = 1

    def write(self, folder: Path) -> Path:
        """Writes job.json into `folder` and returns its path."""
        path = folder / JOB_FILE
        fields = {"config": asdict(self.config), "twin": self.twin, "group": self.group, "tp": self.tp}
        path.write_text(json.dumps(fields, indent=1, sort_keys=True))
        return path

    @staticmethod
    def read(path: Path) -> ExportJob:
        """Reads what `write` wrote."""
        fields = json.loads(path.read_text())
        return ExportJob(config_from_json(fields["config"]), fields["twin"], fields["group"], fields["tp"])


def config_from_json(fields: Mapping[str, Any]) -> ModelConfig:
    """A `ModelConfig` from the JSON form of its `asdict`."""
    values = dict(fields)
    values["rope"] = RopeConfig(**values["rope"])
    values["sliding_windows"] = tuple(values["sliding_windows"])
    values["eos_token_ids"] = tuple(values["eos_token_ids"])
    return ModelConfig(**values)


@dataclass
class Exported:
    """What an export left: the graph, and the twin with its weights and transformers' answers (None without twin).

    `twin_seconds` is the time that the twin's export and the answers took.
    """

    model: ir.Model
    twin: Program | None
    cases: list[Case]
    twin_seconds: float = 0.0


def read_exported(folder: Path) -> Exported:
    """Reads the files of a finished export."""
    model = ir.load(folder / MODEL_FILE)
    if not (folder / TWIN_FILE).exists():
        return Exported(model, None, [])
    facts = json.loads((folder / TWIN_FACTS_FILE).read_text())
    twin = twin_program(ir.load(folder / TWIN_FILE), config_from_json(facts["config"]))
    return Exported(model, twin, load_cases(folder / CASES_FILE), facts["seconds"])


def twin_program(model: ir.Model, config: ModelConfig) -> Program:
    """The exported twin with its seeded weights."""
    program = Program(model, {}, config)
    program.weights.update(twin_weights(weight_shapes(program), layer_of(config)))
    return program


def weight_shapes(program: Program) -> dict[str, tuple[int, ...]]:
    """Shape of each weight by parameter name."""
    shapes = {}
    for value in program.weight_inputs():
        shape = dims(value)
        assert value.name is not None and shape is not None
        shapes[value.name] = tuple(int(size) for size in shape if isinstance(size, int))
    return shapes
