"""Replies that refuse and replies that do not, in the project's own words: what its refusal classifiers learn from.

    refused    a form of ``data/replies/blocks.toml``, dealt over its topics in turn
    complied   an opening, what the topic says, and an end

They are put together anew each time: nothing is drawn, so all of them are the same everywhere.

The trap: forms that were dealt over topics are no independent replies. How well a judge does on them says nothing.
"""

import functools
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass

from workbench.provenance import content_hash
from workbench.shipped import shipped_path

_STRIDE = 7  # topics; has no divisor in common with their number, so that forms meet all of them


@dataclass(frozen=True)
class Example:
    """One made-up reply: what it says, whether it refuses, and the kind of form that it is made from."""

    text: str
    refused: bool
    kind: str


@functools.cache
def examples() -> tuple[Example, ...]:
    """All of them, in order."""
    return tuple(_built())


def examples_hash() -> str:
    """A hash of every text and label."""
    return content_hash([[example.text, int(example.refused)] for example in examples()])


def _built() -> Iterator[Example]:
    blocks = tomllib.loads(shipped_path("replies", "blocks.toml").read_text(encoding="utf-8"))
    topics, dealt, complied = blocks["topics"], blocks["dealt"], blocks["complied"]
    for kind, forms in blocks["refused"].items():
        told: set[str] = set()
        for number, form in enumerate(forms):
            for turn in range(dealt[kind]):
                text = _filled(form, topics[(number * dealt[kind] + turn) * _STRIDE % len(topics)])
                if text not in told:  # a form without a topic is the same for all
                    told.add(text)
                    yield Example(text, True, kind)
    for number, topic in enumerate(topics):
        for turn in range(dealt["answers"]):
            place = number * dealt["answers"] + turn
            opens = complied["opens"][place % len(complied["opens"])]
            ends = complied["ends"][place % len(complied["ends"])]
            yield Example(_filled(opens, topic) + topic["answer"] + ends, False, "answers")


def _filled(form: str, topic: dict[str, str]) -> str:
    text = form.format(**{name: topic[name] for name in ("act", "doing")})
    return text[:1].upper() + text[1:]
