"""What a model is, before anything is done with it: config, parameters and their shapes, RoPE."""
