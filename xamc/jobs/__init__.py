"""How work is done: the stage cache, child processes, memory over time, progress on the screen."""
