#!/usr/bin/env bash
# LLVM takes VNNI's vpdpwssd apart although it was called by its intrinsic: on Intel's processors, not on AMD's.
#
# `llvm.x86.avx512.vpdpwssd.512` multiplies pairs of 16-bit integers and adds them to a sum in one instruction. Where one
# result is the sum of the next call, as in every dot product, LLVM makes vpmaddwd and vpaddd of some of them, which are
# two instructions and a shorter chain. A kernel with many independent sums has no use for the shorter chain and is bound by
# the number of instructions: ours with 8-bit weights took 0.87 of the time when all of them stayed whole. The feature that
# says so, `fast-dpwssd`, is set for AMD's processors with VNNI and for none of Intel's; a target of x86-64-v4 and
# `+avx512vnni` has to name it. vpdpbusd is left as it is.
#
# Seen with llvmlite 0.50.0 (LLVM 22.1.0), two calls in a chain:
#   x86-64-v4 +avx512vnni: vpdpwssd vpmaddwd vpaddd
#   x86-64-v4 +avx512vnni,+fast-dpwssd: vpdpwssd vpdpwssd
#   cascadelake, icelake-server, sapphirerapids: vpdpwssd vpmaddwd vpaddd
#   znver4, znver5: vpdpwssd vpdpwssd
# Exits with 0 while that is so, and with 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check llvmlite==0.50.0
cat > "$folder/check.py" <<'PYTHON'
import re

import llvmlite
import llvmlite.binding as llvm

CHAIN = """
target triple = "x86_64-unknown-linux-gnu"
declare <16 x i32> @llvm.x86.avx512.{name}.512(<16 x i32>, <16 x i32>, <16 x i32>)
define <16 x i32> @chain(<16 x i32> %sum, <16 x i32> %a, <16 x i32> %b, <16 x i32> %c, <16 x i32> %d) {{
  %first = call <16 x i32> @llvm.x86.avx512.{name}.512(<16 x i32> %sum, <16 x i32> %a, <16 x i32> %b)
  %both = call <16 x i32> @llvm.x86.avx512.{name}.512(<16 x i32> %first, <16 x i32> %c, <16 x i32> %d)
  ret <16 x i32> %both
}}
"""
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
target = llvm.Target.from_triple("x86_64-unknown-linux-gnu")


def instructions(name, cpu, features=""):
    machine = target.create_target_machine(cpu=cpu, features=features, opt=3)
    assembly = machine.emit_assembly(llvm.parse_assembly(CHAIN.format(name=name)))
    return " ".join(re.findall(r"\b(vpdp\w+|vpmadd\w+|vpaddd)", assembly))


WHOLE, SPLIT = "vpdpwssd vpdpwssd", "vpdpwssd vpmaddwd vpaddd"
expected = {
    ("x86-64-v4", "+avx512vnni"): SPLIT,
    ("x86-64-v4", "+avx512vnni,+fast-dpwssd"): WHOLE,
    ("cascadelake", ""): SPLIT,
    ("icelake-server", ""): SPLIT,
    ("sapphirerapids", ""): SPLIT,
    ("znver4", ""): WHOLE,
    ("znver5", ""): WHOLE,
}
found = {key: instructions("vpdpwssd", *key) for key in expected}
print(f"llvmlite {llvmlite.__version__}, LLVM {'.'.join(map(str, llvm.llvm_version_info))}")
for (cpu, features), text in found.items():
    print(f"{cpu} {features}".rstrip() + f": {text}")
bytes_too = instructions("vpdpbusd", "x86-64-v4", "+avx512vnni")
print(f"vpdpbusd: {bytes_too}")
raise SystemExit(found != expected or bytes_too != "vpdpbusd vpdpbusd")
PYTHON
"$folder/venv/bin/python" "$folder/check.py"
