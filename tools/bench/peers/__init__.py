"""The engines xamc races against: an environment of its own for each, and its model made from the same checkpoint."""
