"""A model put together again from the files of all ranks: every parameter as it was before it was divided."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import twins
from tests.vacc_artifacts import Variant, whole_program
from xamc.artifact import Artifact
from xamc.artifact.digests import sha256_of
from xamc.artifact.manifest import (
    Cpu,
    FileDigest,
    Generation,
    KvCache,
    Manifest,
    Phase,
    Quantization,
    StaticGraph,
)
from xamc.compiler.handoff.from_ranks import checkpoint_of
from xamc.errors import InputError, MisuseError
from xamc.model.bucket import Bucket
from xamc.passes.graph.shard.split import Shard
from xamc.targets.vacc.params_file import ParamsFile, write_params_files

BUCKET = Bucket("decode", 16)


def written(folder: Path, kind: str, tp: int) -> Artifact:
    """The parameter files of a twin's ranks, with a manifest that knows their digests."""
    program = whole_program(Variant(kind, tp), BUCKET)
    graphs, files = [], []
    for rank, part in enumerate(Shard(tp).split(program)):
        name = f"decode_16_rank{rank}"
        (folder / name).mkdir()
        path = folder / name / "mod.params"
        write_params_files(
            [ParamsFile(path, {str(v.name): part.weights[str(v.name)] for v in part.weight_inputs()})], 1
        )
        files.append(FileDigest(f"{name}/mod.params", path.stat().st_size, sha256_of(path)))
        graphs.append(StaticGraph("decode", 16, rank, f"{name}/mod.so", f"{name}/mod.json", f"{name}/mod.params"))
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer/tokenizer.json").write_text("{}")
    manifest = Manifest(
        name=kind,
        target="tvm_vacc",
        xamc_version="0",
        spec={},
        model=program.config,
        context_limit=16,
        prefill_chunk=16,
        max_batch=1,
        kv=KvCache("float16"),
        functions=("main",),
        phases=(Phase("decode", ("main",), ((16,),), tp),),
        code_file=None,
        weights=None,
        cpu=Cpu("x86-64-v3", ()),
        quantization=Quantization(),
        tokenizer="tokenizer",
        generation=Generation(None, ()),
        files=tuple(files),
        ranks=tp,
        graphs=tuple(graphs),
        executes_on="host-simulator",
    )
    return Artifact(folder, manifest)


# whole groups; a padded group; KV heads on several ranks, query heads padded; everything padded to 16 ranks
@pytest.mark.parametrize(
    ("kind", "tp"),
    [("tied", 1), ("tied", 2), ("tied", 4), ("windowed", 2), ("windowed", 8), ("three_groups", 2), ("three_groups", 16),
     ("one_kv_head", 4)],
)  # fmt: skip
def test_every_parameter_is_the_original(kind: str, tp: int, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(written(tmp_path, kind, tp))
    original = twins.twin(kind)[0].weights
    assert set(checkpoint.tensors) == set(original) and list(checkpoint.tokenizer) == ["tokenizer.json"]
    for name, tensor in checkpoint.tensors.items():
        expected = original[name].read_rows(0, original[name].shape[0]).astype(np.float16)
        assert tensor.shape == expected.shape and tensor.dtype == "float16", name
        np.testing.assert_array_equal(tensor.read_rows(0, tensor.shape[0]), expected, err_msg=name)
        middle = tensor.shape[0] // 2
        np.testing.assert_array_equal(tensor.read_rows(middle, middle + 1), expected[middle : middle + 1])


def test_swapped_ranks_are_noticed(tmp_path: Path) -> None:
    artifact = written(tmp_path, "tied", 2)
    first, second = (artifact.file(graph.params) for graph in artifact.manifest.graphs)
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    with pytest.raises(InputError, match="E1456") as caught:
        checkpoint_of(artifact)
    assert "rank0/mod.params" in caught.value.message and "xamc verify" in caught.value.fix


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"target": "tvm_cpu"}, "tvm_cpu's code"),
        ({"quantization": Quantization("w8a16_gptq", "w8a16_rtn")}, "int8"),
    ],
)
def test_what_an_artifact_does_not_hold(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    artifact = written(tmp_path, "tied", 1)
    with pytest.raises(MisuseError, match="E1455") as caught:
        checkpoint_of(Artifact(artifact.path, replace(artifact.manifest, **change)))
    assert reason in caught.value.message and "--checkpoint" in caught.value.fix
