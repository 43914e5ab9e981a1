"""The sections of a spec, and words that many keys have in common.

The tables of keys are in `vamc_keys` (vamc's own, as they occur in the field), `xamc_keys` (what xamc adds), and in the
`keys.py` of targets, which also say what each does with every key. Checks, the JSON Schema, `key_uses` and the
reference in docs/spec.md all come from them.
"""

from __future__ import annotations

#: Reason of many keys.
READ_BY_ALL = "read by every target"

#: Sections that xamc adds: an unknown key in them is an error.
XAMC_SECTIONS = ("passes", "verify", "runtime")

#: Sections that are mappings of known keys; everything else is a value.
SECTIONS = (
    "frontend",
    "frontend.shape",
    "frontend.model_kwargs",
    "frontend.quantize",
    "frontend.quantize.calib_args",
    "graph",
    "graph.extra_ops",
    "graph.extra_ops.params",
    "backend",
    "backend.compile",
    "backend.quantize",
    "backend.dynamic_params",
    "backend.dynamic_compile",
    "dataset",
    "dataset.sampler",
    "workspace",
    *XAMC_SECTIONS,
)
