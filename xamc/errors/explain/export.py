"""What the export's error codes mean; `xamc explain CODE` prints the entries."""

CODES: dict[str, str] = {
    "E1201": """The export replaces three things in transformers' modeling file of a model: attention, the rotary
embedding and RMSNorm. The installed release of transformers has no `apply_rotary_pos_emb` or no class `*RMSNorm` in
that file, so nothing could be replaced. Install the pinned release (`xamc doctor` shows the difference).""",
    "E1202": """A model of N layers must export as N Attention, 2N RotaryEmbedding and 2N+1 RMSNormalization operators
(and 2N more norms with q/k norm). Another count means that a part was left in pieces, which would be slow, or that
the model is not what its config says. It happens after an upgrade of transformers; install the pinned release.""",
    "E1203": """The graph that follows from config.json has a parameter that the checkpoint's tensors lack, or hold in
another shape. Config and weights are from different models or revisions: use the config.json that came with the
weights.""",
    "E1204": """Of layers that are alike the compiler exports two or three and copies the others from them, weights and
numbered names included. torch or transformers now orders or numbers the nodes of a layer in a way that it does not
know, so that a copy might be wrong. Install the pinned releases (`xamc doctor` shows the difference).""",
}
