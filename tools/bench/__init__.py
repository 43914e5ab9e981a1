"""`make bench`: speed and fidelity of compiled artifacts, next to transformers."""
