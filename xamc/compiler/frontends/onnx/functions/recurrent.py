"""`LSTM`, `GRU` and `RNN` written out, step by step, for a number of steps that is known: one product for all inputs
of a direction, then per step one of the state, gates in elements.

Shapes: x [T, N, I], weights [D, G H, I] and [D, G H, H], biases [D, 2 G H], states [D, N, H]; T steps, N sequences, D
directions, G gates. With lengths per sequence, clipping, or other activations than the defaults the operator stays, and
is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir

from xamc.compiler.frontends.onnx.functions.bodies import body, function

# compiling takes time for every step, and more than twice as much for twice as many
_MOST_STEPS = 64
_LENGTHS = 4
"""Index of the input with the lengths of the sequences."""


class _Lines:
    """The text of a body, with a name for every value."""

    def __init__(self, late: bool) -> None:
        self.lines: list[str] = []
        self._late = late  # axes are an input of Unsqueeze
        self._named: dict[str, str] = {}

    def add(self, operator: str, *inputs: str) -> str:
        name = f"v{len(self.lines)}"
        self.lines.append(f"{name} = {operator}({', '.join(inputs)})")
        return name

    def integers(self, *values: int) -> str:
        text = f"Constant<value_ints = {list(values)}>"
        if text not in self._named:
            self._named[text] = self.add(text)
        return self._named[text]

    def at(self, value: str, index: int) -> str:
        """value[index]."""
        text = f"Constant<value_int = {index}>"
        if text not in self._named:
            self._named[text] = self.add(text)
        return self.add("Gather<axis = 0>", value, self._named[text])

    def part(self, value: str, index: int, size: int, axis: int) -> str:
        """The part number `index` of `size` elements along an axis."""
        ends = self.integers(index * size), self.integers((index + 1) * size), self.integers(axis)
        return self.add("Slice", value, *ends)

    def unsqueeze(self, value: str, *axes: int) -> str:
        if self._late:
            return self.add("Unsqueeze", value, self.integers(*axes))
        return self.add(f"Unsqueeze<axes = {list(axes)}>", value)

    def sum(self, *values: str) -> str:
        total = values[0]
        for value in values[1:]:
            total = self.add("Add", total, value)
        return total


Step = Callable[[_Lines, str, "_Direction", list[str]], list[str]]


class _Direction:
    """What one direction's steps share: the state's matrix transposed, its biases and peepholes, or none."""

    def __init__(self, node: ir.Node, lines: _Lines, index: int, gates: int, hidden: int) -> None:
        self.node, self.hidden = node, hidden
        self.state = lines.add("Transpose<perm = [1, 0]>", lines.at("r", index))
        self.input_bias = self.state_bias = ""
        if _given(node, 3):
            both = lines.at("b", index)
            self.input_bias, self.state_bias = (lines.part(both, half, gates * hidden, 0) for half in (0, 1))
        self.peepholes = []
        if _given(node, 7):
            row = lines.at("p", index)
            self.peepholes = [lines.part(row, gate, hidden, 0) for gate in range(3)]


def _given(node: ir.Node, index: int) -> bool:
    return len(node.inputs) > index and node.inputs[index] is not None


def _written(node: ir.Node, gates: int, names: list[str], states: int, step: Step) -> Any:
    x, weight = node.inputs[0], node.inputs[2]
    if x is None or weight is None or x.shape is None or weight.shape is None or node.graph is None:
        return None
    batch_first = node.attributes.get_int("layout", 0)
    steps, hidden, directions = x.shape[1 if batch_first else 0], weight.shape[2], weight.shape[0]
    if not all(isinstance(dim, int) for dim in (steps, hidden, directions)) or not 0 < int(steps) <= _MOST_STEPS:
        return None
    refused = ("activations", "activation_alpha", "activation_beta", "clip")
    if _given(node, _LENGTHS) or any(name in node.attributes for name in refused):
        return None
    if node.attributes.get_int("input_forget", 0):
        return None
    lines = _Lines(node.graph.opset_imports.get("", 1) >= 13)
    swap = "Transpose<perm = [1, 0, 2]>"
    data = lines.add(swap, "x") if batch_first else "x"
    first = [lines.add(swap, name) if batch_first and _given(node, 5 + i) else name for i, name in enumerate("hc")]
    rows: list[str] = []
    last: list[list[str]] = [[] for _ in range(states)]
    for index in range(int(directions)):
        shared = _Direction(node, lines, index, gates, int(hidden))
        table = lines.add("Transpose<perm = [1, 0]>", lines.at("w", index))
        inputs = lines.add("MatMul", data, table)
        if shared.input_bias:
            inputs = lines.add("Add", inputs, shared.input_bias)
        zeros = lines.add(f"Constant<value_floats = {[0.0] * int(hidden)}>")
        current = [
            lines.at(first[i], index) if _given(node, 5 + i) else lines.unsqueeze(zeros, 0) for i in range(states)
        ]
        backwards = index == 1 or node.attributes.get_string("direction", "forward") == "reverse"
        made = {}
        for time in reversed(range(int(steps))) if backwards else range(int(steps)):
            current = step(lines, lines.at(inputs, time), shared, current)
            made[time] = lines.unsqueeze(current[0], 0, 1)
        rows.append(lines.add("Concat<axis = 0>", *(made[time] for time in range(int(steps)))))
        for values, value in zip(last, current, strict=True):
            values.append(lines.unsqueeze(value, 0))
    whole = lines.add("Concat<axis = 1>", *rows)
    ends = [lines.add("Concat<axis = 0>", *values) for values in last]
    if batch_first:
        whole, ends = lines.add("Transpose<perm = [2, 0, 1, 3]>", whole), [lines.add(swap, end) for end in ends]
    outputs = ["y", "y_h", "y_c"][: len(node.outputs)]
    lines.lines += [f"{name} = Identity({value})" for name, value in zip(outputs, [whole, *ends], strict=False)]
    head = f"{node.op_type}({', '.join(names[: len(node.inputs)])}) => ({', '.join(outputs)})"
    return function(head + " {\n" + "\n".join(lines.lines) + "\n}")


@body("LSTM")
def _lstm(node: ir.Node) -> Any:
    """Gates i, o, f, c; C = f C + i tanh(c), H = o tanh(C); with peepholes from C into the gates."""

    def step(lines: _Lines, x: str, shared: _Direction, current: list[str]) -> list[str]:
        h, c = current
        biases = [shared.state_bias] if shared.state_bias else []
        total = lines.sum(x, lines.add("MatMul", h, shared.state), *biases)
        i, o, f, g = (lines.part(total, gate, shared.hidden, 1) for gate in range(4))
        if shared.peepholes:
            i = lines.add("Add", i, lines.add("Mul", shared.peepholes[0], c))
            f = lines.add("Add", f, lines.add("Mul", shared.peepholes[2], c))
        kept = lines.add("Mul", lines.add("Sigmoid", f), c)
        new = lines.add("Mul", lines.add("Sigmoid", i), lines.add("Tanh", g))
        c = lines.add("Add", kept, new)
        if shared.peepholes:
            o = lines.add("Add", o, lines.add("Mul", shared.peepholes[1], c))
        return [lines.add("Mul", lines.add("Sigmoid", o), lines.add("Tanh", c)), c]

    return _written(node, 4, ["x", "w", "r", "b", "lengths", "h", "c", "p"], 2, step)


@body("GRU")
def _gru(node: ir.Node) -> Any:
    """Gates z, r, h; H = (1 - z) tanh(h) + z H, the state in h reset by r before or after its product."""
    after = node.attributes.get_int("linear_before_reset", 0)

    def step(lines: _Lines, x: str, shared: _Direction, current: list[str]) -> list[str]:
        (h,) = current
        size = shared.hidden
        biases = [lines.part(shared.state_bias, gate, size, 0) for gate in range(3)] if shared.state_bias else []
        gates = []
        for gate in range(2):
            product = lines.add("MatMul", h, lines.part(shared.state, gate, size, 1))
            gates.append(lines.add("Sigmoid", lines.sum(lines.part(x, gate, size, 1), product, *biases[gate:][:1])))
        z, r = gates
        matrix = lines.part(shared.state, 2, size, 1)
        if after:
            reset = lines.add("Mul", r, lines.sum(lines.add("MatMul", h, matrix), *biases[2:]))
            new = lines.sum(lines.part(x, 2, size, 1), reset)
        else:
            product = lines.add("MatMul", lines.add("Mul", r, h), matrix)
            new = lines.sum(lines.part(x, 2, size, 1), product, *biases[2:])
        new = lines.add("Tanh", new)
        # (1 - z) new + z h
        return [lines.add("Add", new, lines.add("Mul", z, lines.add("Sub", h, new)))]

    return _written(node, 3, ["x", "w", "r", "b", "lengths", "h"], 1, step)


@body("RNN")
def _rnn(node: ir.Node) -> Any:
    """H = tanh(W x + R H + biases)."""

    def step(lines: _Lines, x: str, shared: _Direction, current: list[str]) -> list[str]:
        biases = [shared.state_bias] if shared.state_bias else []
        total = lines.sum(x, lines.add("MatMul", current[0], shared.state), *biases)
        return [lines.add("Tanh", total)]

    return _written(node, 1, ["x", "w", "r", "b", "lengths", "h"], 1, step)
