"""Runs a VACC artifact on the host: its graphs in the functional simulator, ranks and collectives as threads."""
