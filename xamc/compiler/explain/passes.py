"""What the error codes of passes and of their proof mean; `xamc explain CODE` prints the entries."""

CODES: dict[str, str] = {
    "E1301": """The pass `last_position` looks for the matrix product of a hidden state and lm_head behind the output
`logits`, and found another operator. An export with an unusual head does that, for instance one that scales its
logits. Disable the pass (`passes: {disable: [last_position]}`): logits are then computed at every position.""",
    "E1302": """The pass `kv_cache` rewrites the Attention node that reads `past_key.i` and yields `present_key.i`; the
graph has none or several for a layer. A pass before it has changed attention, or the export left it in pieces.
Targets that keep past/present leave the pass out of their list.""",
    "E1303": """ONNX Runtime, the judge of every pass, does not accept the graph: a type, a shape or an operator is
wrong. The message of ONNX Runtime is below the error. It is a defect of the pass that ran last; `--dump-ir DIR` writes
the graph after every pass.""",
    "E1304": """A proof could not run the graph: a graph input got no value (a pass added an input and its `adapt` does
not feed it), or ONNX Runtime stopped inside an operator. The operator is named in its message below the error.""",
}
