"""The spec as frozen dataclasses: what every later stage reads instead of YAML.

Keys, their meaning and their use per target are listed in `xamc.compiler.spec.keys`; this module holds the values after
defaults, deductions and path resolution. Mappings in here are plain dictionaries, so that a spec can be sent to a child
process; nothing changes them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from xamc.errors import Location
from xamc.targets.registry import CAPS, DEFAULT
from xamc.targets.spec_keys import DEFAULT_MAX_BATCH
from xamc.targets.spec_kinds import KeyPath

FrontendType = Literal["huggingface", "gguf", "onnx", "pytorch", "keras", "tensorflow", "darknet", "caffe"]
WeightDtype = Literal["fp32", "fp16", "bf16", "int8", "int4"]
KvDtype = Literal["auto", "fp32", "fp16", "bf16", "int8"]

#: Round-to-nearest types: they need no calibration data.
RTN_TYPES = ("w8a16_rtn", "w4a16_rtn")

#: Calibrated types → the round-to-nearest type that stores weights in as many bits; None where weights keep 16 bits.
CALIBRATED_TYPES: Mapping[str, str | None] = {
    "w8a16_gptq": "w8a16_rtn",
    "w8a16_awq": "w8a16_rtn",
    "w4a16_gptq": "w4a16_rtn",
    "w4a16_awq": "w4a16_rtn",
    "w8a8_smoothquant": "w8a16_rtn",
    "w16kv8": None,
}

#: Quantization type → the values of `backend.dtype` that agree with it, the default first.
DTYPES_OF_QUANTIZE: Mapping[str, tuple[WeightDtype, ...]] = {
    "w8a16_rtn": ("int8",),
    "w4a16_rtn": ("int4",),
    "w8a16_gptq": ("int8",),
    "w8a16_awq": ("int8",),
    "w4a16_gptq": ("int4",),
    "w4a16_awq": ("int4",),
    "w8a8_smoothquant": ("int8",),
    "w16kv8": ("int8", "fp16"),  # vamc writes int8 for it, although only the KV cache is
}

DEFAULT_PREFILL_CHUNK = 512


@dataclass(frozen=True)
class Quantize:
    """`frontend.quantize`: how weights (and for `w16kv8` the KV cache) are stored.

    Attributes:
        type: one of `RTN_TYPES` or `CALIBRATED_TYPES`.
        group_size: input channels that share one scale: 32, 64 or 128; None means one scale per output channel.
        device: torch device of a calibration.
        calib_args: arguments of a calibration, as written.
    """

    type: str
    group_size: int | None
    device: str | None = None
    calib_args: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_calibrated(self) -> bool:
        """Whether the type needs calibration data (GPTQ, AWQ, SmoothQuant, KV scales)."""
        return self.type in CALIBRATED_TYPES

    @property
    def rtn_type(self) -> str | None:
        """The round-to-nearest type that stands in for a calibrated one.

        The type itself when it is round-to-nearest already; None when the weights keep 16 bits (`w16kv8`).
        """
        return CALIBRATED_TYPES[self.type] if self.is_calibrated else self.type

    @property
    def weight_bits(self) -> Literal[4, 8, 16]:
        """Bits per stored weight, scales not counted."""
        if self.type.startswith("w4"):
            return 4
        return 16 if self.type.startswith("w16") else 8


@dataclass(frozen=True)
class ModelKwargs:
    """`frontend.model_kwargs`.

    Attributes:
        tp: tensor-parallel degree as written; `Spec.tp` is what the target uses.
        build_visual: whether the vision tower of a vision-language checkpoint is meant.
        values: every key as written, `tp` included.
    """

    tp: int = 1
    build_visual: bool = False
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Frontend:
    """`frontend`: which checkpoint, and how it is read.

    Attributes:
        checkpoint: an absolute path, or `package:<python package>/<file>` as written.
        type: as written, or deduced from the checkpoint's extension.
        dtype: dtype of the graph's inputs as vamc has it; recorded only.
        shape: input name → shape as written.
        model_kwargs: see `ModelKwargs`.
        quantize: None when the weights are stored unquantized.
    """

    checkpoint: str
    type: FrontendType
    dtype: str | None = None
    shape: Mapping[str, Any] = field(default_factory=dict)
    model_kwargs: ModelKwargs = ModelKwargs()
    quantize: Quantize | None = None

    @property
    def is_language_model(self) -> bool:
        """Whether `shape.input_ids` means `[[prefill...], [total...]]`; graphs of other frontends have fixed inputs."""
        return self.type in ("huggingface", "gguf")


@dataclass(frozen=True)
class Backend:
    """`backend`: the target and what it is told.

    Attributes:
        type: the target.
        dtype: how the weights of linear layers are stored: fp32, fp16, bf16, int8 or int4.
        merge_params: vamc's key as written; None when absent.
        remove_params: vamc's key as written; None when absent.
        compile: options of the target's code generator: vamc's as written, those of xamc's targets as they are read.
        quantize: vamc's activation quantization of CNN graphs, as written.
        values: the other keys below `backend`, as written (`dynamic_params`, `merge_shapes`, ...).
    """

    type: str = DEFAULT
    dtype: WeightDtype = "fp16"
    merge_params: bool | None = None
    remove_params: bool | None = None
    compile: Mapping[str, Any] = field(default_factory=dict)
    quantize: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Workspace:
    """`workspace`: where artifacts go.

    Attributes:
        path: folder under which the artifact's folder `name` is made; relative paths are against the current folder.
        workers: processes that work at the same time; None means as many as the process may use CPUs.
        pyenv: package → version that the spec's author used; never installed.
        values: the other keys below `workspace`, as written.
    """

    path: Path
    workers: int | None = None
    pyenv: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Passes:
    """`passes`: rewrites to leave out, and how often others have to match."""

    disable: tuple[str, ...] = ()
    expect: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Verify:
    """`verify`: what is proven while compiling.

    Attributes:
        passes: `each` runs the twin before and after every pass.
        final: run the real weights, streamed layer by layer, on the prompts.
        prompts: prompts for `final` and for the artifact's golden logits; empty means xamc's own one.
    """

    passes: Literal["each", "off"] = "each"
    final: bool = False
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Runtime:
    """`runtime`: what the KV cache is sized for.

    Attributes:
        max_batch: sequences that are decoded together, at most.
        kv_dtype: how keys and values are stored; `auto` leaves it to the target.
    """

    max_batch: int = DEFAULT_MAX_BATCH
    kv_dtype: KvDtype = "auto"


@dataclass(frozen=True)
class Spec:
    """A checked build spec.

    Attributes:
        source: the YAML file, absolute; None when the spec came as a mapping.
        name: name of the artifact's folder under `workspace.path`.
    """

    source: Path | None
    name: str
    frontend: Frontend
    graph: Mapping[str, Any]
    backend: Backend
    dataset: Mapping[str, Any]
    workspace: Workspace
    passes: Passes = Passes()
    verify: Verify = Verify()
    runtime: Runtime = Runtime()

    @property
    def prefill_lengths(self) -> tuple[int, ...]:
        """The first list of `frontend.shape.input_ids`, as written; empty when the key is absent."""
        return self._lengths(0)

    @property
    def total_lengths(self) -> tuple[int, ...]:
        """The second list of `frontend.shape.input_ids`, as written; empty when absent or a prefill-only model."""
        return self._lengths(1)

    @property
    def prefill_chunk(self) -> int:
        """Tokens of a prompt that one call of the prefill function takes: the largest prefill length."""
        return max(self.prefill_lengths, default=DEFAULT_PREFILL_CHUNK)

    @property
    def context_limit(self) -> int | None:
        """Tokens that a KV cache holds: the largest total length; None means the model's `max_position_embeddings`."""
        return max(self.total_lengths, default=None)

    @property
    def tp(self) -> int:
        """Tensor-parallel degree that the target uses: 1 on targets that run in one process."""
        return 1 if CAPS[self.backend.type].dynamic_shapes else self.frontend.model_kwargs.tp

    def to_dict(self) -> dict[str, Any]:
        """The spec as plain data for a manifest or a digest: paths as strings, tuples as lists, defaults spelt out."""
        return {key: _plain(value) for key, value in dataclasses.asdict(self).items()}

    def _lengths(self, which: int) -> tuple[int, ...]:
        lists = self.frontend.shape.get("input_ids")
        if not self.frontend.is_language_model or lists is None or which >= len(lists):
            return ()
        return tuple(lists[which])


@dataclass(frozen=True)
class SpecWarning:
    """Something in a spec that does not stop a compile, and that its author should know.

    Attributes:
        code: as for errors; `xamc explain CODE` describes it; empty for what a plan says of the model or the machine.
        message: names the key.
        fix: what to change to silence it; may be empty.
        locations: in the file; empty for a spec that came as a mapping.
        meant: of an unknown key, the one that was probably meant, dotted; else empty.
    """

    code: str
    message: str
    fix: str = ""
    locations: tuple[Location, ...] = ()
    meant: str = ""

    def __str__(self) -> str:
        """One line: code, location, what is wrong, and what to do."""
        location = "".join(f"{at.path.name}:{at.line}:{at.column} " for at in self.locations[:1])
        return f"{self.code} {location}{self.message}".lstrip() + (f"; {self.fix}" if self.fix else "")


@dataclass(frozen=True)
class LoadedSpec:
    """A spec with what is known about its text.

    Attributes:
        spec: the checked values.
        warnings: in the order of the file.
        values: the spec as written, with `--set` applied, before defaults.
        positions: key path → location of its value; empty for a spec that came as a mapping.
        text: the file's text; empty for a mapping.
        sources: path → text of what `positions` point into: the file as it was read, and the `--set` arguments.
    """

    spec: Spec
    warnings: tuple[SpecWarning, ...]
    values: Mapping[str, Any]
    positions: Mapping[KeyPath, Location]
    text: str
    sources: Mapping[Path, str] = field(default_factory=dict)

    def at(self, path: str, note: str = "") -> tuple[Location, ...]:
        """Where a key's value is written, for the `locations` of an error; empty when it is not written.

        Args:
            path: dotted, such as `frontend.quantize.type` or `passes.disable.0`.
            note: what is wrong with it, shown beside the carets.
        """
        location = self.positions.get(tuple(int(part) if part.isdigit() else part for part in path.split(".")))
        return (dataclasses.replace(location, note=note),) if location is not None else ()


def _plain(value: Any) -> Any:
    """Paths to strings and tuples to lists, recursively, so that json.dumps takes the result."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
