"""What this target takes for granted about VACC without a public document that says so, in one place.

There is no public SDK, manual or sample artifact. Each entry says what is assumed, where it is built in, what would
have to change if it is wrong, and on what ground: `vendor's files` where public build files, patches or tools of
the vendor show it but nothing specifies it; `inferred` where it follows by analogy; `third party` for texts of
others.
`docs/vacc.md` and the hand-off's README list them; mod.json names the list's entries that it relies on.
"""

from __future__ import annotations

from xamc.targets.assumption import Assumption

ASSUMPTIONS: tuple[Assumption, ...] = (
    Assumption(
        "decode-folders",
        "The graphs of the decode phase lie in decode_<length>_rank<r>, as those of the prefill phase are known to lie "
        "in prefill_<length>_rank<r>.",
        "inferred",
        ("xamc/artifact/manifest.py",),
        "The folders' names; nothing inside them.",
    ),
    Assumption(
        "mod-json",
        "The vendor's mod.json is not public. Ours is an own format that says so, and is never taken for the vendor's.",
        "inferred",
        ("xamc/targets/vacc/mod_json.py",),
        "Nothing here: the vendor's toolchain makes its own from the hand-off.",
    ),
    Assumption(
        "params-container",
        "mod.params is TVM's parameter container with tensors under the checkpoint's parameter names, matrices as "
        "[output, input] in C order, and tensors of float16, int8 or float32.",
        "inferred",
        ("xamc/targets/vacc/params_file.py",),
        "Names and layouts in the writer.",
    ),
    Assumption(
        "fp16-between-operators",
        "Every operator reads float16, accumulates in float32 and rounds its result to float16 once; softmax and the "
        "norms are float32 inside. Casts between float types are no operators.",
        "inferred",
        ("xamc/targets/vacc/lower.py", "xamc/targets/vacc/operators.py"),
        "The simulator's rounding; the distance from the card's numbers grows.",
    ),
    Assumption(
        "length-multiple-16",
        "Lengths are multiples of 16.",
        "vendor's files",
        ("xamc/compiler/spec/rules.py",),
        "One check of the spec.",
    ),
    Assumption(
        "iter0",
        "A prefill graph takes only input_ids [1, S], at positions 0 to S - 1, without mask or past, and returns the "
        "logits of the last position and all keys and values.",
        "vendor's files",
        ("xamc/passes/graph/phase.py", "xamc/passes/graph/insert_slice.py"),
        "The prefill signature and the executor's prefill call.",
    ),
    Assumption(
        "iter1-last-slot",
        "A decode graph takes one token with attention_mask [1, S] and position_ids [1, 1] on top of a past of S - 1 "
        "slots; the new token's key and value stand in slot S - 1 of the cache that it returns whole.",
        "vendor's files",
        ("xamc/passes/graph/phase.py", "xamc/runtime/executors/vacc/graphs.py"),
        "The decode signature and where the host reads the new slot.",
    ),
    Assumption(
        "host-moves-new-slot",
        "Between two steps the host puts the new token's key and value into the slot of the past that is the token's "
        "position; slots beyond are masked.",
        "inferred",
        ("xamc/runtime/executors/vacc/cache.py",),
        "How the host fills the past: if the card shifts the cache instead, past tokens stand at its end and the mask "
        "begins with zeros.",
    ),
    Assumption(
        "short-prompts",
        "A prompt shorter than the prefill length is padded to the right; its logits are ignored, and its last token "
        "is run once more through decode.",
        "inferred",
        ("xamc/runtime/executors/vacc/session.py",),
        "The session's prefill: with padding to the left the prefill's own logits would count, but positions and a "
        "mask would have to be inputs.",
    ),
    Assumption(
        "additive-masks",
        "Masks are tensors of 0 and -65504 (the lowest float16) added to the scores, built from the mask input by the "
        "graph itself; two are never added up.",
        "vendor's files",
        ("xamc/passes/graph/causal_mask.py", "xamc/passes/graph/fp16_clamp.py"),
        "The mask's values; -inf would need a softmax that survives it.",
    ),
    Assumption(
        "rope-tables",
        "RoPE is llama's half-split form with tables of cos and sin [S, head_dim] (both halves alike) gathered by "
        "position; cached keys are rotated.",
        "vendor's files",
        ("xamc/passes/graph/rope_table.py",),
        "The tables' layout.",
    ),
    Assumption(
        "vocabulary-multiple-16",
        "The vocabulary is padded with zero rows to a multiple of 16, and the host leaves their logits out.",
        "vendor's files",
        ("xamc/passes/graph/vocab_padding.py",),
        "The multiple.",
    ),
    Assumption(
        "heads-contiguous",
        "Ranks take query heads in order. KV heads are replicated when the ranks are a multiple of their number; "
        "otherwise whole KV groups of zeros are padded.",
        "vendor's files",
        ("xamc/passes/graph/shard/plan.py",),
        "The plan of the ranks' shares; whole-model results stay the same.",
    ),
    Assumption(
        "rank-shares",
        "The embedding lies on every rank whole, and a rank's MLP width is a multiple of 16, padded with zeros.",
        "inferred",
        ("xamc/passes/graph/shard/plan.py", "xamc/passes/graph/shard/split.py"),
        "Bytes per rank; whole-model results stay the same.",
    ),
    Assumption(
        "collectives",
        "Partial sums of o_proj and down_proj are all-reduced, lm_head is split by vocabulary and gathered. The sum "
        "runs over ranks in order in float32 and is rounded to float16 once.",
        "inferred",
        ("xamc/runtime/executors/vacc/collectives.py", "xamc/passes/graph/shard/split.py"),
        "The order and precision of sums: last digits.",
    ),
    Assumption(
        "one-rank-per-die",
        "Each rank runs on a die of its own, and the number of dies equals tp.",
        "inferred",
        ("xamc/runtime/executors/vacc/graphs.py",),
        "Nothing in the artifact.",
    ),
    Assumption(
        "quantized-linear",
        "Int8 linear layers are Vastai::QuantizedLinearPerChannel(x float16, codes int8 [O, I], scales float16 [O]): "
        "symmetric, one scale per output channel, activations in float16, sums in float32.",
        "vendor's files",
        ("xamc/passes/graph/quantize_per_channel.py",),
        "The operator's operands and the scales' type.",
    ),
    Assumption(
        "kv8",
        "With an int8 KV cache, keys and values are quantized where they leave the graph and dequantized where they "
        "enter it: per KV head and channel, asymmetric, with constant scales and zero points.",
        "vendor's files",
        ("xamc/passes/graph/kv_int8.py",),
        "The formula, and where the scales come from.",
    ),
    Assumption(
        "merged-params",
        "merge_params: true means that the graphs of both phases read one parameter file per rank.",
        "inferred",
        ("xamc/runtime/executors/vacc/graphs.py",),
        "Which files lie in a decode folder.",
    ),
    Assumption(
        "handoff-paths",
        "vamc resolves frontend.checkpoint and workspace.path against the current folder.",
        "inferred",
        ("xamc/compiler/handoff/vamc_file.py",),
        "The paths in the build files of a hand-off.",
    ),
    Assumption(
        "handoff-llama",
        "model_arch: vacc without a config_vacc.json means config.json and the stock Llama class, as in the vendor's "
        "own build files for Llama.",
        "vendor's files",
        ("xamc/compiler/handoff/vamc_file.py", "xamc/compiler/handoff/llama_checkpoint.py"),
        "One key of the build file.",
    ),
    Assumption(
        "handoff-quantize",
        "With frontend.quantize vamc calibrates and quantizes 16-bit weights itself.",
        "vendor's files",
        ("xamc/compiler/handoff/vamc_file.py",),
        "Which checkpoint a quantized build starts from.",
    ),
    Assumption(
        "handoff-onnx-dtype",
        "frontend.dtype: fp32 is right for an ONNX model whose token ids are int64, as in the vendor's build file for "
        "CLIP's text model.",
        "inferred",
        ("xamc/compiler/handoff/vamc_file.py",),
        "One key of the build files for ONNX.",
    ),
    Assumption(
        "handoff-external-data",
        "vamc loads an ONNX file together with the weights that lie in a file beside it, as onnx.load does.",
        "inferred",
        ("xamc/ir/onnx_weights.py",),
        "A model below 2 GB would have to hold its weights itself; a larger one could not take this route.",
    ),
    Assumption(
        "handoff-half-precision",
        "vamc converts a float32 ONNX graph to fp16 where backend.dtype is fp16.",
        "vendor's files",
        ("xamc/compiler/handoff/vamc_file.py",),
        "The graph's own types.",
    ),
)


def assumption(identifier: str) -> Assumption:
    """The entry called `identifier`.

    Raises:
        KeyError: there is none.
    """
    return {entry.id: entry for entry in ASSUMPTIONS}[identifier]
