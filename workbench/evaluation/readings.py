"""What a reply answers: an answer is read out of its text, or it has none.

    last word        "The illness is flu."                               the embedded domains
    marked number    "#### 18", "The answer is $1,800."                  GSM8K, strictly
    last number      the last number there is                            GSM8K, leniently
    letter           "B", "(B)", "B. It rains", "The answer is B"        multiple choice
    one of words     "Yes, because …", "the answer is maybe"             yes, no, maybe; moods

The trap: looking for the answer anywhere counts "It is 7 and not 8, no, 8" as 7 and as 8. A reply that names two
answers, and says of none that it is the one, has not answered; and that is counted apart from a wrong answer.
"""

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import TypeAlias

from workbench.prompts import Prompt

Reading: TypeAlias = Callable[[str, bool], str | None]
"""A reply, and whether the model ended it by itself, in; its answer out, None where it has none."""

LETTERS = "ABCDEFGHIJ"
_WORD = re.compile(r"-?\w+(?:[.,]\d+)?")
_NUMBER = re.compile(r"[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
_SAYS = r"answer(?:\s+is)?\s*:?\s*"
_MARKED = re.compile(rf"(?:####|{_SAYS})[\s*$€£(\\]*({_NUMBER.pattern})", re.I)
_SAID_LETTER = re.compile(rf"(?:{_SAYS}|(?:option|choice)\s+)[\s*(\[]*([{LETTERS}])(?![\w'’])", re.I)
_FIRST_LETTER = re.compile(rf"^[\s*(\[]*([{LETTERS}])(?:[.):\]*]|\s*$)", re.M)


def last_word(text: str, finished: bool) -> str | None:
    """The last word or number of a reply that ended by itself."""
    words = _WORD.findall(text) if finished else []
    return words[-1] if words else None


def marked_number(text: str, finished: bool) -> str | None:
    """The last number that is said to be the answer, without commas; one that comes to the same is written alike."""
    found = _MARKED.findall(text)
    return _plain(found[-1]) if found else None


def last_number(text: str, finished: bool) -> str | None:
    """The last number anywhere."""
    found = _NUMBER.findall(text)
    return _plain(found[-1]) if found else None


def letter(text: str, finished: bool) -> str | None:
    """The one letter that is said to be the answer, or that the reply begins with."""
    said = {found.upper() for found in _SAID_LETTER.findall(text)}
    if not said and _FIRST_LETTER.match(text):
        said = set(_FIRST_LETTER.findall(text))
    return said.pop() if len(said) == 1 else None


def one_of(*words: str) -> Reading:
    """A reading of which of `words` a reply says: the one it says is the answer, begins with, or names alone."""
    any_of = "|".join(map(re.escape, words))
    marked = re.compile(rf"{_SAYS}[\s*\"'“(]*({any_of})\b", re.I)
    first, anywhere = re.compile(rf"\W*({any_of})\b", re.I), re.compile(rf"\b({any_of})\b", re.I)

    def read(text: str, finished: bool) -> str | None:
        said = {found.lower() for found in marked.findall(text)}
        if not said and (begins := first.match(text)):
            said = {begins[1].lower()}
        said = said or {found.lower() for found in anywhere.findall(text)}
        return said.pop() if len(said) == 1 else None

    return read


def same_answer(said: str | None, answer: str) -> bool:
    """Whether two answers are one, whatever their case."""
    return said is not None and said.casefold() == answer.casefold()


def answers_correctly(prompt: Prompt, text: str, finished: bool) -> float:
    """1.0 or 0.0 by the reply's last word; NaN for a prompt without an answer."""
    if prompt.answer is None:
        return float("nan")
    return float(same_answer(last_word(text, finished), prompt.answer))


def _plain(number: str) -> str:
    """A number as one writes it: 1,800.00 is 1800."""
    try:
        value = Decimal(number.replace(",", "").replace("−", "-"))
    except InvalidOperation:  # of digits that are none to Python
        return number
    return f"{value.normalize():f}"
