"""The engines that are compared, and the parent's side of their processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]
SPECS = ROOT / "build_configs/smollm2"
ARTIFACTS = ("w4", "w8", "fp16", "bf16", "fp32")
TORCH_DTYPES = {"bf16": "bfloat16", "fp32": "float32"}


class BenchError(Exception):
    """A measurement failed; the message says which and how."""


@dataclass(frozen=True)
class EngineChoice:
    """One engine with one kind of weights.

    Attributes:
        kind: ``xamc`` or ``transformers``.
        weights: w4, w8, fp16, bf16 or fp32.
        path: the artifact, or the checkpoint folder.
        source: the spec it was compiled from, or how it was loaded; for the record.
    """

    kind: str
    weights: str
    path: Path
    source: str

    @property
    def name(self) -> str:
        """For tables: ``xamc w4``."""
        return f"{self.kind} {self.weights}"


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
            sys.executable,
            "-m",
            "tools.bench.worker",
            engine.kind,
            str(engine.path),
            TORCH_DTYPES.get(engine.weights, ""),
            str(threads),
        ]
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"},
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

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


def compile_artifact(weights: str, folder: Path) -> EngineChoice:
    """Compiles SmolLM2-135M with these weights below `folder`; the stage cache makes a repetition quick.

    Raises:
        BenchError: the compile failed.
    """
    spec = SPECS / f"smollm2_135m_{weights}.yaml"
    path = folder / f"smollm2-135m-{weights}"
    command = [sys.executable, "-m", "xamc", "compile", str(spec), "-o", str(path), "--json"]
    run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode:
        raise BenchError(f"compiling {spec} failed")
    return EngineChoice("xamc", weights, path, str(spec.relative_to(ROOT)))


def write_checkpoints(folder: Path, weights: Sequence[str]) -> list[EngineChoice]:
    """The same weights as Hugging Face folders, one per type, as transformers loads those fastest.

    They are read by transformers' own GGUF reader, not by ours, so that they are a reference for it too.

    Raises:
        BenchError: transformers could not read or write them.
    """
    choices = []
    for name in weights:
        path = folder / f"transformers-{name}"
        if not (path / "config.json").exists():
            command = [sys.executable, "-m", "tools.bench.checkpoint", str(path), TORCH_DTYPES[name]]
            if subprocess.run(command, cwd=ROOT, check=False).returncode:
                raise BenchError(f"writing {path} with transformers failed")
        source = f"AutoModelForCausalLM.from_pretrained(..., dtype={TORCH_DTYPES[name]}, attn_implementation='sdpa')"
        choices.append(EngineChoice("transformers", name, path, source))
    return choices
