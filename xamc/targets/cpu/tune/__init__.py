"""The search for the tiles with which the kernels of a model are fastest on this machine."""
