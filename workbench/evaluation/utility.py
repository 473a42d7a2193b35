"""Whether a reply answers a question that has one answer.

    accuracy = share of the prompts with an answer whose reply ended by itself and gives that answer as its last word

The embedded domains all end on their answer ("The sentiment is positive.", "The illness is flu.", "The answer is 7."),
as GSM8K's references do.

The trap: looking for the answer anywhere counts "It is 7 and not 8, no, 8" as 7 and as 8.
"""

import re

from workbench.prompts import Prompt

_WORD = re.compile(r"-?\w+(?:[.,]\d+)?")


def answers_correctly(prompt: Prompt, text: str, finished: bool) -> float:
    """1.0 or 0.0; NaN for a prompt without an answer."""
    if prompt.answer is None:
        return float("nan")
    words = _WORD.findall(text)
    return float(finished and bool(words) and words[-1].casefold() == prompt.answer.casefold())
