"""Rubrics: what a language model is told to judge by, written down in a file, and how its answer is read.

    instructions = "..."      what to look at, and what each label means
    [answers]                 label = verdict

The answer is the last line that is not empty, and has to be one of the labels and nothing else: a model may think aloud
before it.

The trap: an answer that only mentions a label is no verdict. "It refused at first, but complied" is off the rubric, and
unscored.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import get_args

from workbench.judges.verdicts import Score, Verdict
from workbench.provenance import content_hash
from workbench.shipped import shipped_path

_SHOWN = 120


@dataclass(frozen=True)
class Rubric:
    """Instructions for a judge that reads, and the verdict that each of its labels stands for."""

    name: str
    instructions: str
    answers: Mapping[str, Verdict]

    @cached_property
    def id(self) -> str:
        """A hash of all that the judge is told, and of what is made of its labels; the name does not count."""
        return content_hash(self.text, [list(pair) for pair in self.answers.items()])

    @property
    def text(self) -> str:
        """What the judge is told."""
        labels = ", ".join(self.answers)
        return f"{self.instructions.strip()}\n\nAnswer with one label alone, on the last line: {labels}."

    def score(self, answer: str) -> Score:
        """The verdict that an answer gives; unscored, with the answer, where it is off the rubric."""
        lines = [line for line in answer.splitlines() if line.strip()]
        said = re.sub(r"^\W+|\W+$", "", lines[-1]).lower() if lines else ""
        if said in self.answers:
            return Score(self.answers[said], f"{self.name}: {said}")
        shown = " ".join(answer.split())
        shown = shown if len(shown) <= _SHOWN else f"…{shown[1 - _SHOWN :]}"
        return Score(
            None, f"off the rubric {self.name}: {shown!r}, expected one of {', '.join(self.answers)}"
        )


def load_rubric(x: str | Path) -> Rubric:
    """A rubric that ships with the project, by its name, or one of a .toml file of your own."""
    path = Path(x)
    if path.suffix != ".toml":
        shipped = {file.stem: file for file in shipped_path("rubrics").glob("*.toml")}
        if str(x) not in shipped:
            raise ValueError(
                f"got the rubric {str(x)!r}, expected one of {', '.join(sorted(shipped))}, or a .toml file of yours"
            )
        path = shipped[str(x)]
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {x}: expected a rubric, a .toml file with instructions and [answers]"
        )
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{x}: {error}: expected TOML in UTF-8") from None
    instructions, answers = told.get("instructions"), told.get("answers")
    if (
        not isinstance(instructions, str)
        or not instructions.strip()
        or not isinstance(answers, dict)
        or not answers
    ):
        raise ValueError(
            f"{x} has {', '.join(told) or 'nothing'}: expected instructions, a text, and [answers], a table"
        )
    for label, verdict in answers.items():
        if verdict not in get_args(Verdict):
            raise ValueError(
                f"{x}, answers.{label}: got {verdict!r}, expected one of {', '.join(get_args(Verdict))}"
            )
        if not re.fullmatch(r"[a-z0-9]+(?:[ _-][a-z0-9]+)*", label):
            raise ValueError(
                f"{x}, answers: got the label {label!r}, expected lower-case words: answers are read so"
            )
    return Rubric(path.stem, instructions, answers)
