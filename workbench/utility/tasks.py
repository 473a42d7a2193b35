"""Tasks with one right answer: prompts, how they are to be answered, and how an answer is read.

    by generation    the reply is read as its `Form` says; what names no answer is unanswered, counted, and not right
    by likelihood    every option is scored as the reply; the likeliest is the answer, in all or per character

The trap: what is asked for decides what is measured. A model that was never told to say "#### 18" is marked down by a
strict reading for its manners. So the format is asked for, and the lenient reading stands beside the strict one.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from workbench.evaluation.readings import (
    LETTERS,
    Reading,
    last_number,
    last_word,
    letter,
    marked_number,
    one_of,
)
from workbench.prompts import Prompt, PromptSet, load_prompts
from workbench.published import load_published

_OPTION = re.compile(rf"^([{LETTERS}])\. ", re.M)
"""An option's line, as `workbench.published` writes them all."""


@dataclass(frozen=True)
class Form:
    """How a task wants its answers.

    `instruction` follows the question, unless a system message of the set's own says how to answer; `lenient` is a
    second reading that is told beside the first; `options` are the replies that likelihood chooses from; `classes` asks
    for an F1, too.
    """

    name: str
    instruction: str
    read: Reading
    lenient: Reading | None = None
    options: Callable[[Prompt], tuple[str, ...]] | None = None
    classes: tuple[str, ...] = ()


def lettered(prompt: Prompt) -> tuple[str, ...]:
    """The letters of the options that a prompt lists, a line each. Raises `ValueError` where there are not two."""
    found = tuple(dict.fromkeys(_OPTION.findall(prompt.text)))
    if len(found) < 2 or found != tuple(LETTERS[: len(found)]):
        raise ValueError(
            f"prompt {prompt.source!r} lists options {', '.join(found) or 'none'}, expected lines that begin with "
            '"A. ", "B. " and so on'
        )
    return found


def _of(*words: str) -> Callable[[Prompt], tuple[str, ...]]:
    return lambda prompt: words


def _words(name: str, *words: str) -> Form:
    *others, last = words
    asked = f"Answer with one word: {', '.join(others)} or {last}."
    return Form(name, asked, one_of(*words), options=_of(*words), classes=words)


FORMS: Mapping[str, Form] = {
    each.name: each
    for each in (
        Form("last word", "", last_word),
        Form(
            "number",
            "Solve the problem step by step. End with a line that has #### and the answer as a number.",
            marked_number,
            lenient=last_number,
        ),
        Form("letter", "Answer with the letter of the right option alone.", letter, options=lettered),
        _words("yes or no", "yes", "no"),
        _words("yes, no or maybe", "yes", "no", "maybe"),
        _words("mood", "negative", "neutral", "positive"),
    )
}
"""Every form by its name. The instructions are the project's own words."""

FORM_OF: Mapping[str, str] = {
    "gsm8k": "number", "svamp": "number",
    "medqa": "letter", "medmcqa": "letter", "mmlu": "letter",
    "pubmedqa": "yes, no or maybe", "headline": "yes or no",
    "financial-phrasebank": "mood", "fiqa-sa": "mood",
}  # fmt: skip
"""The form of every published set that has answers."""


@dataclass(frozen=True, eq=False)
class Task:
    """Prompts that all have an answer, and the form it is asked in."""

    name: str
    prompts: PromptSet
    form: Form

    def __post_init__(self) -> None:
        lacking = [p.source or f"row {i}" for i, p in enumerate(self.prompts, start=1) if p.answer is None]
        if lacking:
            shown = ", ".join(lacking[:5]) + (", ..." if len(lacking) > 5 else "")
            raise ValueError(
                f"task {self.name!r}: {len(lacking)} of {len(self.prompts)} prompts have no answer ({shown}): a task "
                "needs one for each; take the part that has them, or give the file a column or a field of answers"
            )

    @property
    def asked(self) -> PromptSet:
        """The prompts as they are put to a model."""
        return PromptSet(self.prompts.name, tuple(map(self._asked, self.prompts)))

    def _asked(self, prompt: Prompt) -> Prompt:
        told = self.form.instruction
        if not told or any(role == "system" for role, _ in prompt.messages):
            return prompt
        # Not as a system message, which some chat templates refuse.
        *before, (role, question) = prompt.messages
        return replace(prompt, messages=(*before, (role, f"{question}\n\n{told}")))

    def sample(self, n: int, *, seed: int = 0) -> "Task":
        """`n` of its prompts, drawn without replacement."""
        return Task(self.name, self.prompts.sample(n, seed=seed), self.form)


def load_task(
    name: str,
    path: str | Path | None = None,
    *,
    root: str | Path | None = None,
    hub: bool = False,
    form: str | None = None,
) -> Task:
    """A task from a published set (`gsm8k`, `medqa`, `pubmedqa`, ...), or from a JSON-lines file of your own.

    Sets are found as by `load_published`. A file of your own (`load_prompts` says what a line is) is
    `load_task("mine", "mine.jsonl", form="letter")`, the form one of `FORMS`.

    Raises `ValueError` for a prompt without an answer, by its row; for a name that is no set and has no form.
    """
    if form is not None and form not in FORMS:
        raise ValueError(f"got form {form!r}, expected one of {', '.join(FORMS)}")
    published = name.partition(":")[0]
    if published in FORM_OF:
        chosen = FORMS[form or FORM_OF[published]]
        return Task(name, load_published(name, path, root=root, hub=hub), chosen)
    if path is None or form is None:
        raise ValueError(
            f"got task {name!r}, expected one of {', '.join(FORM_OF)}; or a file of your own with a form: "
            f'load_task({name!r}, "questions.jsonl", form="letter")'
        )
    return Task(name, load_prompts(path, name), FORMS[form])
