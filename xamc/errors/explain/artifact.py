"""What the error codes of artifacts, the stage cache and child processes mean."""

from __future__ import annotations

CODES: dict[str, str] = {
    "E1501": """The artifact's folder exists and holds something other than an artifact of xamc's.
Publishing replaces the folder as a whole, so xamc refuses when that would delete what it did not write: a folder
without manifest.json, a manifest of another program, a file, or files that were put into the artifact afterwards
(they are listed).
Example: `xamc compile build.yaml -o ~/models`, where ~/models holds checkpoints.
Remedy: give a folder of its own with -o, or change workspace.path or name in the spec; or move the files away.""",
    "E1502": """manifest.json of an artifact is not JSON, or a key of it is missing, unknown or of the wrong type.
The message names the key, for example `weights.tensors[3].shape`. The file was edited, cut off by a broken copy, or
damaged on the disk.
Remedy: copy the artifact again from where it is whole, or compile the model again.""",
    "E1503": """The artifact was written in another version of the manifest's format than this xamc reads.
Remedy: compile the model again with this xamc, or run the artifact with the xamc version that `manifest.json` names
under `xamc_version`.""",
    "E1504": """The given path is no artifact: there is no such folder, or it has no manifest.json.
Example: `xamc run vacc_deploy`, which is the folder that artifacts lie in.
Remedy: give the folder that `xamc compile` printed after the arrow in its last lines.""",
    "E1505": """Files of the artifact are missing, have another size than the manifest says, or other content.
Each damaged file is listed. Sizes are checked whenever an artifact is opened; the contents of what decides an answer
(code, tokenizer, chat templates, weights of up to 64 MiB) whenever it is loaded, larger weights with
`--verify-weights`, and all files by `xamc verify`.
Remedy: copy the artifact again from where it is whole, or compile the model again: what the stage cache still holds is
not computed anew. If a file of the stage cache was edited, run `xamc cache prune --max-size 0` first, because artifact
and cache share their large files.""",
    "E1506": """The disk, or your quota, is full. What was being written was removed; nothing is half-published.
Remedy: free space; `xamc cache prune --max-size SIZE` removes the stage results used longest ago. `xamc plan` says how
much a spec needs. workspace.path and XAMC_CACHE choose other disks.""",
    "E1507": """A folder can't be written: no permission, a read-only file system, or a file where a folder should be.
Remedy: choose a folder you may write to with -o, workspace.path, or for the stage cache XAMC_CACHE.""",
    "E1508": """`xamc cache prune` found a compile that is using the stage cache, whose results it might remove.
Remedy: prune again when the compile has ended.""",
    "E1509": """xamc tried to publish an artifact whose manifest names a file that was never added. A defect of xamc's.
Remedy: report it with the spec; nothing was published.""",
    "E1510": """The golden logits of an artifact (golden/golden.safetensors, golden/golden.json) can't be read.
The files are damaged although their digests are right: an edited artifact, or one of a development version of xamc.
Remedy: compile the model again.""",
    "E1511": """The artifact's logits on this machine are not those it gave when it was made, or are not finite.
All its files are whole. The same code and weights give the same logits on every CPU that has the features it was
compiled for, but for the order of some sums, so the machine or a library computes something else. An artifact that was
compiled on a CPU that couldn't run it has no such logits; it is compared with transformers' instead, where
`verify.final: true` recorded them: within the bound `cpu_fp32` if it stores everything in float32, otherwise it must
be nearer to them than a uniform guess.
Remedy: run `xamc doctor`, which checks the pinned libraries; compile the model on this machine; if that artifact
verifies, compare `xamc inspect` of both and report it.""",
    "E1512": """A parameter file of a static graph (`mod.params`, TVM's parameter container) is missing, cut off, or
says things about itself that can't be true. The message names the tensor and what is wrong with it.
Remedy: copy the artifact again from where it is whole, or compile the model again.""",
    "E1520": """A child process was ended by a signal, most often SIGSEGV inside TVM or LLVM, or SIGKILL for lack of
memory. Code generation and export run in children because these tools can crash hard. The message names a folder with
the log, the request and its input files.
Remedy: `xamc doctor` checks the pins that are known to crash. For SIGKILL lower workspace.workers or free memory.
Repeat the call alone with `python -m xamc.jobs.child FOLDER`, and report it with that folder.""",
    "E1521": """A child process took longer than its limit and was ended.
Remedy: try again on an idle machine; if it happens again, report it with the folder that the message names.""",
    "E1522": """A child process (with its own children) took more memory than its limit and was ended, before the
machine would run short. Remedy: lower workspace.workers, or compile on a machine with more memory.""",
    "E1523": """A child process failed with an exception that is not an error of xamc's own. Its traceback is in the log
that the message names. A defect of xamc or of a library below it.
Remedy: `xamc doctor`, then report it with the folder; `python -m xamc.jobs.child FOLDER` repeats it.""",
    "E1524": """A child process was ended because the compile it worked for was interrupted or terminated.
It is never shown by the command line, which says `interrupted`; a program that calls xamc from several threads may
see it. Remedy: compile again; what was finished is in the stage cache.""",
    "E1525": """SOURCE_DATE_EPOCH is set to something other than a number of seconds since 1970.
With that variable every file of an artifact gets this date, and report.json holds no times, so that the whole folder is
byte-identical from compile to compile. Example: SOURCE_DATE_EPOCH=2026-01-01.
Remedy: set it as in `SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)`, or unset it.""",
}
