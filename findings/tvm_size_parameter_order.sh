#!/usr/bin/env bash
# TVM's legalization orders a kernel's size parameters by the addresses of objects: one model, several libraries.
#
# After a concatenation a dimension is a sum, `b + c`, and `LegalizeOps` tells the kernel behind it b and c as parameters
# of their own. Their order is that of a Python set of objects that hash by address, so the same module, legalized again
# in the same process or in another, gives another signature, and after `tvm.compile` a library of other bytes. Who
# promises reproducible builds, or keys a cache by what TVM made, has to sort them. Models of fixed shapes are not
# touched, nor are those whose dimensions are single variables.
#
# Seen with apache-tvm 0.27.0.post1, apache-tvm-ffi 0.1.14.post1, Python 3.11, x86-64:
#   200 legalizations of one module, 2 signatures: relu(b, c), relu(c, b)
# Exits with 0 while that is so, and with 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post1
cat > "$folder/check.py" <<'PYTHON'
import re

from tvm import relax, tirx

a, b, c = (tirx.Var(name, "int64") for name in "abc")
x, y = (relax.Var(name, relax.TensorType((a, size), "float32")) for name, size in (("x", b), ("y", c)))
builder = relax.BlockBuilder()
with builder.function("main", [x, y]):
    with builder.dataflow():
        joined = builder.emit(relax.op.concat([x, y], axis=1))
        result = builder.emit_output(relax.op.nn.relu(joined))
    builder.emit_func_output(result)
module = builder.get()

signatures, kept = set(), []
for _ in range(200):
    text = relax.transform.LegalizeOps()(module).script()
    line = next(line for line in text.splitlines() if "def relu(" in line)
    signatures.add("relu(" + ", ".join(re.findall(r"\b([bc]): T\.int64", line)) + ")")
    kept.append([bytes(size) for size in range(1, 4000, 7)])  # so that new objects get other addresses
print(f"200 legalizations of one module, {len(signatures)} signatures: {', '.join(sorted(signatures))}")
raise SystemExit(len(signatures) != 2)
PYTHON
"$folder/venv/bin/python" "$folder/check.py"
