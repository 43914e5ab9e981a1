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
    "E1305": """After every pass the compiler checks the graph: operators from the closed set, types and shapes that
agree with ONNX's own inference, weights that agree with their tensors, every value computed before it is read, and the
KV contract (2N cache inputs, each overwritten by one TensorScatter whose result is an output). The pass named in the
message broke one of these rules; all violations are listed below it. It is a defect of the pass.""",
    "E1306": """`passes.disable` or `passes.expect` names a pass that the target does not have. Example:
`passes: {disable: [swigul]}`. `xamc plan` lists the passes of a target; besides them, `expect` knows the rules of each
pass and the words attention, rope and norm for the operators of the export.""",
    "E1307": """`passes.expect` holds the number of rewrites that you count on, for example `{attention: 48}`, and the
compiler found another. A rewrite that silently matches nothing makes a slow model, so this is an error. The reasons of
each non-match are listed below the message. Correct the number when the model really has another one.""",
    "E1308": """A weight that was stored in 16 bits or quantized is further from its original than rounding explains
(half a unit in the last place, or half a quantization step). It is a defect of the storage transform, found on the
twin before any real weight was written.""",
    "E1309": """The proof on the twin found a pass after which the model computes something else. The message names the
first such pass, the output that moved and by how much, and the first node of the graph that diverged with the path of
its module in the Hugging Face model, e.g. `model.layers.0.self_attn`. If it names `export`, the exported graph differs
from transformers itself. `passes: {disable: [NAME]}` leaves a pass out where the target can do without; the
advice says when it can't. The division among ranks (`shard`) is never left out: `frontend.model_kwargs.tp: 1` compiles
the model undivided.""",
    "E1310": """With `verify: {final: true}` the real weights are run by transformers in fp32, layer by layer, and the
artifact's logits on the same prompts are compared with them. A float32 artifact must agree within the bound `cpu_fp32`;
this one does not, although every pass was proven on the twin or was not asked to be. Compile with
`verify: {passes: each}` to find the pass.""",
    "E1311": """A prompt that golden logits are recorded for (`verify.prompts`) yields no token with the model's
tokenizer, for instance because it is empty. Give one with at least a word in it.""",
    "E1312": """The compiled model answered the golden prompt with NaN or infinity, although transformers' keys and
values fit the KV cache in fp32 (otherwise this is E1315). Weights that overflow in the chosen storage do that, and so
would a wrong kernel. Try `backend.dtype: fp32`; if that is finite, the checkpoint's values do not fit 16 bits,
otherwise report the model.""",
    "E1313": """A pass stopped with a Python error of its own, which is quoted. The graph has a form that the pass did
not expect; the traceback says where. Disable the pass if the target can do without it, and report the model's
config.""",
    "E1314": """`passes.disable` names a pass whose result the target builds on, for example `kv_cache` for the CPU,
whose attention kernels read a cache that is updated in place. Remove it from the list. Other passes
(norms, swiglu, and the Relax passes) make the model faster and can be left out while looking for a fault.""",
    "E1315": """transformers ran the real weights in fp32 over a few prompts, and a value inside the model is larger
than float16 can hold, 65504, where the target needs it in float16: the message names the first such module of the
Hugging Face model, and others are listed. On `tvm_vacc` and `tvm_ascend` every operator yields float16; ONNX Runtime,
which checks Ascend's graphs, keeps float32 between neighbouring operators and would not notice. Models that were
trained in bfloat16 do this. There is no wider type on those targets: compile the model for `tvm_cpu`, which computes in
float32. On `tvm_cpu` only the KV cache can be too narrow: `backend.dtype: bf16` (whose cache is bf16) or
`runtime.kv_dtype: bf16` or `fp32`. Weights that are too large themselves are E1124.""",
    "E1320": """The pass `phase` gives a graph one phase (prefill or decode), batch 1 and a fixed length. The graph has
been given one already, its attention is in pieces, or a shape in it depends on data, so that it can't be fixed. Run
the pass once, after `cleanup`, on an export with past and present.""",
    "E1321": """The pass `causal_mask` turns causal and boolean attention masks of a static graph into one mask of 0
and -65504 that is added to the scores. It found causal attention with an additive mask already (two masks are never
added: twice -65504 is -inf in float16), or lengths that are not static. Run the pass once, after `phase`.""",
    "E1322": """The pass `rope_table` turns rotary embedding into arithmetic on rows of a table that it makes a weight.
The table has become a weight already or has no static length, or a rotation is not the half-split form over whole
heads (for instance an interleaved or a partial one). Run the pass once, after `phase`; report a model whose rotation
differs.""",
    "E1323": """The pass `eager_attention` writes attention as matrix products and a softmax. It found attention that
is still causal, has a boolean mask, or does something more (a soft cap), or heads that are not of static shape. Run it
after `phase` and `causal_mask`.""",
    "E1324": """The pass `fp16_clamp` limits constants to what float16 can hold, at most 65504. An infinite constant or
a NaN is refused, because clamping would hide that it means something: a mask of -inf, for instance, makes a row of NaN
where all of it is masked. Use a finite number.""",
    "E1325": """A pass that fixes a graph's phase and length leaves it able to serve only some calls. None of those
that the proof on the twin has left fits, so the pass would be "proven" by nothing. Example: the decode length of the
twin is shorter than every past of its scenario. Choose a length that at least one call fits in.""",
    "E1326": """The pass `cache_rows` puts the KV caches of several sequences into tensors of fixed size. It needs an
export with past and present that it has not rewritten yet, sliding windows as the only masks, and for a prefill
`last_position` before it. Otherwise this is a defect of ours; report the model.""",
    "E1327": """The pass `half_precision` found a weight that is not stored as float16, a constant beyond ±65504, or a
cast that widens something else than a weight. `weight_storage` and `fp16_clamp` have to run before it; a spec can't
disable them on Ascend.""",
    "E1328": """A gear of Ascend's graphs, one choice of batch and length, was run on the twin in ONNX Runtime and
answers otherwise than the exported model, or touched a row of the KV cache that is not its own. The message names the
graph and the gear. Leave the gear out of `backend.compile.gears` to get going, and report the model; it is a defect of
ours.""",
    "E1329": """The pass `key_bias_apart` takes the biases of keys out of an int8 KV cache and adds them, rotated, where
attention reads it. It found keys that are no rotated sum of a product and a bias, or whose rotation reads no row of the
RoPE tables. Run it once, behind `rope_table` and `eager_attention`; otherwise report the model.""",
    "E1330": """The pass `vocab_padding` walks from the output `logits` back to lm_head: a bias at most, the matrix
product,
the transpose, a cast of a 16-bit weight, the weight. It found something else. Disable the pass
(`passes: {disable: [vocab_padding]}`) if the target takes any vocabulary, and report the model.""",
    "E1331": """A model can't be divided among the ranks that were asked for: fewer than one rank, or a config whose
query heads are no multiple of its KV heads. Any number of heads, MLP columns and vocabulary rows can be divided; what
does not come out even is padded with zeros. Set `frontend.model_kwargs.tp` to 1, 2, 4, 8 or 16.""",
    "E1332": """The pass `shard` knows each weight by its name and divides it among the ranks, and the size of this one
contradicts the config: `q_proj` has a row per query head and channel, `k_proj` and `v_proj` one per KV head and
channel,
the MLP one per intermediate column. Or the weight is quantized in groups of columns and belongs to a layer whose
columns
are divided (`o_proj`, `down_proj`): a rank's columns would begin inside a group. One scale per row (`w8a16_gptq`)
divides
anywhere.""",
    "E1333": """The pass `shard` follows the divided heads, MLP columns and vocabulary rows through the graph,
operator
by
operator, and met one that mixes them with something else: a normalization over all heads, a constant per head, a bias
that would be added once per rank. The operator and its module are named. Compile for one rank (`tp: 1`), and report the
model.""",
    "E1334": """All ranks of a model have one and the same graph and differ in their weights alone, so that code is
generated
once. Here they differ in more. It is a defect of the pass `shard`; compile for one rank (`tp: 1`) and report the
model.""",
    "E1343": """`frontend.quantize.group_size` asks for several scales per row, for example `group_size: 128` on
`backend.type: tvm_vacc`, whose operator takes one scale per output channel. Remove the key, or write `group_size: -1`,
which means the same. The CPU target has groups of 32, 64 and 128.""",
    "E1344": """`frontend.quantize.type: w16kv8` means 16-bit weights and an int8 KV cache, and `runtime.kv_dtype`
asks for another one. Remove one of them; `runtime.kv_dtype: auto` goes with every quantization.""",
    "E1345": """The calibration of an int8 KV cache reads the text file of `dataset.path`: `.txt` (one text), `.json` (a
list) or `.jsonl` (one value per line) of strings or of objects whose strings are joined. This one is of another kind,
is not UTF-8, or is empty; or `dataset.nsamples` or `dataset.seqlen` is not a number. A path that does not exist, as in
files written for another machine, is a warning, and a short text of xamc's own is used.""",
    "E1346": """The text that an int8 KV cache is calibrated on yields no token with the checkpoint's tokenizer, or a
token that the model has no embedding for. In the second case the tokenizer does not belong to the checkpoint.""",
}
