"""`python -m workbench`: the shell's verbs, where the command is not on the path."""

from workbench.cli import app

app()
