"""Rewrites of the Relax program, one file and one class each: fusions, merged projections, the cache's storage."""
