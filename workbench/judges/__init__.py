"""Judges: what a reply did, by the embedded world's forms or by phrases, and how a judge agrees with people."""
