"""Judges: what a reply did, by forms and phrases, learned or others' models, and how that agrees with people."""
