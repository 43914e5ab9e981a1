"""`python -m xamc` is the command `xamc`."""

from xamc.compiler.cli import main

main()
