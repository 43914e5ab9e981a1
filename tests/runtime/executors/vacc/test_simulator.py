"""The simulator against ONNX Runtime in fp32: single graphs, ranks, prompts of every length, generation."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime.executors.vacc.conftest import DECODE, PREFILL, Reference, manifest
from tests.vacc_artifacts import Variant, whole_program
from xamc.artifact.manifest import StaticGraph
from xamc.errors import InputError, InternalError, UnsupportedError
from xamc.ir.tolerances import tolerance
from xamc.ir.weights.kv_scales import KvScales
from xamc.model.kv_cache import past_key, past_value
from xamc.runtime.executor import Step
from xamc.runtime.executors.vacc.graphs import VaccGraphs
from xamc.runtime.executors.vacc.session import VaccExecutor
from xamc.runtime.model import Model
from xamc.verify.oracle import oracle_of

Built = tuple[Path, list[StaticGraph]]
TOKENS = [int(token) for token in np.random.default_rng(3).integers(0, 100, 32)]


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    assert actual.shape == expected.shape
    return float(np.abs(actual.astype(np.float64) - expected).max() / np.abs(expected).max())


def _model(built: Built, kind: str = "tied", **changes: Any) -> Model:
    described = manifest(kind, built[1], **changes)
    return Model(built[0], described, VaccExecutor(built[0], described, threads=1))


# -- graphs ---------------------------------------------------------------------------------------------------------


def test_graphs_give_what_their_onnx_form_gives(one_rank: Built) -> None:
    """Each graph beside the same graph in fp32: operators, masks and caches one by one."""
    graphs = VaccGraphs(*one_rank, threads=1)
    assert graphs.lengths == {"prefill": (16,), "decode": (16, 32)} and graphs.simulated
    prefill = oracle_of(whole_program(Variant(), PREFILL)).run({"input_ids": np.array([TOKENS[:16]])})
    logits, presents = graphs.prefill(16, np.array([TOKENS[:16]]))
    assert logits.dtype == np.float16 and relative(logits, prefill["logits"]) < tolerance("float16_operators")
    names = [name for layer in range(2) for name in (f"present_key.{layer}", f"present_value.{layer}")]
    for name, present in zip(names, presents[0], strict=True):
        assert relative(present, prefill[name]) < tolerance("float16_operators"), name

    # nine tokens are cached; what lies in the slots behind them is large and must not be seen
    pasts = [np.full((1, 2, 15, 16), 37, np.float16) for _ in names]
    for past, name in zip(pasts, names, strict=True):
        past[:, :, :9] = prefill[name][:, :, :9]
    mask = np.zeros((1, 16), np.int64)
    mask[0, :9] = mask[0, 15] = 1
    feeds = {"input_ids": np.array([[7]]), "attention_mask": mask, "position_ids": np.array([[9]])}
    caches = [name for layer in range(2) for name in (past_key(layer), past_value(layer))]
    wide = {name: past.astype(np.float32) for name, past in zip(caches, pasts, strict=True)}
    decode = oracle_of(whole_program(Variant(), DECODE)).run({**feeds, **wide})
    logits, presents = graphs.decode(16, *feeds.values(), [graphs.past(pasts)])
    assert relative(logits, decode["logits"]) < tolerance("float16_operators")
    for name, past, present in zip(names, pasts, presents[0], strict=True):
        np.testing.assert_array_equal(present[:, :, :15], past)
        assert relative(present[:, :, 15], decode[name][:, :, 15]) < tolerance("float16_operators")


def test_runs_are_the_same_bit_by_bit(two_ranks: Built) -> None:
    ids = np.array([TOKENS[:16]])
    first, again = (VaccGraphs(*two_ranks, threads=threads).prefill(16, ids)[0] for threads in (1, 4))
    np.testing.assert_array_equal(first, again)


def test_ranks_together_are_the_whole_model(one_rank: Built, two_ranks: Built) -> None:
    ids = np.array([TOKENS[:16]])
    whole, wide = (VaccGraphs(*built, threads=1).prefill(16, ids) for built in (one_rank, two_ranks))
    assert relative(wide[0], whole[0].astype(np.float64)) < tolerance("float16_operators")
    assert len(wide[1]) == 2
    keys = np.concatenate([presents[0] for presents in wide[1]], axis=1)
    assert relative(keys, whole[1][0][0].astype(np.float64)) < tolerance("float16_operators")


def test_a_rank_that_fails_ends_the_run(two_ranks: Built) -> None:
    """The others wait for it at a barrier; they must not for ever, and the next run works."""
    graphs = VaccGraphs(*two_ranks, threads=1)
    ids, ranks = np.array([TOKENS[:16]]), graphs._graphs["prefill", 16]
    expected = graphs.prefill(16, ids)[0]
    function = ranks[1].function

    def failing(*_: object) -> None:
        raise ValueError("a kernel failed")

    ranks[1].function = failing
    outcome: list[BaseException] = []

    def run() -> None:
        try:
            graphs.prefill(16, ids)
        except InternalError as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    (error,) = outcome
    assert "E1617" in str(error) and "rank 1" in str(error)
    ranks[1].function = function
    np.testing.assert_array_equal(graphs.prefill(16, ids)[0], expected)


# -- sessions -------------------------------------------------------------------------------------------------------


# the longest decode graph of the artifact in two ranks has 16 slots
@pytest.mark.parametrize(("ranks", "length"), [(1, 1), (1, 7), (1, 16), (1, 21), (2, 1), (2, 7), (2, 16)])
def test_prompts_of_every_length(length: int, ranks: int, one_rank: Built, two_ranks: Built, tied: Reference) -> None:
    """Shorter than the prefill graph, as long, and longer; the last ones only where a decode graph has room."""
    model = _model(one_rank if ranks == 1 else two_ranks)
    expected = tied.logits(TOKENS[:length])
    last = model.logits([TOKENS[:length]], positions="last")[0, 0]
    assert relative(last, expected[-1]) < tolerance("float16_operators")


def test_logits_of_all_positions(one_rank: Built, tied: Reference) -> None:
    """A graph with the last position only is no help: every token goes through decode, across both of its lengths."""
    logits = _model(one_rank).logits([TOKENS[:20]])
    assert relative(logits[0], tied.logits(TOKENS[:20])) < tolerance("float16_operators")


@pytest.mark.parametrize("length", [1, 7, 16])
def test_generation_up_to_the_last_slot(length: int, one_rank: Built, tied: Reference) -> None:
    """Each token is the likeliest one in fp32 too, but for near-ties; the cache grows from 16 to 32 slots."""
    answer = _model(one_rank).generate(TOKENS[:length], ignore_eos=True)
    assert answer.finish_reason == "context" and length + len(answer.token_ids) == 32
    sequence = TOKENS[:length] + answer.token_ids
    logits = tied.logits(sequence[:-1])[length - 1 :]
    chosen = logits[np.arange(len(answer.token_ids)), answer.token_ids]
    assert (logits.max(-1) - chosen <= tolerance("float16_operators") * np.abs(logits).max()).all()


def test_rows_and_kept_caches(one_rank: Built) -> None:
    """Rows of a batch are those of single prompts; a next turn that keeps the cache goes on as if it had not."""
    model = _model(one_rank)
    prompts = [TOKENS[:9], TOKENS[4:8]]
    alone = [model.generate(prompt, 6).token_ids for prompt in prompts]
    assert [answer.token_ids for answer in model.generate([np.array(p) for p in prompts], 6)] == alone
    model.generate(prompts[0], 6)
    longer = prompts[0] + alone[0][:3] + [5]
    fresh = _model(one_rank).generate(longer, 6).token_ids
    assert model.generate(longer, 6).token_ids == fresh


def test_int8_weights_and_caches(quantized: Built, kv_scales: KvScales, windowed: Reference) -> None:
    """Against the same quantized graph in fp32; a code may fall on the other side of a rounding."""
    variant = Variant("windowed", int8=True, kv_scales=kv_scales, insert_slice=False)
    graphs = VaccGraphs(*quantized, threads=1)
    expected = oracle_of(whole_program(variant, PREFILL)).run({"input_ids": np.array([TOKENS[:16]])})
    logits, presents = graphs.prefill(16, np.array([TOKENS[:16]]))
    assert relative(logits, expected["logits"]) < tolerance("float16_operators")
    assert presents[0][0].dtype == np.int8
    codes = np.concatenate([present.reshape(-1) for present in presents[0]]).astype(int)
    wanted = np.concatenate([expected[n].reshape(-1) for n in ("present_key.0", "present_value.0")]).astype(int)
    distance = np.abs(codes[: wanted.size] - wanted)
    assert distance.max() <= 1 and distance.mean() < 0.1
    # a decode step on the codes of nine tokens
    caches = [name for layer in range(2) for name in (past_key(layer), past_value(layer))]
    pasts = {name: np.zeros((1, 2, 15, 16), np.int8) for name in caches}
    for past, present in zip(pasts.values(), presents[0], strict=True):
        past[:, :, :9] = present[:, :, :9]
    mask = np.zeros((1, 16), np.int64)
    mask[0, :9] = mask[0, 15] = 1
    feeds = {"input_ids": np.array([[7]]), "attention_mask": mask, "position_ids": np.array([[9]])}
    expected = oracle_of(whole_program(variant, DECODE)).run({**feeds, **pasts})
    logits, presents = graphs.decode(16, *feeds.values(), [graphs.past(list(pasts.values()))])
    assert relative(logits, expected["logits"]) < tolerance("float16_operators")
    for past, present in zip(pasts.values(), presents[0], strict=True):
        np.testing.assert_array_equal(present[:, :, :9], past[:, :, :9])


def test_logits_of_all_positions_of_a_graph_that_gives_them(quantized: Built, windowed: Reference) -> None:
    """One call of the prefill graph, in which keys and values are not quantized yet."""
    logits = _model(quantized, "windowed").logits([TOKENS[:12]])[0]
    assert relative(logits, windowed.logits(TOKENS[:12])) < tolerance("w8_per_channel_twin")


# -- what can't be done -----------------------------------------------------------------------------------------------


def test_too_much_is_refused(one_rank: Built) -> None:
    model = _model(one_rank)
    with pytest.raises(InputError, match="E1603"):
        model.generate(TOKENS, 1)
    with pytest.raises(InputError, match="E1603"):
        _model(one_rank, context_limit=40).logits([[*TOKENS, 1]])


def test_lengths_without_a_graph_are_refused(one_rank: Built) -> None:
    """A short prompt's last token has to run through decode; without a decode graph there is no way."""
    folder, graphs = one_rank
    described = manifest("tied", [graph for graph in graphs if graph.kind == "prefill"])
    executor = VaccExecutor(folder, described, threads=1)
    table = np.zeros((16, 8), np.float32)
    step = Step(np.array([TOKENS[:5]]), np.array([0]), np.array([0]), np.array([5]), table, table)
    with pytest.raises(UnsupportedError, match="E1621"):
        executor.forward(step)
    with pytest.raises(UnsupportedError, match="E1621"):
        VaccGraphs(folder, graphs, threads=1).description("prefill", 64)


@pytest.mark.parametrize(
    ("file", "damage", "code"),
    [
        ("mod.json", lambda data: b"{}", "E1620"),
        ("mod.json", lambda data: data.replace(b'"version": 1', b'"version": 99'), "E1620"),
        ("mod.json", lambda data: data.replace(b"q_proj", b"x_proj"), "E1611"),
        ("mod.params", lambda data: data[:-1], "E1512"),
        ("mod.so", lambda data: b"\x7fELF", "E1609"),
    ],
)
def test_damaged_files_are_named(one_rank: Built, tmp_path: Path, file: str, damage: Any, code: str) -> None:
    source, graphs = one_rank
    graph = next(graph for graph in graphs if graph.kind == "decode")
    folder = tmp_path / Path(graph.code).parent
    folder.mkdir()
    for name in ("mod.so", "mod.json", "mod.params"):
        data = (source / folder.name / name).read_bytes()
        (folder / name).write_bytes(damage(data) if name == file else data)
    with pytest.raises(Exception, match=code):
        VaccGraphs(tmp_path, [graph], threads=1)
