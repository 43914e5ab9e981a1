"""The stages of a compile, one file each, in the order of `xamc.compiler.pipeline`."""
