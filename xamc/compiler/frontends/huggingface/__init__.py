"""Hugging Face folders: which files they hold, and a checkpoint out of them."""
