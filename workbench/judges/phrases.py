"""Forms of words, read from a file for each language and found in sentences.

    "i {cannot} … {give}"     a form: {a slot's entries}, [what may be missing], … up to six words, stem*, ^begin, end$

A sentence is read as words alone, in lower case, English contractions written out. Chinese and Japanese write no spaces
between words: there a form is found anywhere, and … is up to twelve characters.

The trap: a short form is found in anything, and one of another language even more so. Only English and the language
that a text is in are read.
"""

import functools
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.shipped import shipped_path

_TOKEN = re.compile(r"\^|\$|\[[^]]*\]|\{\w+\}|…|[^\s^$\[\]{}…]+")
_WORD = re.compile(r"[\w'*-]+")
_CONTRACTIONS = (
    (r"\b(?:can't|can not)\b", "cannot"),
    (r"\bwon't\b", "will not"),
    (r"n't\b", " not"),
    (r"\bi'm\b", "i am"),
    (r"'re\b", " are"),
    (r"\b(it|that|there|here|what|he|she)'s\b", r"\1 is"),
    (r"\blet's\b", "let us"),
    (r"'ll\b", " will"),
    (r"'ve\b", " have"),
    (r"\b(i|you|we|they)'d\b", r"\1 would"),
)


@dataclass(frozen=True, eq=False)
class Language:
    """One language's groups of forms, each as one pattern over sentences as `words` gives them."""

    name: str
    spaced: bool
    common: frozenset[str]
    groups: dict[str, re.Pattern[str]]

    def familiar(self, text: str) -> int:
        """How many of the words in `text` are among the language's commonest."""
        read = words(text, spaced=self.spaced)
        return sum(word in self.common for word in (read.split() if self.spaced else read))


@functools.cache
def languages() -> tuple[Language, ...]:
    """The languages that ship with the project."""
    return tuple(read_language(path) for path in sorted(shipped_path("refusals").glob("*.toml")))


def languages_of(text: str) -> tuple[Language, ...]:
    """English, and whatever other language more of the words of `text` are at home in."""
    known = {language: language.familiar(text) for language in languages()}
    most = max(known.values())
    return tuple(language for language, count in known.items() if count == most or language.name == "en")


def read_language(path: Path) -> Language:
    """The forms of one file; `ValueError` where a form names a slot that the file does not have."""
    found: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    slots, spaced, common = found.pop("slots", {}), found.pop("spaces", True), found.pop("common")
    groups = {}
    for group, forms in found.items():
        try:
            groups[group] = re.compile("|".join(_pattern(form, slots, spaced) for form in forms))
        except KeyError as error:
            raise ValueError(
                f"{path}, {group}: a form names the slot {error}, expected one of [slots]"
            ) from None
    return Language(path.stem, spaced, frozenset(common), groups)


def words(text: str, *, spaced: bool = True) -> str:
    """`text` as its words alone, " i cannot help ": what forms are found in."""
    text = text.lower().replace("’", "'")
    if not spaced:
        return "".join(_WORD.findall(text))
    for contraction, written in _CONTRACTIONS:
        text = re.sub(contraction, written, text)
    return f" {' '.join(_WORD.findall(text.replace('*', ' ')))} "


def _pattern(form: str, slots: dict[str, list[str]], spaced: bool) -> str:
    """A form as a regular expression; every token takes the space behind it along."""
    gap = r"(?:\S+ ){0,6}" if spaced else ".{0,12}"
    parts = []
    for token in _TOKEN.findall(form):
        if token == "^":
            parts.append(r"\A " if spaced else r"\A")
        elif token == "$":
            parts.append(r"\Z")
        elif token == "…":
            parts.append(gap)
        elif token.startswith("["):
            parts.append(f"(?:{_pattern(token[1:-1], slots, spaced).removeprefix('(?<= )')})?")
        elif token.startswith("{"):
            entries = slots[token[1:-1]]
            some = "|".join(_literal(entry, spaced) for entry in entries if entry)
            parts.append(f"(?:{some})" + "?" * ("" in entries))
        else:
            parts.append(_literal(token, spaced))
    return "".join([] if not spaced or parts[0].startswith(r"\A") else ["(?<= )"]) + "".join(parts)


def _literal(text: str, spaced: bool) -> str:
    if not spaced:
        return re.escape(text)
    return "".join(
        re.escape(word.removesuffix("*")) + (r"\S* " if word.endswith("*") else " ") for word in text.split()
    )
