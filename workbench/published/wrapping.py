"""Requests inside jailbreak templates: every request in every template.

    10 templates x 50 harmful prompts = 500 jailbroken ones                                               (the paper)

A template with a placeholder has the request in its place; one without is said before the request, as the prompts that
people shared are.

The trap: a placeholder that is not known is left standing, and the request comes after it. Name it with `placeholder=`,
and a template without it is refused.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from workbench.prompts import Prompt, PromptSet, as_prompt_set
from workbench.published.tables import open_table

PLACEHOLDERS = (
    "[INSERT PROMPT HERE]",
    "[PROMPT]",
    "{prompt}",
    "{request}",
    "{goal}",
    "{instruction}",
    "{query}",
)
"""What stands for the request in a template, in any case: GPTFuzz's, the wild ones', and those of format strings."""


def load_templates(path: str | Path, *, placeholder: str | None = None) -> PromptSet:
    """The templates of any table, JSON or text file (one a line): the one column in which a placeholder stands.

    Raises `ValueError` for a file without a placeholder, and for one that has them in several columns.
    """
    path = Path(path)
    found: dict[str, list[Prompt]] = {}
    for row in open_table(path, fallback="latin-1").rows:
        if row.damage:
            raise ValueError(f"{path}, {row.place}: {row.damage}")
        for column, cell in row.fields.items():
            if isinstance(cell, str) and cell.strip():
                source = f"{path.stem}:{row.fields.get('id') or row.number}"
                found.setdefault(column, []).append(Prompt.user(cell.strip(), source=source))
    placed = _pattern(placeholder)
    having = [column for column, cells in found.items() if any(placed.search(cell.text) for cell in cells)]
    if len(having) != 1:
        raise ValueError(
            f"{path}: got a placeholder in {', '.join(having) or 'no column'}, expected it in one: "
            f"{placeholder or ', '.join(PLACEHOLDERS)}; name another with placeholder="
        )
    return PromptSet(path.stem, tuple(found[having[0]]))


def wrap(
    prompts: PromptSet | Sequence[Prompt | str],
    templates: PromptSet | Sequence[Prompt | str],
    *,
    placeholder: str | None = None,
    name: str = "jailbroken",
) -> PromptSet:
    """Every prompt in every template: a harmful one becomes a jailbroken one, others keep their label.

    `templates` are a set (`load_published("gptfuzz", ...)`, `load_templates(...)`) or texts. The last user message is
    wrapped. Its clusters stay; `wrapper` names the template, or the kind that it brings as a cluster of that name, and
    `prompt` the prompt, which all its wrappings share. With `placeholder` that one stands for the request, and in every
    template.
    """
    placed = _pattern(placeholder)
    wrappers = as_prompt_set(templates, "template")
    for template in wrappers:
        if placeholder is not None and not placed.search(template.text):
            raise ValueError(
                f"template {template.source!r} has no {placeholder!r}: take it out, or leave placeholder= out"
            )
    asked = as_prompt_set(prompts, name)
    return PromptSet(
        name, tuple(_wrapped(prompt, template, placed) for prompt in asked for template in wrappers)
    )


def _wrapped(prompt: Prompt, template: Prompt, placed: re.Pattern[str]) -> Prompt:
    text, found = placed.subn(lambda _: prompt.text, template.text)
    kind = dict(template.cluster).get("wrapper", template.source)
    own = tuple(pair for pair in prompt.cluster if pair[0] not in ("wrapper", "prompt"))
    return replace(
        prompt,
        messages=(*prompt.messages[:-1], ("user", text if found else f"{text}\n\n{prompt.text}")),
        label="jailbroken" if prompt.label == "harmful" else prompt.label,
        source=f"{prompt.source} in {template.source}",
        cluster=(*own, ("wrapper", kind), ("prompt", prompt.source)),
    )


def _pattern(placeholder: str | None) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, [placeholder] if placeholder else PLACEHOLDERS)), re.IGNORECASE)
