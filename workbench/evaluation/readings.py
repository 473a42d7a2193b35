"""What a reply answers: an answer is read out of its text, or it has none.

    last word        "The illness is flu."                               the embedded domains
    marked number    "#### 18", "The answer is $1,800."                  GSM8K, strictly
    last number      the last number there is                            GSM8K, leniently
    letter           "B", "(B)", "B. It rains", "The answer is B"        multiple choice
    one of words     "Yes, because …", "the answer is maybe"             yes, no, maybe; moods

The trap: looking for the answer anywhere counts "It is 7 and not 8, no, 8" as 7 and as 8. A reply that names two
answers, and says of none that it is the one, has not answered; no more has "B or C", "not positive", or a number that
was cut off while it was written. That is counted apart from a wrong answer.
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
_NUMBER = re.compile(r"(?:(?<![\w)])[-−])?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|(?<![\w.])\.\d+")
_ANSWER = r"answer(?:\s+is|\s*:)"
_HASHES = re.compile(r"####([^\n]*)(?:\n|\Z)")
_STATED = re.compile(rf"\b{_ANSWER}(.*?)(?:\n|\.(?=\s|\Z)|\Z)", re.I)
# "The answer is A matter of taste", "The answer is I think ...": A and I are words, too.
_LETTER = rf"[\s*(\[]*(?![AI]\s+[a-z])([{LETTERS}])(?![\w'’])"
_SAID_LETTER = re.compile(
    rf"\b(?i:{_ANSWER}|(?:option|choice)(?:\s+is|\s*:)?)(?:{_LETTER}|\s*[(\[]?([a-j])[)\].]*\s*$)", re.M
)
_FIRST_LETTER = re.compile(rf"^[\s*(\[]*([{LETTERS}])(?:[.):\]*]|\s*$)", re.M)
_ONLY_LETTER = re.compile(rf"[\s*(\[]*([{LETTERS}])[\s*)\].:]*", re.I)
_ANOTHER = rf"[\s*)\].:]*(?:,|/|&|\band\b|\bor\b)[\s*(\[]*(?:or\s+)?[(\[]*[{LETTERS}](?![\w'’])"
_TWO_LETTERS = re.compile(rf"(?<![\w'’])[{LETTERS}]{_ANOTHER}")


def last_word(text: str, finished: bool) -> str | None:
    """The last word or number of a reply that ended by itself."""
    words = _WORD.findall(text) if finished else []
    return words[-1] if words else None


def marked_number(text: str, finished: bool) -> str | None:
    """The number that is said to be the answer: the last that "####", or else "the answer is", says so of.

    Without commas; one that comes to the same is written alike. Of an equation it is what comes last. None where
    several numbers stand there, or the reply was cut off in the middle of it.
    """
    marks = list(_HASHES.finditer(text)) or [m for m in _STATED.finditer(text) if _NUMBER.search(m[1])]
    if not marks or (not finished and marks[-1].end() == len(text)):
        return None
    said = {plain_number(found) for found in _NUMBER.findall(marks[-1][1].rpartition("=")[2])}
    return said.pop() if len(said) == 1 else None


def last_number(text: str, finished: bool) -> str | None:
    """The last number anywhere."""
    found = _NUMBER.findall(text)
    return plain_number(found[-1]) if found else None


def letter(text: str, finished: bool) -> str | None:
    """The one letter that is said to be the answer, or that the reply begins with."""
    if only := _ONLY_LETTER.fullmatch(text):
        return only[1].upper()
    told = [found for found in _SAID_LETTER.finditer(text) if found[0].lower().startswith("answer")]
    told = told or list(_SAID_LETTER.finditer(text))  # "the answer is" before what is said of options
    if any(_TWO_LETTERS.match(text, found.start(1)) for found in told if found[1]):
        return None
    said = {(found[1] or found[2]).upper() for found in told}
    if not said and _FIRST_LETTER.match(text):
        said = set(_FIRST_LETTER.findall(text))
    return said.pop() if len(said) == 1 else None


def one_of(*words: str) -> Reading:
    """A reading of which of `words` a reply says: the one it says is the answer, begins with, or names alone."""
    any_of = "|".join(map(re.escape, words))
    # "Yes or no" repeats the question, and "not positive" names none of the moods.
    one = rf"({any_of})\b(?!\s*(?:,|/|\bor\b|\band\b)(?:\s*or\b)?\s*(?:{any_of})\b)"
    marked = re.compile(rf"{_ANSWER}[\s*\"'“(:]*{one}", re.I)
    # "No doubt", "negative factors": a word that another one follows is no answer by itself.
    first = re.compile(rf"\W*{one}(?=\s*(?:[^\w\s]|\n|\Z))", re.I)
    # "No" before a word is no answer within a sentence: "there is no doubt".
    anywhere = re.compile(
        rf"(?<!\bnot )(?<!n't )(?<!n’t )(?<!\bnon-)(?<!\bat all )\b({any_of})\b(?!(?<=\bno)\s+\w)", re.I
    )

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


def plain_number(number: str) -> str:
    """A number as one writes it: 1,800.00 is 1800."""
    try:
        value = Decimal(number.replace(",", "").replace("−", "-"))
    except InvalidOperation:  # of digits that are none to Python
        return number
    return f"{value.normalize() + 0:f}"
