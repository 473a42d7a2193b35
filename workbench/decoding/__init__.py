"""One batch, from its prompts to its last token: rows and their decisions, forward passes, chosen tokens."""
