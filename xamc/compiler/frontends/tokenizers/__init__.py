"""Reads tokenizers and chat templates of every form into the artifact's."""
