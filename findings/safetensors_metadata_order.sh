#!/usr/bin/env bash
# safetensors writes the same tensors with the same metadata as different bytes.
#
# `save_file(tensors, path, metadata=...)` puts the entries of `metadata` into the header in an order that changes from
# call to call (a hash map's), while tensors are sorted. So the digest of a file says nothing about its content as soon
# as it has two entries of metadata: caches keyed by such digests miss, and builds are not reproducible. What reads the
# files is not affected. Whoever needs a digest has to take it over the parsed header and the data.
#
# Seen with safetensors 0.8.0: 12 files of the same content have several digests; without metadata they have one.
# Exits with 0 while that is so, and with 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q safetensors==0.8.0 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

folder = Path(sys.argv[1])
tensors = {f"layer.{i}.weight": np.arange(i, i + 4, dtype=np.float32) for i in range(8)}
metadata = {name: "float32" for name in tensors}


def digests(**options):
    found = []
    for number in range(12):
        path = folder / f"{number}.safetensors"
        save_file(tensors, path, **options)
        found.append(path.read_bytes())
    loaded = load_file(path)
    assert all((loaded[name] == array).all() for name, array in tensors.items())
    return {hashlib.sha256(data).hexdigest() for data in found}, found


plain, _ = digests()
described, files = digests(metadata=metadata)
headers = [json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]) for data in files]
print(f"safetensors {safetensors.__version__}: {len(plain)} digest without metadata, {len(described)} with 8 entries")
print(f"parsed headers are all equal: {all(header == headers[0] for header in headers)}")
sys.exit(0 if len(plain) == 1 and len(described) > 1 else 1)
PYTHON
