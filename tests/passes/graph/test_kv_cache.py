import numpy as np
import pytest

from tests import twins
from tests.golden_files import check_golden
from tests.passes.graph.cases import PASSES, golden_text
from xamc.errors import InternalError
from xamc.ir.names import ALIAS_KEY
from xamc.ir.tolerances import tolerance
from xamc.passes.graph import kv_cache
from xamc.passes.graph.cleanup import Cleanup
from xamc.passes.graph.kv_cache import KvCache
from xamc.passes.graph.last_position import LastPosition
from xamc.verify.metrics import relative_error
from xamc.verify.oracle import Oracle, materialize, oracle_of
from xamc.verify.scenario import prompts, steps


def test_golden() -> None:
    check_golden("passes/kv_cache.txt", golden_text("kv_cache", PASSES["kv_cache"].make(kv_cache)))


def test_caches_are_aliased_in_order() -> None:
    program = twins.after("windowed", KvCache())
    names = [value.name for value in program.data_inputs()]
    assert names[:3] == ["input_ids", "position_ids", "write_index"]
    outputs = program.model.graph.outputs[1:]
    assert [value.metadata_props[ALIAS_KEY] for value in outputs] == names[5:]
    assert names[5:] == ["cache_key.0", "cache_value.0", "cache_key.1", "cache_value.1"]


@pytest.mark.parametrize("kind", twins.KINDS)
def test_right_padded_ragged_generation_equals_each_row_alone(kind: str) -> None:
    """Prefill and three decode steps through one cache, against transformers on each row by itself.

    The cache starts full of garbage and is handed on from step to step, as the runtime does.
    """
    program = twins.after(kind, Cleanup(), LastPosition(), KvCache())
    oracle = oracle_of(program)
    _, cases = twins.twin(kind)
    rows = {run: ids for run, ids in prompts(program.config).items() if run != "batch"}
    lengths = np.array([ids.shape[1] - 3 for ids in rows.values()], np.int64)
    capacity = int(lengths.max()) + 3
    caches = {
        value.name: np.full((len(rows), program.config.num_kv_heads, capacity, 16), 1e4, np.float32)
        for value in program.data_inputs()
        if str(value.name).startswith("cache_")
    }
    written = np.zeros(len(rows), np.int64)
    for step in range(4):
        new = lengths if step == 0 else np.ones(len(rows), np.int64)
        width = int(new.max())
        ids = np.zeros((len(rows), width), np.int64)
        for row, tokens in enumerate(rows.values()):
            ids[row, : new[row]] = tokens[0, written[row] : written[row] + new[row]]
        tables = steps(program.config, next(iter(rows.values())))[0]
        result = oracle.run(
            {
                "input_ids": ids,
                "position_ids": written[:, None] + np.arange(width),
                "write_index": written,
                "last_index": new - 1,
                "rope_cos": tables["rope_cos"],
                "rope_sin": tables["rope_sin"],
                **caches,
            }
        )
        for row, run in enumerate(rows):
            alone = next(case for case in cases if (case.run, case.step) == (run, step))
            error = relative_error(result["logits"][row, 0], alone.fetches["logits"][0, -1])
            assert error <= tolerance("export_fp32"), f"{run}, step {step}"
        caches = {name: result[name.replace("cache_", "updated_")] for name in caches}
        written = written + new


def test_one_token_too_many_does_not_pass_unnoticed() -> None:
    """The same call with write_index off by one gives other logits: the test above can fail."""
    program, cases = twins.twin("tied")
    case = next(case for case in cases if case.run == "batch" and case.step == 2)
    weights = materialize(program.weights)
    kv = KvCache()
    kv.run(program)
    feeds, expected = kv.adapt(case.feeds, case.fetches)
    oracle = Oracle(program.model, weights)
    right = oracle.run(feeds)["logits"]
    assert relative_error(right, expected["logits"]) <= tolerance("export_fp32")
    wrong = oracle.run({**feeds, "write_index": feeds["write_index"] + 1})["logits"]
    assert relative_error(wrong, expected["logits"]) > 1e-2


def test_attention_in_pieces_is_refused_by_layer() -> None:
    with pytest.raises(InternalError, match="rewritten already"):
        KvCache().run(twins.after("tied", KvCache()))
    program, _ = twins.twin("tied")
    attention = twins.nodes(program, "Attention")[1]
    attention.replace_input_with(4, None)
    with pytest.raises(InternalError) as error:
        KvCache().run(program)
    assert error.value.code == "E1302" and "past_key.1" in error.value.message


def test_merge_rows_leaves_padding_undecided() -> None:
    def row(past: int, length: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        feeds = {
            "input_ids": np.ones((1, length), np.int64),
            "position_ids": past + np.arange(length)[None],
            "rope_cos": np.zeros((8, 1), np.float32),
            "past_key.0": np.ones((1, 1, past, 2), np.float32),
        }
        return feeds, {
            "logits": np.ones((1, length, 5), np.float32),
            "present_key.0": np.ones((1, 1, past + length, 2), np.float32),
        }

    feeds, expected = KvCache().merge_rows([row(3, 1), row(0, 4)])
    assert feeds["write_index"].tolist() == [3, 0]
    assert feeds["position_ids"].tolist() == [[3, 4, 5, 6], [0, 1, 2, 3]]
    assert feeds["input_ids"].tolist() == [[1, 0, 0, 0], [1, 1, 1, 1]]
    assert np.isnan(expected["logits"][0, 1:]).all() and not np.isnan(expected["logits"][1]).any()
    keys = expected["updated_key.0"][:, 0, :, 0]
    assert keys.shape == (2, 10)
    assert np.isnan(keys[0, 4:7]).all() and (keys[0, 7:] == 37).all() and (keys[0, :4] == 1).all()
    assert (keys[1, :4] == 1).all() and (keys[1, 4:] == 37).all()
