"""What the error codes of the hand-off mean; `xamc explain CODE` prints the entries."""

CODES: dict[str, str] = {
    "E1450": """`xamc export-vamc` writes the checkpoint as plain Llama, because the vendor's toolchain compiles that
without a modeling file, and this model computes something that Llama's parameters can't express: normalized queries
and keys (Qwen3), or a sliding window that is shorter than the compiled sequences. The message names it. `--route onnx`
writes the static ONNX graphs alone, which hold any supported family; or use the vendor's own modeling file.""",
    "E1451": """The spec asks for something that the vendor's build files have no word for: a round-to-nearest type of
xamc's, 4-bit weights, bfloat16, or a graph that is ONNX already. For example `frontend.quantize.type: w8a16_rtn`
becomes `w8a16_gptq` in a hand-off, because vamc quantizes the 16-bit weights itself.""",
    "E1452": """A hand-off is for `backend.type: tvm_vacc` with fixed lengths. Add `--target vacc`, and `--set
frontend.shape.input_ids=[[1024],[2048]]` where the spec has none.""",
    "E1453": """The folder given with -o (or `workspace.path`/`name`-vamc) holds files that xamc did not write, and
putting the hand-off there would delete them. Only an empty folder, or an earlier hand-off (it has a
xamc-handoff.json) without foreign files, is replaced.""",
    "E1454": """The disk has less room than the hand-off takes. The Llama checkpoint takes two bytes per parameter,
the ONNX graphs four (two with `--onnx-dtype float16`); `--route llama` writes the checkpoint alone.""",
    "E1455": """`xamc export-vamc ARTIFACT` needs nothing else for a VACC artifact with float16 weights: the model is
put together again from the files of all ranks. Artifacts of other targets, int8 weights (`w8a16`) and embedding models
without lm_head do not hold it. Say where the checkpoint lies, `xamc export-vamc ARTIFACT --checkpoint FOLDER`, or give
the build.yaml.""",
    "E1456": """A file that a hand-off is made from is another one than the manifest says. With `--checkpoint FOLDER`, a
file that the artifact was made from is missing there, or has another size or content: give the folder that the artifact
was compiled from. Without it, a `mod.params` of the artifact itself is damaged, or was swapped: `xamc verify ARTIFACT`
names what is damaged; compile again.""",
    "E1457": """A graph could not be written in the operators of opset 14: an operator, an attribute or a form of a
newer opset was left after all passes. All such nodes are listed. This happens when `passes.disable` leaves out a pass
that decomposes one of them; otherwise report the model.""",
    "E1458": """An input of a graph that should be static has a size that is not a number. This is a defect of the
passes before the writer; report the model and the spec.""",
    "E1459": """An option of `xamc export-vamc` has a value that does not exist. `--route` is llama or onnx, `--dtype`
is float16, bfloat16, float32 or source, `--onnx-dtype` is float32 or float16.""",
}
