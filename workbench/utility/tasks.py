"""Tasks with one right answer: prompts, how they are to be answered, and how an answer is read.

    by generation    the reply is read as its `Form` says; what names no answer is unanswered, counted, and not right
    by likelihood    every option is scored as the reply; the likeliest is the answer, in all or per character

The trap: what is asked for decides what is measured. A model that was never told to say "#### 18" is marked down by a
strict reading for its manners. So the format is asked for, and the lenient reading stands beside the strict one.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
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
from workbench.published.lookup import find_file, open_as, published_set

_BARE = re.compile(r"[-−]?[\d,]*\.?\d+")
_OPTION = re.compile(rf"^([{LETTERS}])\.(?: (.*))?$", re.M)
"""An option's line, as `workbench.published` writes them all."""


@dataclass(frozen=True)
class Form:
    """How a task wants its answers.

    `instruction` follows the question, unless a system message of the set's own says how to answer; `lenient` is a
    second reading that is told beside the first; `options` are the answers that likelihood chooses from, each with the
    reply that is scored for it; `classes` asks for an F1, too. `answer` writes an answer of the file as `read` says
    it, None for what is no answer of this form.
    """

    name: str
    instruction: str
    read: Reading
    lenient: Reading | None = None
    options: Callable[[Prompt], Mapping[str, str]] | None = None
    classes: tuple[str, ...] = ()
    answer: Callable[[str], str | None] = str.strip


def letters(prompt: Prompt) -> Mapping[str, str]:
    """The letters of the options that a prompt lists, each its own reply. Raises as `texts` does."""
    return {letter: letter for letter in _lettered(prompt)}


def texts(prompt: Prompt) -> Mapping[str, str]:
    """The letters of the options that a prompt lists, with their texts as replies.

    Raises `ValueError` where it does not list two or more, A, B and so on, a line each; or one without a text.
    """
    found = _lettered(prompt)
    if empty := [letter for letter, text in found.items() if not text]:
        raise ValueError(
            f"prompt {prompt.source!r} has no text for option {', '.join(empty)}, and that cannot be scored: score the "
            'letters, form="letter"'
        )
    return found


def _lettered(prompt: Prompt) -> dict[str, str]:
    # The last list of options: a question may have one of its own.
    lines = _OPTION.findall(prompt.text)
    begins = max((i for i, (letter, _) in enumerate(lines) if letter == "A"), default=0)
    found = dict(lines[begins:])
    if len(found) < 2 or "".join(found) != LETTERS[: len(found)]:
        raise ValueError(
            f"prompt {prompt.source!r} lists options {', '.join(found) or 'none'}, expected lines that begin with "
            '"A. ", "B. " and so on'
        )
    return {letter: text.strip() for letter, text in found.items()}


def _number(answer: str) -> str | None:
    bare = answer.strip().lstrip("$€£")
    return marked_number(f"#### {bare}\n", True) if _BARE.fullmatch(bare) else None


def _letter(answer: str) -> str | None:
    bare = answer.strip().upper()
    return bare if len(bare) == 1 and bare in LETTERS else None


def _words(name: str, *words: str) -> Form:
    *others, last = words
    asked = f"Answer with one word: {', '.join(others)} or {last}."

    def known(answer: str) -> str | None:
        bare = answer.strip().lower()
        return bare if bare in words else None

    return Form(
        name, asked, one_of(*words), options=lambda _: dict(zip(words, words, strict=True)), classes=words,
        answer=known,
    )  # fmt: skip


FORMS: Mapping[str, Form] = {
    each.name: each
    for each in (
        Form("last word", "", last_word),
        Form(
            "number",
            "Solve the problem step by step. End with a line that has #### and the answer as a number.",
            marked_number,
            lenient=last_number,
            answer=_number,
        ),
        Form(
            "letter",
            "Answer with the letter of the right option alone.",
            letter,
            options=letters,
            answer=_letter,
        ),
        Form(
            "option",
            "Answer with the letter of the right option alone.",
            letter,
            options=texts,
            answer=_letter,
        ),
        _words("yes or no", "yes", "no"),
        _words("yes, no or maybe", "yes", "no", "maybe"),
        _words("mood", "negative", "neutral", "positive"),
    )
}
"""Every form by its name. The instructions are the project's own words.

"letter" and "option" are one by generation; by likelihood the one scores the letters, the other the options' texts.
"""

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
        named = [
            (prompt, f"row {i}" + (f", {prompt.source}" if prompt.source else ""))
            for i, prompt in enumerate(self.prompts, start=1)
        ]
        if lacking := [where for prompt, where in named if prompt.answer is None]:
            raise ValueError(
                f"task {self.name!r}: {len(lacking)} of {len(self.prompts)} prompts have no answer "
                f"({_listed(lacking)}): a task needs one for each; take the part that has them, or give the file a "
                "column or a field of answers"
            )
        if strange := [
            f"{where}: {prompt.answer!r}"
            for prompt, where in named
            if self.form.answer(str(prompt.answer)) is None
        ]:
            wanted = f", one of {', '.join(self.form.classes)}" if self.form.classes else ""
            raise ValueError(
                f"task {self.name!r}: {len(strange)} of {len(self.prompts)} answers are none of the form "
                f"{self.form.name!r}{wanted} ({_listed(strange)}), and no reply could be right: mend them, or choose "
                f"another form, one of {', '.join(map(repr, FORMS))}"
            )

    @cached_property
    def answers(self) -> tuple[str, ...]:
        """The answer to every prompt, as replies are read."""
        return tuple(str(self.form.answer(str(prompt.answer))) for prompt in self.prompts)

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

    Raises `ValueError` for a prompt without an answer, or with one that its form does not know, by its row; for a name
    that is no set and has no form.
    """
    if form is not None and form not in FORMS:
        raise ValueError(f"got form {form!r}, expected one of {', '.join(FORMS)}")
    published = name.partition(":")[0]
    if published in FORM_OF:
        chosen = FORMS[form or FORM_OF[published]]
        prompts = load_published(name, path, root=root, hub=hub)
        if not hub and any(prompt.answer is None for prompt in prompts):
            raise _without_answers(name, path, root)
        return Task(name, prompts, chosen)
    if path is None or form is None:
        raise ValueError(
            f"got task {name!r}, expected one of {', '.join(FORM_OF)}; or a file of your own with a form: "
            f'load_task({name!r}, "questions.jsonl", form="letter")'
        )
    return Task(name, load_prompts(path, name), FORMS[form])


def task_of(text: str) -> Task:
    """The task that a line of settings names: `SET=PATH`, or `NAME=PATH:FORM` for a file of one's own.

    PATH is a file, or for a set the folder that it lies in. Raises `ValueError` for a text that is neither.
    """
    name, _, where = text.partition("=")
    if name.partition(":")[0] in FORM_OF and where:
        return load_task(name, root=where) if Path(where).is_dir() else load_task(name, where)
    path, _, form = where.rpartition(":")
    if form not in FORMS or not path:
        raise ValueError(
            f"got task {text!r}, expected SET=PATH with one of {', '.join(FORM_OF)}, or NAME=PATH:FORM with one of "
            f"{', '.join(FORMS)}"
        )
    return load_task(name, path, form=form)


def _without_answers(name: str, path: str | Path | None, root: str | Path | None) -> ValueError:
    """The error for a file whose rows have prompts and lack answers, with their places in it."""
    entry, part = published_set(name)
    file = Path(path) if path is not None else find_file(entry, part, str(root))
    table, layout = open_as(file, entry)
    read = ((row.place, layout.read(row.fields)) for row in table.rows if not row.blank)
    made = ((place, (found,) if isinstance(found, Prompt) else found) for place, found in read)
    lacking = [place for place, prompts in made if any(prompt.answer is None for prompt in prompts)]
    others = ", ".join(each.name for each in entry.parts if each != part)
    return ValueError(
        f"{file}: {len(lacking)} rows have no answer ({_listed(lacking)}), and a task needs one for each: take a part "
        f"that has them ({others or 'there is no other'}), or leave these rows out"
    )


def _listed(places: list[str]) -> str:
    return ", ".join(places[:5]) + (", ..." if len(places) > 5 else "")
