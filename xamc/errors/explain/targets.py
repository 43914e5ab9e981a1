"""What the error codes of the lowering and of targets mean; `xamc explain CODE` prints the entries."""

CODES: dict[str, str] = {
    "E1401": """The graph holds operators that have no lowering to Relax. All of them are listed, with the module of
the model they come from, before any work has started. Compile for `backend.type: reference`, which runs any ONNX
operator, or add a handler in xamc/passes/lowering/operators.py.""",
    "E1402": """An operator that has a lowering is used in a way the lowering does not cover: attention that is not
causal, an interleaved rotary embedding, a shape that is only known at run time. The message names the operator, its
module and what is not covered. The reference target runs it.""",
    "E1403": """After the Relax passes an operator is left for which the CPU target has no kernel of its own, because a
pass that would have merged it was disabled (`passes: {disable: [rope_cache]}`) or did not match. Remove the pass from
`passes.disable`; report.json lists for every pass what did not match and why.""",
    "E1404": """A worker process that reads, quantizes and packs weights was killed, nearly always because memory ran
out. Nothing has been published. Set `workspace.workers: 1` (or `--workers 1`), or free memory; each worker takes about
200 MB.""",
    "E1405": """Code generation works with names and shapes of weights only. A Relax pass tried to read a weight's
values, or combined weights in a way that can't be written down as a recipe. This is a defect of that pass.""",
    "E1406": """On the twin, a small model with the structure of yours, a Relax pass or the compiled kernels gave
outputs that differ from those before it by more than the stated tolerance. The message names the pass, the output and
the call. `rounding_noise` is a bound of the twin's own: what noise as large as the rounding does to it, twice.
`--dump-ir DIR` writes the program before and after. Leaving the pass out with `passes.disable` may get you going;
please report it, it is a defect of ours.""",
    "E1408": """`frontend.quantize.type` names a quantization that needs a calibration (GPTQ, AWQ, SmoothQuant, an int8
KV cache), which this target does not implement. With `--allow-rtn` the weights are rounded to nearest in the same
number of bits instead; the manifest then records both what was requested and what was used.""",
    "E1409": """A Relax pass met a function of another form than one dataflow block. This is a defect of the pass that
ran before it.""",
    "E1410": """`backend.dtype` or `runtime.kv_dtype` names a storage type that the target does not have; the message
lists those it has, and `xamc targets` shows them for every target.""",
    "E1411": """`frontend.model_kwargs.build_visual: true` (or a pixel input without `input_ids`) asks for the vision
tower of a vision-language checkpoint, which takes pixels of fixed shape instead of token ids. xamc compiles the
language models of checkpoints and would otherwise have compiled the other half of this one.
Example: `xamc compile foo_vl_visual.yaml --target cpu`, with vamc's file for the tower.
Remedy: export the tower to ONNX and compile that file with `frontend.type: onnx`, or compile it with vamc; remove
`build_visual` and the pixel inputs to compile the language model.""",
    "E1413": """A target of static graphs, such as tvm_vacc, needs the lengths of its graphs, and
`frontend.shape.input_ids` gives none. Example: `shape: {input_ids: [[1024], [2048]]}` makes a prefill graph of 1024
tokens and a decode graph for sequences of up to 2048; an empty second list, `[[512], []]`, makes an embedding
model.""",
    "E1414": """`frontend.model_kwargs.tp` is a number of ranks that the target doesn't divide a model among. VACC takes
1, 2, 4, 8 or 16; heads and MLP columns that don't divide evenly are padded. Example: `tp: 3` is refused. Ascend's
ATC route compiles for one device, `tp: 1`.""",
    "E1415": """`backend.compile.route: kernels` asks for Ascend's route of fused kernels, which this version does not
have. `route: atc`, the default, writes ONNX that Huawei's ATC compiles.""",
    "E1416": """An embedding model (an empty second list in `frontend.shape.input_ids`) has no decode graph, and
Ascend's ATC route makes both. Add a total length, `[[512], [2048]]`, or compile for `backend.type: tvm_vacc`.""",
    "E1418": """`backend.compile.tune: on` times kernels on the machine that compiles, so that the code must be for that
machine: `backend.compile.mcpu` names another level than its highest one. Set `backend.compile.mcpu: native`, compile on
the machine that the artifact is for, or leave `tune` off.""",
    "E1419": """While tuning, a kernel with other tile sizes gave another result than the kernel with the default ones:
more than the order of float32 sums explains. A defect of the kernel's generator or of the code generator behind it.
Compile with `backend.compile.tune: off`, and report the kernel and the tiles that the message names.""",
    "E1420": """A tensor that should go to a parameter file of VACC's contract has a type that the card does not have
(bfloat16 or 4 bits, for example), or yields other rows than it declares. A defect of the graph pass that chose how
the weight is stored.""",
    "E1421": """A rank's static graph for VACC holds operators that the simulator has no float16 kernel for, or uses one
in a way that its kernels don't cover; all of them are listed with the module of the model they come from. Compile for
`backend.type: tvm_cpu` or `reference`, or add a handler in xamc/targets/vacc/operators.py.""",
    "E1422": """The graphs of two ranks of one bucket differ, although all ranks share one library. A defect of the pass
that splits a model among ranks.""",
    "E1461": """`backend.compile.mcpu` names a CPU level that xamc does not generate code for. Use `native` for the
machine that compiles, or one of the listed levels, for example `x86-64-v3` (AVX2) for code that runs on nearly every
server.""",
    "E1462": """The processor of this machine is neither an x86-64 nor an aarch64 with NEON, for which there are CPU
levels. Compile with `backend.compile.mcpu` set to the level of the machine that will run the artifact.""",
    "E1480": """Code for aarch64 that is compiled on an x86-64 machine is linked by `aarch64-linux-gnu-gcc`, which is
not installed. On Debian and Ubuntu: `apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross`.""",
    "E1481": """`backend.compile.cpu` lists the CPU levels to compile for, for example `[x86-64-v3, x86-64-v4]`; it
takes each once, and `backend.compile.mcpu`, which names a single one, does not go with it. Remove one of the two.""",
    "E1482": """The libraries of an artifact for several CPU levels read one weights file, and two of them would lay it
out differently: a defect of xamc. Until it is fixed compile one artifact per level.""",
    "E1483": """`backend.compile.cpu` asks for several libraries in one artifact, which language models have and graphs
of `frontend.type: onnx` do not. Set `backend.compile.mcpu` to the lowest level, or compile one artifact per level.""",
    "E1463": """A weight format was asked for with a group size that it does not have: 8-bit weights take 32, 64, 128 or
none (one scale per output channel), 4-bit weights 32, 64 or 128.""",
    "E1464": """The number of input features of a layer is not a multiple of the quantization group. Choose a smaller
`frontend.quantize.group_size`, or 8-bit weights without groups.""",
    "E1465": """The packer was given a block whose type or shape does not fit its format: a defect of the code that
calls it.""",
    "E1470": """`frontend.quantize` asks for something that weights of an ONNX graph don't have: they are stored in int8
with one scale per output channel (`w8a16_rtn`), in 16 or in 32 bits. Types with 4 bits, groups and calibrations are
for language models.""",
    "E1471": """`backend.dtype` names a type that weights of an ONNX graph are not stored in, such as int4 or bf16. Use
fp32, fp16 or int8.""",
    "E1472": """`backend.dtype: int8` with `backend.quantize` asks for activations in int8 with ranges from a
calibration (percentile, KL divergence), which is not implemented. With `--allow-rtn` the weights of convolutions and
matrix products are rounded to int8, activations stay in floating point, and the manifest records both. Or set
`backend.dtype: fp16`.""",
    "E1473": """An operator is known, but not the way in which the graph uses it (an attribute, a type, a shape that
depends on data), or TVM fails to compile what it was lowered to. The message names the operator and the node; below it
are all such nodes, each with what was said of it. Dimensions that vary are the usual reason: fix them in
`frontend.shape`. `backend.type: reference` runs any ONNX operator.""",
    "E1474": """The compiled graph, or the simplified one, gave other outputs than ONNX Runtime on the same inputs and
weights, by more than the stated tolerance. Nothing is published. That is a defect of ours or of TVM: please report the
model.""",
    "E1475": """ONNX Runtime can't run the graph with seeded inputs of the shapes asked for, so nothing can be compared
with it. Its own message is shown below the error: an operator without an implementation for a type, or shapes that
don't fit. The file itself needs a change.""",
    "E1476": """The target in `backend.type` compiles language models only. Graphs with `frontend.type: onnx` compile
for tvm_vacc, tvm_cpu and reference.""",
    "E1417": """A kernel of the CPU's decode step asked for other operands than it had announced, so that its program
would hand it the wrong memory. Nothing was compiled. This is a defect of that kernel, in
xamc/targets/kernels/decode_kernels.py; please report it with the model's config.json.""",
}
