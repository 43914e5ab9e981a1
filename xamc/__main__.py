"""`python -m xamc` is the command `xamc`."""

from xamc.cli.main import main

main()
