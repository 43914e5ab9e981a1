"""Proofs: the twin, the oracles, and how far an artifact's numbers are from the model's."""
