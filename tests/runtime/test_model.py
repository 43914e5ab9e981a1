"""The Python API on toy artifacts of both targets, against the toy's definition in NumPy."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xamc.artifact import read_artifact
from xamc.artifact.manifest import Cpu
from xamc.artifact.manifest_file import dumps
from xamc.errors import InputError, InternalError, MisuseError, ToolchainError, UnsupportedError
from xamc.ir.tolerances import tolerance
from xamc.model.config import RopeConfig
from xamc.runtime import Generation, Model, load
from xamc.runtime.executor import Step
from xamc.runtime.tvm_library import load_functions

PROMPTS = [[5, 6], [7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19], [20]]


@pytest.fixture(scope="module")
def model(toy_path: Path) -> Model:
    return load(toy_path, threads=1)


def relative_error(got: Any, want: Any) -> float:
    return float(np.abs(got - want).max() / np.abs(want).max())


def padded(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    width = max(map(len, rows))
    return np.array([row + [0] * (width - len(row)) for row in rows]), np.array([len(row) for row in rows])


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 17, 48])
def test_logits_of_one_row_over_chunk_borders(model: Model, toy: Any, vocab_size: int, length: int) -> None:
    tokens = np.random.default_rng(length).integers(0, vocab_size, length)
    want = toy.logits(tokens, vocab_size)
    got = model.logits(tokens[None])
    assert got.shape == (1, length, vocab_size) and got.dtype == np.float32
    assert relative_error(got[0], want) < tolerance("cpu_fp32")
    last = model.logits(tokens[None], positions="last")
    assert last.shape == (1, 1, vocab_size)
    assert relative_error(last[0, 0], want[-1]) < tolerance("cpu_fp32")


def test_logits_of_a_ragged_batch(model: Model, toy: Any, vocab_size: int) -> None:
    ids, lengths = padded(PROMPTS)
    every = model.logits(ids, lengths)
    last = model.logits(ids, lengths, positions="last")
    for row, prompt in enumerate(PROMPTS):
        want = toy.logits(prompt, vocab_size)
        assert relative_error(every[row, : len(prompt)], want) < tolerance("cpu_fp32")
        assert (every[row, len(prompt) :] == 0).all()
        assert relative_error(last[row, 0], want[-1]) < tolerance("cpu_fp32")


def test_logits_do_not_depend_on_what_ran_before(model: Model) -> None:
    first = model.logits([PROMPTS[1]])
    model.generate(PROMPTS, 20, ignore_eos=True)
    np.testing.assert_array_equal(model.logits([PROMPTS[1]]), first)


def test_greedy_batch_equals_rows_alone(model: Model, toy: Any, vocab_size: int) -> None:
    want = [toy.greedy(prompt, 30, vocab_size) for prompt in PROMPTS]
    together = model.generate(PROMPTS, 30, ignore_eos=True)
    assert [answer.token_ids for answer in together] == want
    alone = model.generate(PROMPTS[1], 30, ignore_eos=True)
    assert alone.token_ids == want[1]
    assert alone.prompt_tokens == len(PROMPTS[1]) and alone.finish_reason == "length"
    assert alone.prefill_tokens_per_s > 0 and alone.decode_tokens_per_s > 0


def test_a_row_that_ends_early_leaves_the_others_alone(model: Model, toy: Any, vocab_size: int) -> None:
    """Row 1 fills the context and stops, the others go on; then the same with an end-of-sequence token."""
    want = toy.greedy(PROMPTS[0], 46, vocab_size)
    answers = model.generate([PROMPTS[0], [3] * 47], ignore_eos=True)
    assert answers[0].token_ids == want and answers[0].finish_reason == "context"
    assert len(answers[1].token_ids) == 1 and answers[1].finish_reason == "context"


def test_end_of_sequence(make_artifact: Any, toy: Any, vocab_size: int) -> None:
    from xamc.artifact.manifest import Generation as GenerationDefaults

    want = toy.greedy(PROMPTS[0], 12, vocab_size)
    ends = (299, want[3])
    model = load(make_artifact(generation=GenerationDefaults(0, ends)), threads=1)
    answer = model.generate(PROMPTS[0], 12)
    first = next(index for index, token in enumerate(want) if token in ends)
    assert answer.token_ids == want[: first + 1] and answer.finish_reason == "eos"
    assert model.generate(PROMPTS[0], 12, ignore_eos=True).token_ids == want


def test_text_prompt_batch_and_stream(model: Model) -> None:
    text = "the quick 你好"
    answer = model.generate(text, 20, ignore_eos=True)
    assert isinstance(answer, Generation)
    assert answer.text == model.tokenizer.decode(answer.token_ids)
    assert answer.prompt_tokens == len(model.tokenizer.encode(text))
    batch = model.generate([text, "fox"], 20, ignore_eos=True)
    assert batch[0].text == answer.text
    stream = model.stream(text, 20, ignore_eos=True)
    pieces = list(stream)
    assert len(pieces) > 1 and "".join(pieces) == answer.text == stream.generation.text
    seen: dict[int, str] = {}
    model.generate([text, "fox"], 20, on_text=lambda row, piece: seen.update({row: seen.get(row, "") + piece}))
    assert seen[0] == model.generate(text, 20).text


def test_stop_string_over_tokens(model: Model) -> None:
    whole = model.generate("the", 30, ignore_eos=True).text
    stop = whole[5:9]
    answer = model.generate("the", 30, ignore_eos=True, stop=["never said", stop])
    assert answer.text == whole[: whole.index(stop)] and answer.finish_reason == "stop"
    assert len(answer.token_ids) < 30
    stream = model.stream("the", 30, ignore_eos=True, stop=stop)
    assert "".join(stream) == answer.text


def test_sampling_is_reproducible_by_seed(model: Model) -> None:
    options: dict[str, Any] = {"temperature": 5.0, "top_k": 50, "top_p": 0.95, "ignore_eos": True}
    first = model.generate("fox", 20, seed=1, **options).token_ids
    assert model.generate("fox", 20, seed=1, **options).token_ids == first
    assert model.generate("fox", 20, seed=2, **options).token_ids != first
    batch = model.generate(["fox", "fox"], 20, seed=1, **options)
    assert batch[0].token_ids == first != batch[1].token_ids


def test_chat(model: Model) -> None:
    messages = [{"role": "user", "content": "fox"}]
    prompt = model.chat_prompt(messages)
    assert prompt.tolist() == model.tokenizer.encode("<bos>user: fox\nassistant:", False).tolist()
    assert prompt[0] == 0
    assert model.chat(messages, 5, ignore_eos=True).token_ids == model.generate(prompt, 5, ignore_eos=True).token_ids
    other = model.chat_prompt(messages, template="{{ messages[0].content }}")
    assert other.tolist() == model.tokenizer.encode("fox", False).tolist()


def test_dynamic_rope_follows_the_length_reached(make_artifact: Any, toy: Any, vocab_size: int) -> None:
    """Prefill uses the whole prompt's base for every chunk; each decoded token the base of its own length."""
    config = toy.config(vocab_size, RopeConfig("dynamic", 100.0, factor=2.0))
    prompt = [int(token) for token in np.random.default_rng(0).integers(0, vocab_size, 20)]
    model = load(make_artifact(model=config), threads=1)

    def definition(tokens: list[int]) -> np.ndarray:
        from xamc.model.rope import rope_table

        tensors = toy.weights(vocab_size)
        cos, sin = rope_table(config, len(tokens), len(tokens))
        state = np.cumsum(tensors["emb"][tokens].astype(np.float64), axis=0)
        return (state @ tensors["head"].T) * (cos.sum(1) + sin.sum(1))[:, None]

    assert relative_error(model.logits([prompt])[0], definition(prompt)) < tolerance("cpu_fp32")
    tokens = list(prompt)
    for _ in range(20):
        tokens.append(int(definition(tokens)[-1].argmax()))
    assert model.generate(prompt, 20, ignore_eos=True).token_ids == tokens[20:]


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda m: m.logits([[0, 300]]), "E1602"),
        (lambda m: m.logits([[-1]]), "E1602"),
        (lambda m: m.generate([1, 300]), "E1602"),
        (lambda m: m.logits([[1] * 49]), "E1603"),
        (lambda m: m.generate([1] * 40, 9), "E1603"),
        (lambda m: m.generate([1] * 48), "E1603"),
        (lambda m: m.logits([[1]] * 4), "E1604"),
        (lambda m: m.logits([1, 2]), "E1605"),
        (lambda m: m.logits([[1.0, 2.0]]), "E1605"),
        (lambda m: m.logits(np.zeros((1, 0), np.int64)), "E1605"),
        (lambda m: m.logits([[1, 2]], lengths=[3]), "E1605"),
        (lambda m: m.logits([[1, 2]], lengths=[0]), "E1605"),
        (lambda m: m.logits([[1, 2]], lengths=[1, 1]), "E1605"),
        (lambda m: m.generate([]), "E1605"),
        (lambda m: m.generate(""), "E1605"),
        (lambda m: m.chat("hello"), "E1616"),
        (lambda m: m.chat([{"content": "x"}]), "E1616"),
        (lambda m: m.chat([]), "E1616"),
    ],
)
def test_wrong_input_is_refused_before_anything_runs(model: Model, call: Any, code: str) -> None:
    with pytest.raises(InputError) as error:
        call(model)
    assert error.value.code == code and error.value.fix


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.generate([1], 0),
        lambda m: m.generate([1], temperature=-1),
        lambda m: m.generate([1], top_k=-1),
        lambda m: m.generate([1], top_p=0),
        lambda m: m.generate([1], repetition_penalty=0),
        lambda m: m.generate([1], seed=-1),
        lambda m: m.generate([1], stop=""),
        lambda m: m.logits([[1]], positions="first"),
        lambda m: m.stream(["a", "b"]),
    ],
)
def test_options_that_mean_nothing_are_misuse(model: Model, call: Any) -> None:
    with pytest.raises(MisuseError, match="E1612"):
        call(model)


def test_errors_carry_numbers(model: Model) -> None:
    with pytest.raises(InputError, match=r"token id 300 at position 1 .* vocabulary of 300"):
        model.logits([[0, 300]])
    with pytest.raises(InputError, match=r"prompt \(40\) and max_new_tokens together are 49 tokens.* limit is 48"):
        model.generate([1] * 40, 9)


def test_other_machines_artifacts_are_refused(make_artifact: Any) -> None:
    with pytest.raises(UnsupportedError, match=r"E1610.*tvm_other"):
        load(make_artifact("tvm_other"))
    with pytest.raises(InputError, match=r"E1502.*gears.json"):
        load(make_artifact("tvm_ascend"))
    with pytest.raises(InputError, match=r"E1502.*tvm_vacc and holds no static graphs"):
        load(make_artifact("tvm_vacc"))
    with pytest.raises(UnsupportedError, match=r"E1607.*lacks avx9000.*mcpu=native"):
        load(make_artifact(cpu=Cpu("future", ("avx9000",))))


@pytest.mark.parametrize("target", ["tvm_cpu", "reference"])
def test_changed_code_is_not_executed(make_artifact: Any, target: str) -> None:
    path = make_artifact(target)
    (code,) = (file for file in (path / "code").iterdir() if file.stem == "model")
    content = bytearray(code.read_bytes())
    content[len(content) // 2] ^= 1
    code.write_bytes(content)
    with pytest.raises(InputError, match=r"E1505.*code/model\."):
        load(path)


def test_code_that_is_no_library(tmp_path: Path) -> None:
    code = tmp_path / "model.so"
    code.write_bytes(b"x" * 1000)
    with pytest.raises(ToolchainError, match="E1609"):
        load_functions(code, ["prefill_last"])


def test_no_tokenizer_and_no_template(make_artifact: Any) -> None:
    model = load(make_artifact(with_tokenizer=False), threads=1)
    with pytest.raises(InputError, match="E1613"):
        model.generate("text")
    with pytest.raises(InputError, match="E1613"):
        model.chat([{"role": "user", "content": "x"}])
    model = load(make_artifact(), threads=1)
    model.manifest = replace(model.manifest, generation=replace(model.manifest.generation, chat_template=None))
    with pytest.raises(InputError, match="E1614"):
        model.chat([{"role": "user", "content": "x"}])


def test_token_ids_need_no_tokenizer(make_artifact: Any, toy: Any, vocab_size: int) -> None:
    model = load(make_artifact(with_tokenizer=False), threads=1)
    answer = model.generate(PROMPTS[0], 5, ignore_eos=True)
    assert answer.token_ids == toy.greedy(PROMPTS[0], 5, vocab_size) and answer.text == ""
    with pytest.raises(InputError, match="E1613"):
        model.generate(PROMPTS[0], 5, stop="x")


def test_logits_that_are_not_numbers(toy_path: Path, model: Model) -> None:
    class Broken:
        threads = 1
        pages = None

        def clear(self, slot: int) -> None:
            pass

        def forward(self, step: Step) -> np.ndarray:
            return np.full((1, 1, model.manifest.model.vocab_size), np.nan, np.float32)

    with pytest.raises(InternalError, match=r"E1617.*NaN"):
        Model(toy_path, model.manifest, Broken()).generate([1], 3)


def test_kv_cache_that_memory_cannot_hold(toy_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xamc.runtime import slots

    model = load(toy_path, threads=1)
    monkeypatch.setattr(slots, "available_bytes", lambda: 1000)
    with pytest.raises(InputError, match=r"E1606.*2 x 16 tokens.*MiB"):
        model.logits(np.ones((2, 16), np.int64))


def test_buffers_of_one_prompt_length_are_not_kept_for_the_next(make_artifact: Any) -> None:
    """TVM's pool keeps buffers by exact size; without freeing them, every new prompt length adds to the memory."""
    from xamc.runtime.executors.cpu import CpuExecutor

    model = load(make_artifact(), threads=1)
    executor = model.engine.executor
    assert isinstance(executor, CpuExecutor)
    calls: list[int] = []
    free = executor._free_unused
    executor._free_unused = lambda: (calls.append(1), free())
    model.generate(PROMPTS[1], 5, ignore_eos=True)
    assert len(calls) == 2  # after each chunk of the prompt, never while decoding


def test_a_model_is_used_from_other_threads_than_its_loader(make_artifact: Any, toy: Any, vocab_size: int) -> None:
    """TVM has a pool of threads per calling thread, of half of the CPUs unless it is told otherwise."""
    from xamc.runtime.tvm_library import tvm_ffi

    results: list[Any] = []
    cpus = len(os.sched_getaffinity(0))

    def work() -> None:
        model = load(make_artifact(), threads=cpus)
        results.append((model.threads, model))

    def call() -> None:
        executor = results[0][1].engine.executor
        run, sizes = executor._call_here, set()

        def measured(*arguments: Any) -> Any:
            sizes.add(tvm_ffi().get_global_func("runtime.NumThreads")())
            return run(*arguments)

        executor._call_here = measured
        results.append(results[0][1].generate(PROMPTS[0], 5, ignore_eos=True).token_ids)
        results.append(sizes)

    for target in (work, call):
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()
    assert results[0][0] == cpus
    assert results[1:] == [toy.greedy(PROMPTS[0], 5, vocab_size), {cpus}]


class Counting:
    """Counts the prompt tokens that reach an executor."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor
        self.threads, self.pages = executor.threads, executor.pages
        self.prefilled = 0

    def clear(self, slot: int) -> None:
        self._executor.clear(slot)

    def forward(self, step: Step) -> np.ndarray:
        if step.input_ids.shape[1] > 1 or not self.prefilled:
            self.prefilled += int(step.lengths.sum())
        return self._executor.forward(step)


def test_the_cache_of_the_turn_before_is_kept(toy_path: Path, model: Model, toy: Any, vocab_size: int) -> None:
    executor = Counting(model.engine.executor)
    chat = Model(toy_path, model.manifest, executor)
    history = list(PROMPTS[1])
    for turn in range(3):
        want = toy.greedy(history, 5, vocab_size)
        executor.prefilled = 0
        assert chat.generate(history, 5, ignore_eos=True).token_ids == want
        # Of the answer before, all but its last token is cached.
        assert executor.prefilled == (len(PROMPTS[1]) if turn == 0 else 4)
        history += [*want, 30 + turn, 40, 41]
    edited = [*history[:9], 99, 98]
    executor.prefilled = 0
    assert chat.generate(edited, 5, ignore_eos=True).token_ids == toy.greedy(edited, 5, vocab_size)
    assert executor.prefilled == 2
    assert chat.generate(edited, 5, ignore_eos=True).token_ids == toy.greedy(edited, 5, vocab_size)
    chat.generate(PROMPTS, 3, ignore_eos=True)
    assert chat.generate(edited, 5, ignore_eos=True).token_ids == toy.greedy(edited, 5, vocab_size)
    executor.prefilled = 0
    chat.generate(edited, 1, prefix_cache=False)
    assert executor.prefilled == len(edited)


def test_prompts_of_a_batch_share_their_beginning(make_artifact: Any, toy: Any, vocab_size: int) -> None:
    model = load(make_artifact(), threads=1)
    executor = Counting(model.engine.executor)
    counted = Model(model.path, model.manifest, executor)
    system = list(range(20, 39))  # two blocks of eight and a bit
    prompts = [[*system, 50], [*system, 60, 61, 62], [*system[:17], 70]]
    answers = counted.generate(prompts, 4, ignore_eos=True)
    assert [answer.token_ids for answer in answers] == [toy.greedy(prompt, 4, vocab_size) for prompt in prompts]
    assert executor.prefilled == sum(map(len, prompts)) - 2 * 16
    assert [answer.reused_tokens for answer in answers] == [0, 16, 16]
    executor.prefilled = 0
    again = counted.generate(prompts[::-1], 4, ignore_eos=True)
    assert [answer.token_ids for answer in again] == [toy.greedy(prompt, 4, vocab_size) for prompt in prompts[::-1]]
    assert [answer.reused_tokens for answer in again] == [len(prompt) - 1 for prompt in prompts[::-1]]


def test_what_was_forgotten_is_computed_again(make_artifact: Any, toy: Any, vocab_size: int) -> None:
    """Prompts that together are longer than what the cache keeps, in turns: always right, rarely reused."""
    model = load(make_artifact(), threads=1)
    prompts = [[seed + i for i in range(30)] for seed in (5, 40, 75)]
    reused = []
    for prompt in (*prompts, *prompts, prompts[2]):
        answer = model.generate(prompt, 2, ignore_eos=True)
        assert answer.token_ids == toy.greedy(prompt, 2, vocab_size)
        reused.append(answer.reused_tokens)
    assert reused[:4] == [0, 0, 0, 0] and reused[-1] == 29


def test_rows_of_a_batch_have_their_own_dynamic_base(make_artifact: Any, toy: Any, vocab_size: int) -> None:
    """16 were trained. Rows short and long, some as long as others, with a beginning of two blocks in common."""
    config = toy.config(vocab_size, RopeConfig("dynamic", 100.0, factor=2.0))
    path = make_artifact(model=config)
    system = list(range(20, 37))
    prompts = [[*system[:12], 50], [*system, 60, 61, 62], [*system[:14], 70], [*system, 60, 80, 90]]

    def alone(prompt: list[int]) -> tuple[list[int], np.ndarray]:
        fresh = load(path, threads=1)
        return fresh.generate(prompt, 9, ignore_eos=True).token_ids, fresh.logits([prompt])[0]

    expected = [alone(prompt) for prompt in prompts]
    model = load(path, threads=1)
    for rows in ([0, 1], [2, 3, 0], [1, 3, 2], [3, 1], [0, 2]):
        answers = model.generate([prompts[row] for row in rows], 9, ignore_eos=True)
        assert [answer.token_ids for answer in answers] == [expected[row][0] for row in rows]
        ids, lengths = padded([prompts[row] for row in rows])
        for row, logits, length in zip(rows, model.logits(ids, lengths), lengths):
            assert relative_error(logits[:length], expected[row][1]) < tolerance("cpu_fp32")
    again = model.generate([prompts[0], prompts[2]], 1)
    assert [answer.reused_tokens for answer in again] == [12, 14]


def test_a_dynamic_rope_reuses_only_keys_of_its_own_base(make_artifact: Any, toy: Any, vocab_size: int) -> None:
    """Beyond the trained length of 16 the base follows the prompt's length, so that other lengths share nothing."""
    config = toy.config(vocab_size, RopeConfig("dynamic", 100.0, factor=2.0))
    model = load(make_artifact(model=config), threads=1)
    prompt = list(range(3, 23))
    fresh = {size: load(make_artifact(model=config), threads=1).generate(prompt[:size], 3) for size in (9, 10, 18, 20)}
    reused = []
    for size in (9, 10, 18, 20, 20):
        answer = model.generate(prompt[:size], 3)
        assert answer.token_ids == fresh[size].token_ids
        reused.append(answer.reused_tokens)
    assert reused == [0, 9, 0, 0, 19]


@pytest.mark.parametrize("name", ["tokenizer/tokenizer.json", "tokenizer/chat_template.jinja", "weights.bin"])
@pytest.mark.parametrize("target", ["tvm_cpu", "reference"])
def test_changed_files_are_noticed_at_load(make_artifact: Any, target: str, name: str) -> None:
    path = make_artifact(target)
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"E1505.*{name}"):
        load(path)


def test_the_template_for_tools(make_artifact: Any) -> None:
    from xamc.artifact.manifest import Generation as GenerationDefaults

    path = make_artifact()
    read = read_artifact(path).manifest
    names = {"tool_use": "tokenizer/chat_template.jinja"}
    (path / "manifest.json").write_text(
        dumps(replace(read, generation=GenerationDefaults(0, (1,), "tokenizer/tokenizer.json", names)))
    )
    model = load(path, threads=1)
    messages, tools = [{"role": "user", "content": "fox"}], [{"type": "function", "function": {"name": "f"}}]
    want = model.tokenizer.encode("<bos>user: fox\nassistant:", False).tolist()
    assert model.chat_prompt(messages, tools=tools).tolist() == want
    assert model.chat_prompt(messages, template="tool_use").tolist() == want
    answer = model.generate(np.array(want), 4, ignore_eos=True)
    assert model.chat(messages, 4, tools=tools, ignore_eos=True).token_ids == answer.token_ids
    assert model.chat_prompt(messages).tolist() != want
    (path / "manifest.json").write_text(dumps(replace(read, generation=GenerationDefaults(0, (1,), None, names))))
    with pytest.raises(InputError, match=r"E1614.*tool_use, and none is the default.*template='tool_use'"):
        load(path, threads=1).chat_prompt(messages)
