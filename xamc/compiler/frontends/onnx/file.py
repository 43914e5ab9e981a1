"""Reads an ONNX file without trusting it: bounds first, then protobuf, then external data, then onnx's checker.

Nothing of a file beside the model is opened before its name, its place and its size have been checked.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from xamc.errors import InputError, UnsupportedError

MAX_PATH_BYTES = 1024
MAX_BYTES = 2**31 - 1  # protobuf's own bound of a message
MIN_OPSET = 7  # ONNX Runtime, the judge, does not promise older ones
_EXTERNAL = onnx.TensorProto.EXTERNAL
_WHOLE = "export or download the model again"


@dataclass(frozen=True)
class OnnxFile:
    """A parsed and checked ONNX file; tensors with external data have not been read.

    Attributes:
        path: the file.
        proto: the model.
        files: the file and those that hold its external data.
        opset: version of the standard operators.
    """

    path: Path
    proto: Any
    files: tuple[Path, ...]
    opset: int


def read_onnx(path: Path) -> OnnxFile:
    """Reads and checks `path`.

    Raises:
        InputError: E1152 the file is damaged, too large or no ONNX model; E1153 its external data lie outside of its
            folder or are cut off.
        UnsupportedError: E1154 an operator set that is too old.
    """
    proto = _parse(path)
    with _readable_names(path):
        files = _files(path, proto)
        for name, tensor in _tensors(proto):
            _check_payload(path, name, tensor)
        opset = _opset(path, proto)
        _check(path, proto)
    return OnnxFile(path, proto, files, opset)


@contextmanager
def _readable_names(path: Path) -> Iterator[None]:
    """Strings of a file are decoded when they are read, not when it is parsed."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise InputError("E1152", f"{path} is no valid ONNX model: a name in it is not UTF-8", _WHOLE) from error


def model_files(path: Path) -> tuple[Path, ...]:
    """The .onnx file and the files of its external data; their sizes are checked, nothing else.

    Raises:
        InputError: E1152, E1153.
    """
    proto = _parse(path)
    with _readable_names(path):
        return _files(path, proto)


def _files(path: Path, proto: Any) -> tuple[Path, ...]:
    external = {
        _external_file(path, name, tensor) for name, tensor in _tensors(proto) if tensor.data_location == _EXTERNAL
    }
    return (path, *sorted(external))


def _parse(path: Path) -> Any:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError("E1152", f"{path} is not a file", "set frontend.checkpoint to the .onnx file")
        if status.st_size > MAX_BYTES:
            raise InputError(
                "E1152",
                f"{path} has {status.st_size} bytes; an ONNX file has at most {MAX_BYTES}",
                "save larger weights as external data (onnx.save(..., save_as_external_data=True))",
            )
        content = path.read_bytes()
    except OSError as error:
        raise InputError("E1152", f"{path} can't be read: {error.strerror}", _WHOLE) from error
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError as error:
        raise InputError("E1152", f"{path} is no ONNX model, or is cut off: {error}", _WHOLE) from None
    if not proto.HasField("graph") or proto.ir_version < 3 or not proto.graph.output:
        what = "has no graph" if not proto.HasField("graph") else "has no output"
        if proto.HasField("graph") and proto.ir_version < 3:
            what = f"is of IR version {proto.ir_version}; 3 is the oldest that says what its operators mean"
        raise InputError("E1152", f"{path} {what}", _WHOLE)
    return proto


def _tensors(proto: Any) -> Iterator[tuple[str, Any]]:
    """Every tensor of a model with a name for messages: initializers and attributes, in subgraphs and functions too."""
    yield from _graph_tensors(proto.graph)
    for function in proto.functions:
        yield from _node_tensors(function.node)
    for training in proto.training_info:
        yield from _graph_tensors(training.initialization)
        yield from _graph_tensors(training.algorithm)


def _graph_tensors(graph: Any) -> Iterator[tuple[str, Any]]:
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for sparse in graph.sparse_initializer:
        yield sparse.values.name, sparse.values
        yield f"{sparse.values.name} (indices)", sparse.indices
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Any) -> Iterator[tuple[str, Any]]:
    for node in nodes:
        for attribute in node.attribute:
            name = f"{node.name or node.op_type}.{attribute.name}"
            if attribute.HasField("t"):
                yield name, attribute.t
            for tensor in attribute.tensors:
                yield name, tensor
            sparse_tensors = list(attribute.sparse_tensors)
            if attribute.HasField("sparse_tensor"):
                sparse_tensors.append(attribute.sparse_tensor)
            for sparse in sparse_tensors:
                yield name, sparse.values
                yield f"{name} (indices)", sparse.indices
            for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _graph_tensors(graph)


def _external_file(path: Path, name: str, tensor: Any) -> Path:
    """The file of a tensor's external data, after every check that needs no byte of it.

    The location must be relative and, links resolved, lie inside the model's folder.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if not all(isinstance(value, str) for value in (*entries, *entries.values())) or len(location) > MAX_PATH_BYTES:
        # protobuf gives what is no UTF-8 as bytes
        raise InputError("E1153", f"{path}: the external data of {name} are at no file's name", _WHOLE)
    pure = PurePosixPath(location)
    where = f"{path}: the external data of {name} are in {location!r}"
    move = "put the data beside the .onnx file and name it without a folder"
    if not location or pure.is_absolute() or ".." in pure.parts or "\0" in location or "\\" in location:
        raise InputError("E1153", f"{where}, which is not a file beside the model", move)
    folder = Path(os.path.realpath(path.parent))
    file = Path(os.path.realpath(folder / location))
    # a model in Hugging Face's cache is a link, and so are its data: beside the link's target is inside as well
    homes = (folder, Path(os.path.realpath(path)).parent)
    if not any(file.is_relative_to(home) for home in homes):
        raise InputError("E1153", f"{where}, a link that leads out of the model's folder", move)
    if not os.path.isfile(file):  # Path.is_file raises for a name that no file system can hold
        raise InputError("E1153", f"{where}, which does not exist or is no file", "copy it beside the .onnx file")
    status, expected = file.stat(), _nbytes(path, name, tensor)
    nbytes = status.st_size
    if status.st_nlink > 1:  # onnx-ir reads none: who made the link may not have been allowed to read the file
        copy = "make it a file of its own: copy it, and rename the copy"
        raise InputError("E1153", f"{where}, which has {status.st_nlink} names (hard links)", copy)
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length", expected))
    except ValueError:
        raise InputError("E1153", f"{where} at an offset or of a length that is no number", _WHOLE) from None
    if offset < 0 or length < 0 or offset + length > nbytes:
        raise InputError(
            "E1153", f"{where}, bytes {offset} to {offset + length}, but it has {nbytes}", f"it is cut off; {_WHOLE}"
        )
    if expected != length:
        raise InputError("E1153", f"{where}, {length} bytes; its type and shape take {expected}", _WHOLE)
    return Path(path.parent, location)


def _nbytes(path: Path, name: str, tensor: Any) -> int:
    """Bytes of a tensor's raw form."""
    if any(dim < 0 for dim in tensor.dims):
        raise InputError("E1152", f"{path}: {name} has the shape {list(tensor.dims)}", _WHOLE)
    count = math.prod(int(dim) for dim in tensor.dims)
    if tensor.data_type in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING):
        raise InputError("E1152", f"{path}: {name} holds no numbers", "remove it, or export numbers")
    try:
        dtype: np.dtype[Any] = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    except (KeyError, TypeError, ValueError):
        raise InputError("E1152", f"{path}: {name} is of the unknown type {tensor.data_type}", _WHOLE) from None
    bits: int = {"int4": 4, "uint4": 4, "float4_e2m1fn": 4, "int2": 2, "uint2": 2}.get(dtype.name, dtype.itemsize * 8)
    return -(-count * bits // 8)


def _check_payload(path: Path, name: str, tensor: Any) -> None:
    """An embedded tensor has as many bytes, or numbers, as its shape says."""
    if tensor.data_location == _EXTERNAL or tensor.data_type == onnx.TensorProto.STRING:
        return
    expected = _nbytes(path, name, tensor)
    if tensor.HasField("raw_data"):
        if len(tensor.raw_data) != expected:
            found = len(tensor.raw_data)
            raise InputError("E1152", f"{path}: {name} has {found} bytes, its type and shape take {expected}", _WHOLE)
        return
    try:
        onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise InputError("E1152", f"{path}: the values of {name} don't fit its shape: {error}", _WHOLE) from None


def _opset(path: Path, proto: Any) -> int:
    versions = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    if not versions:
        raise InputError("E1152", f"{path} does not say which operator set it uses", _WHOLE)
    newest = onnx.defs.onnx_opset_version()
    if not MIN_OPSET <= versions[0] <= newest:
        raise UnsupportedError(
            "E1154",
            f"{path} uses operator set {versions[0]}; {MIN_OPSET} to {newest} are supported",
            "export it with opset_version 17, or convert it with onnx.version_converter",
        )
    return int(versions[0])


def _check(path: Path, proto: Any) -> None:
    """onnx's checker on the model without its external tensors, which stand as inputs, so that it opens no file."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    del bare.training_info[:]
    inputs = {value.name for value in bare.graph.input}
    for index in reversed(range(len(bare.graph.initializer))):
        tensor = bare.graph.initializer[index]
        if tensor.data_location != _EXTERNAL:
            continue
        if tensor.name not in inputs:
            bare.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
        del bare.graph.initializer[index]
    try:
        onnx.checker.check_model(bare)
    except (onnx.checker.ValidationError, ValueError) as error:
        lines = str(error).strip().splitlines() or ["no reason given"]
        raise InputError(
            "E1152", f"{path} is no valid ONNX model: {lines[0]}", _WHOLE, details=tuple(lines[1:12])
        ) from None
