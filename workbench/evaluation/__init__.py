"""Measuring: arms answered together, exclusive verdicts, the paper's conditions and controls, intervals."""
