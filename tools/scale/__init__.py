"""`make scale`: a model of full size, compiled and run within limits of memory and disk."""
