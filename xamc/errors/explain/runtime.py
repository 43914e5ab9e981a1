"""What the runtime's error codes mean; `xamc explain CODE` prints the entries."""

CODES: dict[str, str] = {
    "E1601": """The model asks for a kind of rotary embedding (RoPE) that xamc does not build tables for, for example
`rope_parameters: {rope_type: yarn}`. Supported are default, linear, dynamic (NTK) and llama3. There is no way round
it in the spec: another scaling would give other logits than the model was trained with.""",
    "E1602": """A token id is negative or not below the model's vocabulary size, for example id 50000 for a model with
49152 entries. Kernels look embeddings up without checking, so ids are checked before anything runs. The usual cause
is the tokenizer of another model: encode text with `model.tokenizer`, or pass text instead of ids.""",
    "E1603": """Prompt and answer together would have more tokens than the artifact's KV cache has room for, for example
a prompt of 2000 tokens and max_new_tokens=100 with a context limit of 2048. Shorten either of them, or compile
again with a larger second list in `frontend.shape.input_ids`, as in `[[512], [8192]]`; the KV cache grows with it.""",
    "E1604": """More sequences at once than the artifact takes, for example 16 prompts for `runtime.max_batch: 8`. Split
the list, or compile with `--set runtime.max_batch=16`. `Engine.open` says so when all slots are taken: close an answer
first.""",
    "E1605": """A prompt or a `token_ids` array has the wrong form: empty, a text that gives no tokens, not of integers,
not [B, T], or with `lengths` that do not fit. `logits` wants an integer array [B, T], short rows padded on the right,
and `lengths=[...]` with the number of tokens that count in each row.""",
    "E1606": """The KV cache for this many sequences and tokens would not fit into the memory that is available now, for
example 8 sequences of 32768 tokens of an 8B model. Use fewer sequences or a smaller max_new_tokens, or store keys
and values in 8 bits: compile with `--set runtime.kv_dtype=int8`. A limit on the process's address space (`ulimit -v`)
is another cause: room for the largest batch is reserved when an artifact is loaded, and taken as it is used.""",
    "E1607": """The artifact's code uses CPU instructions that this machine lacks, for example avx512f in an artifact
compiled with `mcpu: native` on a newer machine. It would die with an illegal instruction. Compile it on this
machine, or for a common denominator: `--set backend.compile.mcpu=x86-64-v3` (AVX2) or `x86-64` (any), or for several
at once, of which the runtime takes the best one: `--set 'backend.compile.cpu=[x86-64-v2, x86-64-v3, x86-64-v4]'`.""",
    "E1651": """A prompt is not UTF-8 text: bytes of another encoding on the command line, in a file or on stdin, or a
string of Python with lone surrogates, which is how Python keeps such bytes. The message says where the first one
stands. Convert the text: `iconv -f GB18030 -t UTF-8`, `iconv -f LATIN1 -t UTF-8`.""",
    "E1652": """An artifact was loaded, the process was forked, and the child used the model. Fork copies no threads, so
kernels would wait for ever for those of the parent. Load the artifact in the child (processes that load the same
artifact share the memory of its weights), or use the start method `spawn` of multiprocessing. With one thread a model
goes on in the child.""",
    "E1653": """A call uses a word of transformers' `generate` or `GenerationConfig` that this runtime can't do, such as
num_beams=4 or bad_words_ids. The message names it. Words that this runtime knows are listed in docs/runtime.md; those
at a value that asks for nothing (num_beams=1, output_scores=False) are accepted.""",
    "E1654": """Speculation checks drafts of several tokens in one step of the model. That needs an artifact of the CPU
target compiled by this release, whose decode step is one program (`decode` in report.json says why one is not). Answers
are the same without, so leave it out, or compile the model again.""",
    "E1660": """`--cpu-list` (`use_cpus` in Python) takes numbers and ranges as `taskset --cpu-list` does, `0-3,8` for
example, of CPUs that the process may use; a container or `taskset` may have left it only some of the machine's.""",
    "E1608": """The number of threads is no whole number from 1 to 1024. Leave `--threads` out to use every CPU that the
process may run on (its affinity, at most the container's CPU quota and OMP_NUM_THREADS). More threads than CPUs are as
many as the CPUs, with a warning.""",
    "E1609": """A library that runs the artifact is missing or refuses the code: TVM's runtime (`libtvm_runtime.so` in
the package apache-tvm, with the pinned apache-tvm-ffi) for the CPU target, ONNX Runtime for the reference target.
Code made by another TVM version does not load either. `xamc doctor` compares what is installed with the pins;
compile again after an update.""",
    "E1610": """The artifact is for a machine that the runtime here does not drive, for example `tvm_vacc`. Compile the
same spec for the CPU to run it here: `xamc compile build.yaml --set backend.type=tvm_cpu`.""",
    "E1611": """The weights file is missing, shorter than the manifest says, or lacks a tensor that the graph needs: the
artifact was copied only in part, or changed. Copy it again or compile again; `xamc verify ARTIFACT` names the
damaged files.""",
    "E1612": """An option of a generation means nothing, for example temperature=-1, top_p=0 (it must be above 0; 1
keeps every token), max_new_tokens=0, or an empty stop string; or there is no option
of that name. The message names the option and what is allowed.""",
    "E1613": """The artifact has no tokenizer, or its tokenizer files can't be read, because the checkpoint brought none
or they were damaged. Token ids can still be given and are returned in `token_ids`; for text compile again from a
checkpoint with tokenizer.json.""",
    "E1614": """The checkpoint brought no chat template, so it is likely a base model that only continues text. Use
`xamc run` with a plain prompt, or give a Jinja template with `--chat-template FILE`. Or it brought several with
names, none of which is the default: name one with `chat_prompt(messages, template="NAME")`.""",
    "E1615": """The chat template, a Jinja program from the checkpoint, is not valid, refused the conversation (many
demand that user and assistant take turns), used something its sandbox forbids, or exceeded its bounds: 256 KiB of
source, 5 seconds, values of 8 MiB. The message holds the template's own words. Give a template of your own with
`--chat-template FILE` if it is at fault.""",
    "E1616": """The messages of a chat are not a non-empty list of objects with a role, for example a plain string. Give
`[{"role": "user", "content": "Hello"}]`.""",
    "E1617": """The artifact's code failed while it ran, or its logits are not numbers. This is a defect, in the kernels
or in the artifact: `xamc verify ARTIFACT` shows whether the golden logits still come out. NaN with fp16 weights can
be an overflow; try bf16. Please report it with manifest.json.""",
    "E1618": """A model was called from within a call of its own, in the middle of a step: by a signal handler, or by
an object's finalizer that the garbage collector happened to run. Its KV cache is half written then. Set a flag in the
handler, and call the model behind it. Calls of several threads need nothing: one waits for the other.""",
    "E1640": """The artifact holds one graph (an ONNX model with fixed inputs), and the command or function is for
language models: there is no tokenizer and nothing to generate. `xamc run ARTIFACT --inputs FILE.npz` runs it; in
Python `xamc.runtime.load(ARTIFACT).run({"input": array})`.""",
    "E1641": """The artifact holds a language model, and the command or function is for artifacts of one graph, which
take named arrays. `xamc run ARTIFACT --prompt "..."` runs it.""",
    "E1642": """A call of a graph lacks an input, has one that the graph doesn't know, or one of another shape or type.
The message says what is wanted; `xamc inspect ARTIFACT` lists inputs and outputs. Integers are converted between
widths, other types have to be given as they are.""",
    "E1643": """An integer input looks up rows of a table (token ids in an embedding), and holds a number outside of
it. Compiled code checks nothing, so it is refused before. Numbers below 0 count from the table's end, as ONNX says. Use
the tokenizer of this model.""",
    "E1644": """The file given with --inputs is not an .npz file of arrays, the file of --outputs can't be written, or
the options don't fit each other. `numpy.savez("in.npz", input=array)` writes one; pickled objects are not read.""",
    "E1645": """The compiled graph failed while it ran, although its inputs fit. That is a defect of ours: report it
with manifest.json of the artifact.""",
    "E1620": """A static graph's description (`mod.json`) is missing, cut off, or of another version than this xamc
writes. Copy the artifact again from where it is whole, or compile the model again.""",
    "E1621": """The artifact has no static graph for what was asked: a length that was not compiled, or a prompt shorter
than the prefill graph of an artifact without decode graphs, whose last token would have to run once more. Compile with
the length in `frontend.shape.input_ids`, for example `[[1024], [2048]]`: the first list is prefill's, the second
decode's.""",
    "E1622": """The artifact is an embedding model: it was compiled with an empty second list in
`frontend.shape.input_ids`, so that its graphs yield the hidden states after the final norm instead of logits, and there
is nothing to generate from. In Python `model.hidden_states(token_ids)` gives them. To generate, compile with
`input_ids: [[512], [1024]]`.""",
    "E1624": """The artifact was compiled by an xamc whose code worked on a contiguous KV cache; this runtime keeps it
in blocks. Compile the model again: nothing else has to change.""",
    "E1623": """Hidden states were asked of an artifact that yields logits. Only embedding models give them: for VACC,
compile with an empty second list, `frontend.shape.input_ids: [[512], []]`.""",
    "E1650": """`Model.fill_cache`, which benchmarks use to reach long contexts without a prefill, writes to the blocks
of a paged KV cache. The CPU target has one; the others keep one contiguous cache per row. Example: fill_cache on an
artifact of `backend.type: reference`. Remedy: run the prompt itself, or compile the spec for tvm_cpu.""",
    "E1646": """ONNX Runtime failed on one of the graphs of an Ascend artifact. The message names the file and the gear
(batch and length) it was driven in. The graphs have been run when the artifact was compiled, so this machine has
another version of ONNX Runtime (`xamc doctor`), or too little memory.""",
}
