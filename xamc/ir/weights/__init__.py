"""Weights as references: files read in bounded row blocks, and the transforms between a file and a kernel."""
