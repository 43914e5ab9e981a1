"""What is compiled: graphs, weights by reference, and how far a rewrite may move them."""
