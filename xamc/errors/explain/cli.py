"""What the error codes of the command line mean."""

from __future__ import annotations

CODES: dict[str, str] = {
    "E1700": """xamc met an error that nobody foresaw: a defect of xamc. The exit code is 70.
The traceback, the command line and the versions are in the log file that the message names; `xamc --debug COMMAND`
also prints the traceback.
Remedy: report it with the log. `xamc doctor` finds broken installations, which often look like this.""",
    "E1701": """A package that only compiling needs (torch, onnx, transformers, ...) is not installed.
`pip install xamc` installs what running artifacts needs.
Remedy: pip install 'xamc[compiler]', or `make venv` in a checkout, which installs the tested versions.""",
    "E1702": """The file given with --chat-template can't be read as UTF-8 text.
Remedy: give a Jinja template in a text file, such as chat_template.jinja of the checkpoint.""",
    "E1703": """`xamc doctor` found something that will make a compile or a run fail; the lines marked `fail` name it
and the remedy. Example: apache-tvm-ffi 0.1.15.post2, which pip picks by itself, crashes the code generator.""",
    "E1704": """The size given with --max-size or --die-memory is none. Write a number with an optional unit: 20GB,
1.5 GiB, 500M, or 0.""",
    "E1705": """`xamc run --target TARGET` got an artifact that was compiled for another target. The option is a guard
for
scripts that compile one model for several targets; leave it out, or give the artifact of that target.""",
    "E1735": """The file of recorded answers, or of prompts, can't be read. `xamc golden record` makes the former: JSON
of format 1, with a prompt, its token ids and an answer each. Prompts are a text file in UTF-8, one per line.""",
    "E1736": """Answers differ from the recorded ones: another token became the likeliest by more than the tolerance, or
log-probabilities of recorded tokens moved by more than it. The report names each prompt and the token where it begins.
Remedy: find the change that did it (a dependency, the checkpoint, the spec, xamc; `xamc inspect` shows an artifact's
inputs and tools); if it is meant, record again and commit the file, whose diff then shows what moved.""",
    "E1737": """`xamc golden record` was given no prompt, or an option of a compile (`--set`, `--target`, `--allow-rtn`,
`--allow-pickle`) came with an artifact, which is compiled already. Give --prompt TEXT (repeatable) or --prompts FILE;
those options go with a build.yaml.""",
    "E1738": """`xamc golden` records answers, which an embedding model does not give. `xamc verify` compares its hidden
states with those recorded when it was compiled.""",
    "E1710": """The compile would take more memory than is available now. The message has both numbers and the stage.
Remedy: end other programs; set workspace.workers: 1, as every worker process takes a share; or give a container more
memory. `xamc plan SPEC` shows the estimate of every stage.""",
    "E1711": """The compile would take more disk than is free. The message has both numbers and the folder.
Remedy: free space, or choose another disk with workspace.path. The stage cache shares its large files with artifacts;
`xamc cache prune --max-size 0` frees what no artifact uses.""",
    "E1712": """`xamc plan --die-memory SIZE` found a graph that does not fit into the memory of one die: its
parameters, KV cache and activations of one rank, or the weights and values of an ONNX graph. The message has the graphs
and what each takes, and the plan's table has the parts. Remedy for a language model: more ranks
(`frontend.model_kwargs.tp`), shorter lengths (`frontend.shape.input_ids`), int8 weights or an int8 KV cache
(`frontend.quantize.type`); for an ONNX graph: smaller shapes (`frontend.shape`) or `backend.dtype`.""",
    "E1713": """`--die-memory` was given for a target that has no dies: a CPU has one memory for all, which `plan`
compares
with what is available by itself. Leave the option out, or plan for `backend.type: tvm_vacc`.""",
    "E1718": """`xamc convert-weights DIR OUT` writes a new folder and replaces nothing: OUT exists and holds files.
Choose another folder, or remove this one.""",
    "E1719": """An option of `xamc convert-weights` that makes no sense: `--dtype` takes source, float32, float16 or
bfloat16, `--shard-size` a size such as 5GB, and a GGUF file takes no `--layout`, as it says its layout itself.""",
    "E1720": """The safetensors that `xamc convert-weights` would write are larger than the free space on the disk of
OUT. GGUF's blocks become float32 unless `--dtype` says otherwise: `--dtype float16` halves them.""",
}
