"""The target of docs/add-a-target.md: an artifact whose code is the graph as text."""
