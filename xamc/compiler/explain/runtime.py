"""What the runtime's error codes mean; `xamc explain CODE` prints the entries."""

CODES: dict[str, str] = {
    "E1601": """The model asks for a kind of rotary embedding (RoPE) that xamc does not build tables for, for example
`rope_parameters: {rope_type: yarn}`. Supported are default, linear, dynamic (NTK) and llama3. There is no way round it
in the spec: another scaling would give other logits than the model was trained with.""",
}
