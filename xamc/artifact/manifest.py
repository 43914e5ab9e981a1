"""`manifest.json`: what an artifact holds, and what it needs to run.

The same inputs, tools and `mcpu` give the same bytes: there is no time of day, no duration and no absolute path in it.
Times and memory are in `report.json`, which is outside the digests.

Layout of an artifact folder::

    manifest.json           this
    report.json             times, memory, tolerances reached, pass counts
    code/model.so           kernels and the Relax VM's functions; code/model-LEVEL.so for each of several CPU levels
    code/decode.json        the program of one token
    weights.bin             packed tensors, each 64-byte aligned
    tokenizer/              tokenizer.json, chat template
    golden/                 token ids and reference logits, re-checked by `xamc verify`

A target of static graphs has a folder per bucket and rank instead of `code/` and `weights.bin`::

    prefill_1024_rank0/mod.so, mod.json, mod.params
    decode_2048_rank0/mod.so, mod.json, mod.params

`onnx_manifest` is for artifacts that hold an ONNX model which is no language model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from xamc.artifact.records import RecordError
from xamc.errors import InputError
from xamc.model.config import ModelConfig
from xamc.model.dtypes import DTYPE_BYTES

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
REPORT = "report.json"
ALIGNMENT = 64
HOST_SIMULATOR = "host-simulator"
HOST_ONNXRUNTIME = "host-onnxruntime; never run on an NPU"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class TensorEntry:
    """One packed tensor: `nbytes` bytes of `dtype` in C order at `offset` of the weights file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_BYTES:
            raise RecordError("dtype", f"{self.name}: unknown dtype {self.dtype!r}")
        if any(dim < 0 for dim in self.shape):
            raise RecordError("shape", f"{self.name}: negative dimension in {list(self.shape)}")
        if self.offset < 0 or self.offset % ALIGNMENT:
            raise RecordError("offset", f"{self.name}: {self.offset} is not a multiple of {ALIGNMENT}")
        if self.nbytes != tensor_nbytes(self.dtype, self.shape):
            expected = tensor_nbytes(self.dtype, self.shape)
            raise RecordError("nbytes", f"{self.name}: {self.nbytes}, but its dtype and shape take {expected}")


@dataclass(frozen=True)
class Weights:
    """The weights file and what lies where in it; `tensors` is in the order of the VM functions' weights tuple."""

    file: str
    nbytes: int
    tensors: tuple[TensorEntry, ...]

    def __post_init__(self) -> None:
        check_relative("file", self.file)
        end = 0
        for entry in sorted(self.tensors, key=lambda entry: entry.offset):
            if entry.offset < end:
                raise RecordError("tensors", f"{entry.name} overlaps the tensor before it")
            end = entry.offset + entry.nbytes
        if end > self.nbytes:
            raise RecordError("nbytes", f"{self.nbytes}, but the last tensor ends at {end}")
        if len({entry.name for entry in self.tensors}) != len(self.tensors):
            raise RecordError("tensors", "two tensors have the same name")


@dataclass(frozen=True)
class KvCache:
    """The KV cache's element type and axes.

    Attributes:
        dtype: of keys and values; int8 on a paged cache has a float32 scale per token and head.
        layout: ``BHCD`` is [batch, KV head, capacity, head_dim]; ``paged`` are pools of blocks found through a block
            table, values [block, KV head, position, head_dim] and keys [block, KV head, head_dim, position].
        block: positions of a block, 0 where there are none.
    """

    dtype: str
    layout: Literal["BHCD", "paged"] = "BHCD"
    block: int = 0

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_BYTES:
            raise RecordError("dtype", f"unknown dtype {self.dtype!r}")
        if self.block < 0 or (self.block > 0) != (self.layout == "paged"):
            raise RecordError("block", f"{self.block} does not go with layout {self.layout}")

    @staticmethod
    def paged(dtype: str, block: int) -> KvCache:
        """Of blocks, or contiguous if `block` is 0."""
        return KvCache(dtype, "paged", block) if block else KvCache(dtype)


@dataclass(frozen=True)
class Arithmetic:
    """What the linear layers of a library multiply in.

    Attributes:
        prompts: for many rows, in words.
        tokens: for single tokens.
        divergence: mean KL divergence, in nats, of SmolLM2-135M with this arithmetic and these weights to transformers
            in float32, or None where it was not measured. It says what to expect, nothing of the artifact's own model.
    """

    prompts: str
    tokens: str
    divergence: float | None = None

    def __str__(self) -> str:
        words = self.prompts if self.prompts == self.tokens else f"prompts {self.prompts}, tokens {self.tokens}"
        return words + ("" if self.divergence is None else f"; mean KL {self.divergence:.1e} on SmolLM2-135M")


@dataclass(frozen=True)
class Cpu:
    """What the code was compiled for: LLVM's `mcpu`, and the features (as in /proc/cpuinfo) it can't run without."""

    mcpu: str
    features: tuple[str, ...]
    arithmetic: Arithmetic | None = None


@dataclass(frozen=True)
class Code:
    """A library of the same functions on the same weights, and the CPUs that it is for."""

    file: str
    cpu: Cpu

    def __post_init__(self) -> None:
        check_relative("file", self.file)


@dataclass(frozen=True)
class Quantization:
    """The weight quantization the spec asked for and the one used; they differ only under ``--allow-rtn``.

    `activations` is what linear layers multiply their inputs as: float32, bfloat16, int8 or int16.
    """

    requested: str | None = None
    used: str | None = None
    activations: str = "float32"


@dataclass(frozen=True)
class Generation:
    """What starts and ends a generation, and how a conversation becomes a prompt.

    Attributes:
        bos_token_id, eos_token_ids: token ids.
        chat_template: a file of the artifact, or None.
        named_templates: further templates, name → file; ``tool_use`` is for prompts with tools.
        stop: strings that end an answer whatever the caller says.
    """

    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    chat_template: str | None = None
    named_templates: Mapping[str, str] = field(default_factory=dict)
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.chat_template is not None:
            check_relative("chat_template", self.chat_template)
        for name, path in self.named_templates.items():
            check_relative(f"named_templates.{name}", path)
        if not all(self.stop):
            raise RecordError("stop", "a stop string is empty")


@dataclass(frozen=True)
class Phase:
    """A way to run the model: the VM function of `kind`, its shape buckets (empty: dynamic) and ranks."""

    kind: Literal["prefill", "decode"]
    functions: tuple[str, ...]
    buckets: tuple[tuple[int, ...], ...] = ()
    ranks: int = 1


@dataclass(frozen=True)
class StaticGraph:
    """The graph of one bucket and rank: `kind` and `length` as of `Bucket`, and its three files.

    `params` may be the file of another graph of the same rank (`backend.merge_params`).
    """

    kind: Literal["prefill", "decode"]
    length: int
    rank: int
    code: str
    graph: str
    params: str

    def __post_init__(self) -> None:
        for key in ("code", "graph", "params"):
            check_relative(key, getattr(self, key))
        if self.length < 1 or self.rank < 0:
            raise RecordError("graphs", f"{self.kind} of length {self.length}, rank {self.rank}")


@dataclass(frozen=True)
class InputDigest:
    """A file the artifact was made from, by name only: the folder it lay in must not change the manifest."""

    name: str
    nbytes: int
    sha256: str

    def __post_init__(self) -> None:
        _check_sha256(self.sha256)
        if "/" in self.name:
            raise RecordError("name", f"{self.name!r} is a path, not a file name")


@dataclass(frozen=True)
class FileDigest:
    """A file of the artifact; `path` is relative to the artifact's folder, with forward slashes."""

    path: str
    nbytes: int
    sha256: str

    def __post_init__(self) -> None:
        check_relative("path", self.path)
        _check_sha256(self.sha256)


@dataclass(frozen=True)
class Manifest:
    """Everything a runtime must know to load an artifact, and everything a person needs to trace it.

    Attributes:
        name: the model's name in the spec.
        target: the backend type, ``tvm_cpu`` for example.
        spec: the spec as resolved, without absolute paths.
        context_limit: most tokens (prompt and answer) a sequence may have.
        prefill_chunk: most tokens one prefill call takes; longer prompts are cut into such chunks.
        max_batch: most sequences at once.
        functions: names of the VM functions in `code_file`, or in every graph's code.
        code_file, weights: the library and its weights file; None for a target of static graphs.
        cpu: what `code_file` was compiled for.
        variants: libraries for further CPU levels, the last one for the CPUs that can do most.
        step_file: the program of one token (`step_program`), if the library's `decode` runs one.
        graphs: the static graphs, each with files of its own.
        executes_on: what runs the artifact; `host-simulator` and `host-onnxruntime; ...` mark one that is for other
            hardware, whose results here are those of a check on the host.
        tokenizer: folder of the artifact with tokenizer.json.
        golden: folder of the artifact with token ids and reference logits, or None.
        inputs: digests of the checkpoint's files and of the spec's own files.
        files: digests of every file of the artifact but the manifest and the report.
        tools: versions of the tools that made it.
    """

    name: str
    target: str
    xamc_version: str
    spec: Mapping[str, Any]
    model: ModelConfig
    context_limit: int
    prefill_chunk: int
    max_batch: int
    kv: KvCache
    functions: tuple[str, ...]
    phases: tuple[Phase, ...]
    code_file: str | None
    weights: Weights | None
    cpu: Cpu
    quantization: Quantization
    tokenizer: str
    generation: Generation
    golden: str | None = None
    inputs: tuple[InputDigest, ...] = ()
    files: tuple[FileDigest, ...] = ()
    tools: Mapping[str, str] = field(default_factory=dict)
    ranks: int = 1
    graphs: tuple[StaticGraph, ...] = ()
    variants: tuple[Code, ...] = ()
    executes_on: str = "cpu"
    step_file: str | None = None
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        for key in ("context_limit", "prefill_chunk", "max_batch", "ranks"):
            if getattr(self, key) < 1:
                raise RecordError(key, f"{getattr(self, key)} is less than 1")
        if self.prefill_chunk > self.context_limit:
            raise RecordError("prefill_chunk", f"{self.prefill_chunk} is above context_limit {self.context_limit}")
        for key in ("code_file", "step_file", "tokenizer", "golden"):
            if getattr(self, key) is not None:
                check_relative(key, getattr(self, key))
        if (self.code_file is None) != bool(self.graphs) or (self.weights is None) != bool(self.graphs):
            raise RecordError("graphs", "an artifact has either one library with one weights file, or static graphs")
        if self.variants and self.code_file is None:
            raise RecordError("variants", "static graphs have no variants")
        ranks = {(graph.kind, graph.length): set[int]() for graph in self.graphs}
        for graph in self.graphs:
            ranks[graph.kind, graph.length].add(graph.rank)
        if any(found != set(range(self.ranks)) for found in ranks.values()):
            raise RecordError("graphs", f"a bucket has not exactly the ranks 0 to {self.ranks - 1}")
        called = {name for phase in self.phases for name in phase.functions}
        if called - set(self.functions):
            raise RecordError("phases", f"functions {sorted(called - set(self.functions))} are not in `functions`")

    @property
    def simulated(self) -> bool:
        """Whether something else runs the artifact than the hardware it is for."""
        return self.executes_on in (HOST_SIMULATOR, HOST_ONNXRUNTIME)

    @property
    def caveat(self) -> str:
        """What has to stand beside every result of this artifact; empty where the hardware itself runs it."""
        if self.executes_on == HOST_ONNXRUNTIME:
            return "ONNX Runtime on the host; never run on an NPU"
        return f"simulated for {self.target}, not run on a card" if self.simulated else ""

    @property
    def is_embedding(self) -> bool:
        """Whether it yields hidden states and no logits: static graphs without a decode phase."""
        return bool(self.graphs) and all(graph.kind == "prefill" for graph in self.graphs)

    @property
    def output_width(self) -> int:
        """Numbers per token that the model yields: logits of the vocabulary, or hidden states."""
        return self.model.hidden_size if self.is_embedding else self.model.vocab_size

    def library(self) -> tuple[str, Weights]:
        """The code file and the weights table of an artifact that is one library.

        Raises:
            InputError: E1502 for an artifact of static graphs, which another executor runs.
        """
        if self.code_file is None or self.weights is None:
            raise InputError("E1502", f"{self.name} is made of static graphs, not of one library", "compile it again")
        return self.code_file, self.weights

    @property
    def codes(self) -> tuple[Code, ...]:
        """The libraries, the one for the CPUs that can do most last; empty for static graphs."""
        return () if self.code_file is None else (Code(self.code_file, self.cpu), *self.variants)

    @property
    def cpus(self) -> tuple[Cpu, ...]:
        """What the code was compiled for: one of these has to be the machine's."""
        return (self.cpu, *(variant.cpu for variant in self.variants))

    def needed_files(self) -> set[str]:
        """Paths of the files without which nothing runs."""
        if self.code_file is not None and self.weights is not None:
            step = [self.step_file] if self.step_file else []
            return {self.weights.file, *step, *(code.file for code in self.codes)}
        return {path for graph in self.graphs for path in (graph.code, graph.graph, graph.params)}


def tensor_nbytes(dtype: str, shape: Iterable[int]) -> int:
    """Bytes of a dense tensor; two 4-bit elements share a byte, an odd one is padded."""
    return math.ceil(DTYPE_BYTES[dtype] * math.prod(shape))


def plan_layout(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> tuple[tuple[TensorEntry, ...], int]:
    """Lay tensors (name, dtype, shape) one after the other, each aligned to 64 bytes.

    Returns:
        The entries in the given order, and the file's size in bytes (a multiple of the alignment).
    """
    entries, offset = [], 0
    for name, dtype, shape in tensors:
        nbytes = tensor_nbytes(dtype, shape)
        entries.append(TensorEntry(name, dtype, tuple(shape), offset, nbytes))
        offset = -(-(offset + nbytes) // ALIGNMENT) * ALIGNMENT
    return tuple(entries), offset


def check_relative(key: str, path: str) -> None:
    """Refuse a path that could lead out of the artifact.

    Raises:
        RecordError: naming `key`.
    """
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path:
        raise RecordError(key, f"{path!r} is not a path inside the artifact")


def _check_sha256(value: str) -> None:
    if not _SHA256.fullmatch(value):
        raise RecordError("sha256", f"{value!r} is not a SHA-256 in lower-case hex")
