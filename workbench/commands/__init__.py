"""Verbs of the shell that have files of their own; `cli` registers them."""
