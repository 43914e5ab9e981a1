#!/usr/bin/env bash
# gguf drops an empty array without a word, and llama.cpp refuses the file that it writes.
#
# A byte-level vocabulary needs no merges: 256 single bytes are a whole tokenizer. `add_token_merges([])` writes no key,
# although the format has arrays of length 0; llama.cpp then ends in "cannot find tokenizer merges in model file". So a
# model that the one takes can't be loaded by the other; one merge that can never apply has to be made up.
#
# Seen with gguf 0.19.0 and llama.cpp b11549 (xllamacpp 2026.10.11549, x86-64).
# Exits with 0 while that is so, and with 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check gguf==0.19.0 xllamacpp==2026.10.11549
cat > "$folder/check.py" <<'PYTHON'
import ctypes
import sys

import gguf
import xllamacpp.xllamacpp as native

path = sys.argv[1]
writer = gguf.GGUFWriter(path, "llama")
for key in ("context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count"):
    writer.add_uint32(f"llama.{key}", 1 if key in ("block_count", "attention.head_count") else 32)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_tokenizer_model("gpt2")
writer.add_tokenizer_pre("gpt-2")
writer.add_token_list(["a", "b"])
writer.add_token_types([1, 1])
writer.add_token_merges([])
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
dropped = "tokenizer.ggml.merges" not in gguf.GGUFReader(path).fields
print("gguf", "wrote no key for the empty array" if dropped else "wrote the empty array")


class Parameters(ctypes.Structure):
    """At least as large as llama.cpp's; it is passed in memory."""

    _fields_ = [("words", ctypes.c_uint64 * 64)]


library = ctypes.CDLL(native.__file__)
library.llama_model_default_params.restype = Parameters
library.llama_model_load_from_file.argtypes = [ctypes.c_char_p, Parameters]
library.llama_model_load_from_file.restype = ctypes.c_void_p
library.llama_model_load_from_file(path.encode(), library.llama_model_default_params())
sys.exit(0 if dropped else 1)
PYTHON
"$folder/venv/bin/python" "$folder/check.py" "$folder/m.gguf" > "$folder/out" 2> "$folder/log" || { cat "$folder/out"; exit 1; }
cat "$folder/out"
grep "cannot find tokenizer merges" "$folder/log"
