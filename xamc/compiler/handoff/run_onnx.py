"""Continue a text with the two ONNX files of this folder, greedily: python run_onnx.py --prompt "..."

Needs numpy, onnxruntime and tokenizers, nothing else. It shows how prefill.onnx and decode.onnx are used: a prompt is
padded on the right, its keys and values become the past, and the last token of a prompt that is shorter than the
prefill graph is run again through the decode graph, because the prefill's logits then belong to padding.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer


class TwoGraphs:
    """A prefill graph of S0 tokens and a decode graph of S slots: S - 1 of the past, the last for the new token."""

    def __init__(self, folder: Path) -> None:
        self.facts = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        self.prefill, self.decode = (self._session(folder / self.facts[kind]) for kind in ("prefill", "decode"))
        inputs = {value.name: value.shape for value in self.decode.get_inputs()}
        self.tokens, self.slots = self.prefill.get_inputs()[0].shape[1], inputs["attention_mask"][1]
        self.past = {n: np.zeros(shape, np.float32) for n, shape in inputs.items() if n.startswith("past_")}

    @staticmethod
    def _session(path: Path) -> Any:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def _run(self, session: Any, feeds: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        names = [value.name for value in session.get_outputs()]
        results = dict(zip(names, session.run(names, feeds)))
        return int(results["logits"][0, -1, : self.facts["vocab_size"]].argmax()), results

    def _step(self, token: int, position: int) -> int:
        """Run one token; its keys and values take the slot of its position, for the steps after it."""
        mask = (np.arange(self.slots) < position).astype(np.int64)[None]
        mask[0, -1] = 1
        ids, positions = np.array([[token]], np.int64), np.array([[position]], np.int64)
        token, results = self._run(
            self.decode, {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **self.past}
        )
        for name, past in self.past.items():
            past[:, :, position : position + 1] = results["present_" + name[5:]][:, :, -1:]
        return token

    def generate(self, prompt: Sequence[int], limit: int) -> Iterator[int]:
        """Yield at most `limit` tokens that follow `prompt`, up to the last slot or an end token."""
        count = len(prompt)
        if not 1 <= count <= self.tokens:
            raise SystemExit(f"the prompt has {count} tokens, the prefill graph takes 1 to {self.tokens}")
        padded = np.zeros((1, self.tokens), np.int64)
        padded[0, :count] = prompt
        token, results = self._run(self.prefill, {"input_ids": padded})
        kept = min(count, self.slots - 1)
        for name, past in self.past.items():
            past[:, :, :kept] = results["present_" + name[5:]][:, :, :kept]
        if count < self.tokens:
            token = self._step(prompt[-1], count - 1)
        for position in range(count, count + limit):
            yield token
            if position >= self.slots or position == count + limit - 1 or token in self.facts["eos_token_ids"]:
                return
            token = self._step(token, position)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Continue a text with prefill and decode graphs under ONNX Runtime.")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--json", action="store_true", help="print token ids and text as JSON")
    options = parser.parse_args()
    folder = Path(__file__).resolve().parent
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    prompt = tokenizer.encode(options.prompt).ids
    tokens = list(TwoGraphs(folder).generate(prompt, options.max_new_tokens))
    text = tokenizer.decode(tokens)
    sys.stdout.write((json.dumps({"tokens": tokens, "text": text}) if options.json else text) + "\n")


if __name__ == "__main__":
    main()
