"""Hand-off: a folder that a machine with the vendor's own toolchain can compile, without xamc."""
