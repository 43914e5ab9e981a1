"""Every numeric tolerance of xamc, with the reason for its value. Code and tests import from here only.

A tolerance bounds the relative deviation `max|a - b| / max(max|b|, tiny)` over one tensor unless its reason says
otherwise (see `xamc.verify.metrics.relative_error`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerance:
    """A bound and why it is what it is."""

    name: str
    value: float
    reason: str


_ALL = (
    Tolerance("exact", 0.0, "the pass moves or renames values and computes nothing: bit-identical"),
    Tolerance(
        "reassociated",
        5e-6,
        "the same fp32 sums in another order or with other blocking: sqrt(K) * 2^-24 for the twin's widths, through "
        "two to eight layers; measured up to 1.3e-6, while a scale that is wrong by 1e-4 shows as 1e-4",
    ),
    Tolerance(
        "export_fp32",
        1e-5,
        "transformers eager against ONNX Runtime, both fp32: other matmul blocking, softmax and rsqrt, amplified "
        "by the twin's peaked attention through all its layers; measured up to 1.3e-6",
    ),
    Tolerance(
        "stored_weights",
        2e-6,
        "16-bit or quantized weights against the same graph fed with what the stored weights decode to: both run "
        "in fp32, only the decode's own fp32 roundings differ",
    ),
    Tolerance(
        "quantization_step",
        0.5005,
        "absolute, in quantization steps: a rounded weight lies at most half a step from the original; the rest is "
        "the rounding of the stored fp16 scale. 4-bit codes are rounded with the stored zero point, so "
        "its rounding (at most 2^-8 in [0, 15], or to a whole number) moves the grid and widens no step",
    ),
    Tolerance(
        "w8_per_channel_twin",
        0.05,
        "logits of a twin with int8 weights, one scale per output channel, against those with fp32 weights: a weight "
        "is off by up to 1/254 of its row's largest, and peaked attention amplifies that; measured 0.013 and 0.026",
    ),
    Tolerance(
        "kv8_twin",
        0.03,
        "logits of a twin with an int8 KV cache against those with an fp32 one: keys and values are off by up to 1/508 "
        "of their channel's range, which the scores of peaked attention carry into the exponential; measured 0.007 and "
        "0.013, and no more after three steps that hand codes on, as codes go through a step unchanged",
    ),
    Tolerance(
        "tiles",
        2e-5,
        "one kernel with other tiles than the default's: the same products in another order of float32 sums over K up "
        "to 20,000, relative to the largest output; with integer activations only sums of groups are reordered",
    ),
    Tolerance(
        "code_ties",
        0.01,
        "share of a tensor's int8 codes that may be one off: values that agree to 5e-6 of the largest differ by less "
        "than 1e-3 codes, so that one value in 500 may lie so near the middle between two codes; the smallest tensors "
        "of a proof have some hundred values, of which it is one or two. Rounding down instead changes half of them",
    ),
    Tolerance(
        "grid_step",
        0.004,
        "absolute, in quantization steps: weights on 16 evenly spaced levels are off by the rounding of the fp16 zero "
        "point in [0, 15] alone, at most 2^-8 = 0.0039",
    ),
    Tolerance(
        "family_mapping",
        5e-6,
        "the same weights in two fp32 implementations of a two-layer model: only the order of sums differs; a "
        "wrong mapping is off by 1e-1",
    ),
    Tolerance("cpu_fp32", 1e-4, "fp32 logits of the CPU target against the reference, the project's stated bound"),
    Tolerance(
        "rounding_noise",
        2.0,
        "a factor: how far an output may move because values are rounded (a 16-bit or int8 KV cache, bfloat16 or int8 "
        "operands of linear layers), in units of how far noise of the same size moves it on the same twin, in NumPy "
        "(`targets/cpu/rounding_noise.py`); the twin's own peaked attention is in it. Rounding and noise are two "
        "draws of one size, whose maxima over the outputs differ: measured 0.1 to 1.5 on 96 twins of four shapes, some "
        "with attention two and four times as peaked. 8 instead of 11 bits are eight times as much, a wrong scale, "
        "block or row a hundred times",
    ),
    Tolerance(
        "kv_int8",
        0.03,
        "keys and values off by up to 1/254 of the largest element of their head and token, which the scores of peaked "
        "attention carry into the exponential; measured 0.009 and 0.014 on twins; a test sees another head's scales "
        "go beyond",
    ),
    Tolerance(
        "cache_kl",
        5e-3,
        "mean KL in nats of the next token with the KV cache's type against an exact cache, on the real weights: what "
        "defaults may cost; int8 measured 8.7e-4 on SmolLM2-135M and 2e-4 to 7e-4 on tiny models with key biases of up "
        "to 300. Beyond it a compile warns, and does not fail: the type was asked for",
    ),
    Tolerance(
        "golden",
        5e-3,
        "the same artifact on another CPU level: sums in another order, and keys or values that therefore round the "
        "other way in a 16-bit KV cache",
    ),
    Tolerance(
        "golden_other_level",
        0.2,
        "golden, but the library of another CPU level of one artifact, with integer activations: levels without a byte "
        "dot product multiply 8-bit weights with 16-bit activations, and a sum in another order rounds an activation "
        "the other way; SmolLM2-135M with 4-bit weights: 0.08 between x86-64-v3 and aarch64+dotprod",
    ),
    Tolerance(
        "kernel_sums",
        1e-6,
        "a dot product in fp32, relative to the sum of its absolute products: blocked sums stay below K/32 * 2^-24, "
        "8-bit weights are summed with an offset of 128, which costs up to four times that",
    ),
    Tolerance(
        "kernel_elementwise",
        1e-6,
        "relative to the largest element: a handful of fp32 roundings and an exponential or a reciprocal root",
    ),
    Tolerance(
        "kernel_attention",
        3e-6,
        "relative to the largest element: scores of up to 20 carry 2^-24 * 20 into the exponential, as in any fp32 "
        "implementation",
    ),
    Tolerance(
        "graph_fp32",
        1e-4,
        "a static graph compiled, or simplified, against ONNX Runtime, all in fp32: other orders of sums through a "
        "deep network; measured up to 5e-7 on small ResNet, ViT and BERT graphs, while a wrong operator shows as 1e-2",
    ),
    Tolerance(
        "graph_float16_outputs",
        1.1e-3,
        "graph_fp32, and outputs that both sides round to float16 at the end: a value near the middle between two of "
        "its numbers may round the other way, by at most 2^-10 = 9.8e-4 of the largest",
    ),
    Tolerance(
        "graph_from_float16",
        0.02,
        "a float16 model widened to float32 against ONNX Runtime, which rounds every operator's result to float16 "
        "(2^-11 = 4.9e-4 relative each), where it does not take casts away: hundreds in a row make sqrt(n) times that; "
        "measured up to 2.7e-3 on small ResNet, ViT and BERT graphs, while a wrong operator shows as 1e-1",
    ),
    Tolerance(
        "graph_from_bfloat16",
        0.16,
        "as graph_from_float16 with 8 bits (2^-8 = 3.9e-3 relative each): eight times as much; measured up to 0.028",
    ),
    Tolerance(
        "node_bfloat16",
        8e-3,
        "a node test of ONNX whose expected output was rounded to bfloat16 after every operator, ours at the end: two "
        "roundings of 2^-8 = 3.9e-3 of the largest element; measured up to 4.9e-3",
    ),
    Tolerance(
        "graph_integers",
        0.01,
        "share of differing elements of an integer output: an ArgMax between two equal scores may fall either way",
    ),
    Tolerance("kernel_exp", 2e-7, "relative error of the exponential over [-87, 88]: 1.6 units in the last place"),
    Tolerance(
        "float16_ulps",
        0.55,
        "absolute, in units in the last place of a float16: a float32 result rounded once is off by half a unit; the "
        "rest is the float32 sum's own error, 2^-13 of a unit per addition at most",
    ),
    Tolerance(
        "float16_operators",
        8e-3,
        "twins whose operators round to float16 (2^-11 = 4.9e-4 relative each) against fp32, both on the same weights: "
        "two layers of peaked attention amplify it; measured up to 2.7e-3, while one operator that summed in float16, "
        "or a wrong mask, shows as 1e-1",
    ),
    Tolerance(
        "float16_rounding",
        2e-3,
        "the same float32 islands spelled otherwise in a graph whose other operators round to float16: a value near "
        "the middle of two float16 numbers may round the other way, 2^-10 relative; measured up to 1.1e-4",
    ),
    Tolerance(
        "ascend_fp16",
        4e-3,
        "logits of an Ascend artifact in ONNX Runtime against fp32: weights and operators' results rounded to float16, "
        "through tiny random models; one wrong token in the context shows as 2e-1",
    ),
    Tolerance(
        "gears_float16",
        0.02,
        "a gear of a float16 graph on the twin against fp32 with the same float16 weights: every operator rounds, over "
        "random caches of up to thousands of slots; a slot too many or too few, or a wrong row, shows as 1e-1",
    ),
    Tolerance(
        "vacc_fp16",
        4e-3,
        "logits of a simulated VACC artifact against fp32: weights and every operator's result rounded to float16, "
        "through tiny random models; measured up to 1.8e-3, while one wrong token in the context shows as 2e-1",
    ),
    Tolerance(
        "vacc_ranks",
        3e-3,
        "the same with tp ranks against one: partial sums are rounded to float16 before the all-reduce adds them; "
        "measured 1.0e-3 with 2, 4 and 8 ranks, one unit in the last place of the largest logits",
    ),
    Tolerance("vacc_w8a16", 0.03, "vacc_fp16, and int8 weights as in w8_per_channel_twin; measured 0.011"),
    Tolerance("vacc_kv8", 0.01, "vacc_fp16, and an int8 cache as in kv8_twin; measured 2.4e-3 over 32 positions"),
    Tolerance(
        "rope_frequency_ulps",
        4.0,
        "units in the last place: torch's vectorized fp32 power is one unit off in places; llama3 and dynamic scaling "
        "do further steps with that value",
    ),
    Tolerance(
        "rope_cos_sin",
        2e-7,
        "absolute: two roundings of cos or sin of one fp32 angle; beside it an angle may differ by the units of its "
        "frequency times the position",
    ),
    Tolerance(
        "recorded_answers",
        0.05,
        "nats: what log-probabilities of a team's recorded answers may move by when nothing but the machine, its "
        "kernels or the number of threads changed; two runs of one artifact on one CPU differ by less than 1e-5 "
        "(recorded decimals), 8-bit activations on CPUs with and without VNNI round differently by about 1e-2",
    ),
    Tolerance(
        "sampling_scores",
        1e-6,
        "relative: the same three fp32 operations per logit as transformers, in the same order",
    ),
)

TOLERANCES: dict[str, Tolerance] = {tolerance.name: tolerance for tolerance in _ALL}


def tolerance(name: str) -> float:
    """The bound called `name`.

    Raises:
        KeyError: the name is not listed above.
    """
    return TOLERANCES[name].value
