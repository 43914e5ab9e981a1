"""The VACC target: static graphs per bucket and rank, in Vastai's contract, with a functional simulator."""
