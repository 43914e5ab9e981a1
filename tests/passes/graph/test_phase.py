from __future__ import annotations

import numpy as np
import pytest

from tests import twins
from tests.golden_files import check_golden
from tests.passes.graph.cases import DECODE, PREFILL, golden_of
from tests.passes.graph.static_graphs import static_passes, structure_problems
from xamc.errors import InternalError
from xamc.ir.onnx_graph import new_node
from xamc.ir.tolerances import tolerance
from xamc.model.bucket import Bucket
from xamc.model.kv_cache import past_key
from xamc.passes.graph import phase
from xamc.passes.graph.cleanup import Cleanup
from xamc.passes.graph.phase import StaticPhase
from xamc.passes.graph.rope_table import RopeTables
from xamc.passes.runner import run_passes
from xamc.verify.metrics import relative_error
from xamc.verify.oracle import oracle_of
from xamc.verify.scenario import prompts


def test_golden() -> None:
    check_golden("passes/phase.txt", golden_of("phase", phase))


def test_signatures() -> None:
    prefill = twins.after("tied", Cleanup(), StaticPhase(Bucket("prefill", 32)))
    assert [value.name for value in prefill.data_inputs()] == ["input_ids", "rope_cos", "rope_sin"]
    decode = twins.after("tied", Cleanup(), StaticPhase(Bucket("decode", 48)))
    names = [value.name for value in decode.data_inputs()]
    assert names[:3] == ["input_ids", "attention_mask", "position_ids"]
    assert names[5:] == ["past_key.0", "past_value.0", "past_key.1", "past_value.1"]
    shapes = {value.name: list(value.shape or ()) for value in decode.data_inputs()}
    assert shapes["attention_mask"] == [1, 48] and shapes["past_key.1"] == [1, 2, 47, 16]
    expected = ["logits", "present_key.0", "present_value.0", "present_key.1", "present_value.1"]
    for program, length in ((prefill, 32), (decode, 48)):
        assert [value.name for value in program.model.graph.outputs] == expected
        assert list(program.model.graph.outputs[2].shape or ()) == [1, 2, length, 16]


@pytest.mark.parametrize("run", ["row0", "row1", "row2"])
@pytest.mark.parametrize("kind", twins.KINDS)
def test_generation_by_the_contract_equals_transformers(kind: str, run: str) -> None:
    """Prefill of a padded prompt, its last token once more through decode, and steps up to the last slot.

    The host's part is written out here: which slots are valid, where a new token's keys and values go, which are
    garbage.
    """
    program, cases = twins.twin(kind)
    ids = prompts(program.config)[run]
    prompt = ids.shape[1] - 3
    run_passes(program, static_passes(PREFILL))
    padded = np.full((1, PREFILL.length), 7, np.int64)
    padded[:, :prompt] = ids[:, :prompt]
    filled = oracle_of(program).run({"input_ids": padded})
    past = {
        f"past_{kind}.{layer}": np.full((1, 2, DECODE.length - 1, 16), -50.0, np.float32)
        for layer in range(2)
        for kind in ("key", "value")
    }
    for name, array in past.items():
        array[:, :, : PREFILL.length] = filled[name.replace("past", "present")]
    decode, _ = twins.twin(kind)
    run_passes(decode, static_passes(DECODE))
    oracle = oracle_of(decode)
    for step, position in enumerate(range(prompt - 1, prompt + 3)):
        mask = np.zeros((1, DECODE.length), np.int64)
        mask[:, :position] = mask[:, -1] = 1
        result = oracle.run(
            {
                "input_ids": ids[:, position : position + 1],
                "attention_mask": mask,
                "position_ids": np.array([[position]]),
                **past,
            }
        )
        case = next(case for case in cases if (case.run, case.step) == (run, step))
        error = relative_error(result["logits"][:, -1], case.fetches["logits"][:, -1])
        assert error <= tolerance("export_fp32"), f"position {position}"
        for name, array in past.items():
            if position < DECODE.length - 1:
                array[:, :, position] = result[name.replace("past", "present")][:, :, -1]


def test_a_slot_too_many_would_be_noticed() -> None:
    decode, cases = twins.twin("tied")
    run_passes(decode, static_passes(DECODE))
    case = next(case for case in cases if (case.run, case.step) == ("row0", 2))
    feeds, expected = RopeTables().adapt(*StaticPhase(DECODE).adapt(case.feeds, case.fetches))
    oracle = oracle_of(decode)
    assert relative_error(oracle.run(feeds)["logits"], expected["logits"]) <= tolerance("export_fp32")
    feeds["attention_mask"][:, 6] = 1
    assert relative_error(oracle.run(feeds)["logits"], expected["logits"]) > 1e-2


def test_calls_that_a_phase_serves() -> None:
    def feeds(batch: int, past: int, tokens: int) -> dict[str, np.ndarray]:
        return {"input_ids": np.zeros((batch, tokens)), past_key(0): np.zeros((batch, 2, past, 4))}

    prefill, decode = StaticPhase(PREFILL), StaticPhase(DECODE)
    assert prefill.accepts(feeds(1, 0, 9)) and prefill.accepts(feeds(1, 0, 1))
    assert not any(prefill.accepts(feeds(*call)) for call in [(1, 0, 10), (2, 0, 9), (1, 1, 3)])
    assert decode.accepts(feeds(1, 11, 1)) and decode.accepts(feeds(1, 0, 1))
    assert not any(decode.accepts(feeds(*call)) for call in [(1, 12, 1), (2, 5, 1), (1, 5, 2)])


def test_padding_is_left_undecided() -> None:
    feeds = {"input_ids": np.ones((1, 5), np.int64), "rope_cos": np.ones((64, 4)), "rope_sin": np.ones((64, 4))}
    fetches = {"logits": np.ones((1, 5, 3)), "present_key.0": np.ones((1, 2, 5, 4))}
    new, expected = StaticPhase(PREFILL).adapt(feeds, fetches)
    assert set(new) == {"input_ids", "rope_cos", "rope_sin"}
    assert new["input_ids"].tolist() == [[1, 1, 1, 1, 1, 0, 0, 0, 0]] and new["rope_cos"].shape == (9, 4)
    assert np.isnan(expected["logits"][:, 5:]).all() and not np.isnan(expected["logits"][:, :5]).any()
    assert np.isnan(expected["present_key.0"][:, :, 5:]).all()


@pytest.mark.parametrize("bucket", [PREFILL, DECODE], ids=["prefill", "decode"])
def test_a_second_run_is_refused(bucket: Bucket) -> None:
    program = twins.after("tied", Cleanup(), StaticPhase(bucket))
    with pytest.raises(InternalError) as error:
        StaticPhase(bucket).run(program)
    assert error.value.code == "E1320" and "already" in error.value.message


def test_attention_in_pieces_is_refused_by_layer() -> None:
    program = twins.after("tied", Cleanup())
    twins.nodes(program, "Attention")[1].replace_input_with(4, None)
    with pytest.raises(InternalError, match=r"past_key\.1 has 0 Attention readers"):
        StaticPhase(PREFILL).run(program)


def test_a_size_that_is_computed_at_run_time_is_refused() -> None:
    program = twins.after("tied", Cleanup())
    graph = program.model.graph
    embedding = twins.nodes(program, "Gather")[0].outputs[0]
    size = new_node("Shape", [embedding], ["size_of_it"])
    again = new_node("Reshape", [embedding, size.outputs[0]], ["again"])
    again.outputs[0].type, again.outputs[0].shape = embedding.type, embedding.shape
    embedding.replace_all_uses_with(again.outputs[0])
    size.replace_input_with(0, embedding)
    again.replace_input_with(0, embedding)
    graph.insert_after(embedding.producer(), [size, again])
    with pytest.raises(InternalError, match="Shape 'size_of_it' computes a size at run time"):
        StaticPhase(PREFILL).run(program)


def test_structure_problems_are_found() -> None:
    program = twins.after("tied", Cleanup())
    assert any("Attention" in problem for problem in structure_problems(program))
    assert any("no static shape" in problem for problem in structure_problems(program))
