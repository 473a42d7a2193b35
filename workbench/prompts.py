"""Prompts, sets of prompts, and contrast sets whose parts are kept apart.

A prompt is a short conversation that ends with a user's message. A contrast set has harmful and harmless
prompts for making vectors, others for making choices, and others again for claims.

The trap: a choice made on the prompts a claim rests on flatters the claim. Hence three parts that may share
no prompt.
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import Any

from workbench.folds import deal
from workbench.images import Image, ImageLike
from workbench.provenance import content_hash, write_safely

LABELS = ("harmful", "harmless", "contrast", "jailbroken", "domain", "unlabelled")
ATTACKS = ("harmful", "jailbroken")  # what a safe model should refuse
ROLES = ("system", "user", "assistant")
SLOT = "<image>"
"""Marks the place of an image in a message, whatever a model's own token for it is."""


@dataclass(frozen=True)
class Prompt:
    """One conversation that waits for a reply.

    `messages` are (role, content) pairs, the last one the user's. `source` says where the prompt comes from
    and tells it apart in messages; `cluster` names what it shares with others (verb, object, category,
    wrapper), for intervals; `answer` is the expected reply, where there is one. `images` stand where the messages say
    `<image>`, in order, or, where none does, before the last message's words.
    """

    messages: tuple[tuple[str, str], ...]
    label: str = "unlabelled"
    source: str = ""
    cluster: tuple[tuple[str, str], ...] = ()
    answer: str | None = None
    images: tuple[Image, ...] = ()

    def __post_init__(self) -> None:
        where = f"prompt {self.source!r}"
        if self.label not in LABELS:
            raise ValueError(f"{where}: got label {self.label!r}, expected one of {', '.join(LABELS)}")
        if not self.messages or self.messages[-1][0] != "user":
            raise ValueError(
                f"{where}: expected messages that end with the user's: a model replies to that one"
            )
        for role, _ in self.messages:
            if role not in ROLES:
                raise ValueError(f"{where}: got role {role!r}, expected one of {', '.join(ROLES)}")
        if not (isinstance(self.images, tuple) and all(isinstance(image, Image) for image in self.images)):
            raise TypeError(
                f"{where}: got images={self.images!r}, expected a tuple of wb.Image: Prompt.user(text, images=[PATH]) "
                "reads them"
            )
        if self.images and self.slots not in (0, len(self.images)):
            raise ValueError(
                f"{where}: got {len(self.images)} images for {self.slots} places, marked {SLOT}: mark one for each "
                "image, or none, and they stand before the last message"
            )

    @classmethod
    def user(
        cls,
        text: str,
        *,
        label: str = "unlabelled",
        source: str = "",
        cluster: tuple[tuple[str, str], ...] = (),
        answer: str | None = None,
        images: Sequence[ImageLike] = (),
    ) -> "Prompt":
        """A prompt of one user message, with images by their paths, or as PIL holds them."""
        if isinstance(images, str | Path):
            raise TypeError(f"got images={str(images)!r}, expected a list of images: pass [{str(images)!r}]")
        shown = tuple(Image.of(image, f"image {i} of {source or text!r}") for i, image in enumerate(images))
        return cls((("user", text),), label, source, cluster, answer, shown)

    @property
    def slots(self) -> int:
        """How many places for images the messages mark."""
        return sum(content.count(SLOT) for _, content in self.messages)

    @property
    def text(self) -> str:
        """The last user message."""
        return self.messages[-1][1]

    @property
    def harmful(self) -> bool:
        """Whether a safe model should refuse it, plain or wrapped in a jailbreak."""
        return self.label in ATTACKS

    def with_system(self, text: str) -> "Prompt":
        """The same prompt under the system message `text`, which replaces an earlier one."""
        kept = tuple(message for message in self.messages if message[0] != "system")
        return replace(self, messages=(("system", text), *kept))


@dataclass(frozen=True)
class PromptSet:
    """An ordered, named, non-empty set of prompts."""

    name: str
    prompts: tuple[Prompt, ...]

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ValueError(f"prompt set {self.name!r} is empty: expected at least one prompt")

    @classmethod
    def from_texts(cls, name: str, texts: Sequence[str], label: str = "unlabelled") -> "PromptSet":
        """One single-message prompt per text; each prompt's source is the set's name and its number."""
        if isinstance(texts, str):
            raise TypeError(f"got the text {texts!r}, expected a list of texts: pass [{texts!r}]")
        return cls(
            name, tuple(Prompt.user(text, label=label, source=f"{name}:{i}") for i, text in enumerate(texts))
        )

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)

    def __getitem__(self, index: int) -> Prompt:
        return self.prompts[index]

    def __add__(self, other: "PromptSet") -> "PromptSet":
        return PromptSet(f"{self.name}+{other.name}", self.prompts + other.prompts)

    @cached_property
    def hash(self) -> str:
        """A hash of every prompt with its label, in order; the name does not count."""
        told = (_as_json(prompt, [image.hash for image in prompt.images]) for prompt in self.prompts)
        return content_hash(*map(json.dumps, told))

    @property
    def labels(self) -> tuple[str, ...]:
        """The label of every prompt, in order."""
        return tuple(prompt.label for prompt in self.prompts)

    def where(self, predicate: Callable[[Prompt], bool]) -> "PromptSet":
        """The prompts for which `predicate` holds, in order."""
        return PromptSet(self.name, tuple(prompt for prompt in self.prompts if predicate(prompt)))

    def labelled(self, *labels: str) -> "PromptSet":
        """The prompts with one of `labels`, in order."""
        kept = tuple(prompt for prompt in self.prompts if prompt.label in labels)
        if not kept:
            present = ", ".join(sorted(set(self.labels)))
            raise ValueError(
                f"prompt set {self.name!r} has none labelled {', '.join(labels)}: it has {present}"
            )
        return PromptSet(self.name, kept)

    def sample(self, n: int, *, seed: int) -> "PromptSet":
        """`n` prompts drawn without replacement, in the set's order."""
        if not 0 < n <= len(self):
            raise ValueError(
                f"prompt set {self.name!r} has {len(self)} prompts, got n={n}: draw 1 to {len(self)}"
            )
        chosen = sorted(random.Random(seed).sample(range(len(self)), n))
        return PromptSet(self.name, tuple(self.prompts[i] for i in chosen))

    def sample_each(self, sizes: int | Mapping[str, int], *, seed: int = 0) -> "PromptSet":
        """At most so many prompts of each label, label by label: one number for all, or one for each that is wanted."""
        wanted = sizes if isinstance(sizes, Mapping) else dict.fromkeys(self.labels, sizes)
        drawn: list[Prompt] = []
        for label, size in wanted.items():
            if label in self.labels:
                part = self.labelled(label)
                drawn += part.sample(min(size, len(part)), seed=seed)
        return PromptSet(self.name, tuple(drawn))

    def folds(
        self, n: int, *, seed: int = 0, apart: str | None = None
    ) -> tuple[tuple["PromptSet", "PromptSet"], ...]:
        """`n` pairs, all but a fold and that fold: each prompt is in one fold, each fold has its share of each label.

        Folds are drawn at random, by `seed`, and keep the set's order. Equal prompts stay together; `apart` names a
        cluster (verb, say) whose prompts do too, so that a fold's verbs are in that fold alone. Prompts that have no
        such cluster are one.

        Raises `ValueError` where a label has too few to go round.
        """
        keys = [dict(prompt.cluster).get(apart) if apart else prompt.messages for prompt in self]
        what = f"prompt set {self.name!r}" + (f" by {apart}" if apart else "")
        dealt = deal(n, labels=self.labels, keys=keys, seed=seed, what=what)

        def part(name: str, kept: Sequence[bool]) -> PromptSet:
            return PromptSet(f"{self.name}.{name}", tuple(compress(self.prompts, kept)))

        return tuple(
            (part(f"rest{k}", [fold != k for fold in dealt]), part(f"fold{k}", [fold == k for fold in dealt]))
            for k in range(n)
        )

    def save(self, path: str | Path) -> None:
        """Write JSON lines, one prompt a line, and their images into a folder beside; `load_prompts` reads them."""
        path = Path(path)
        beside = path.with_name(f"{path.stem}-images")
        named = {
            image: f"{beside.name}/{image.hash}{image.suffix}" for p in self.prompts for image in p.images
        }
        if named:
            beside.mkdir(parents=True, exist_ok=True)
        for image, name in named.items():
            write_safely(path.parent / name, image.data)
        lines = [_as_json(prompt, [named[image] for image in prompt.images]) for prompt in self.prompts]
        write_safely(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())


def as_prompt_set(prompts: PromptSet | Sequence[Prompt | str], name: str = "prompts") -> PromptSet:
    """A `PromptSet` from whatever a verb accepts: a set, a list of prompts, a list of texts."""
    if isinstance(prompts, PromptSet):
        return prompts
    if isinstance(prompts, str):
        raise TypeError(f"got the text {prompts!r}, expected a list of prompts: pass [{prompts!r}]")
    made = (Prompt.user(p, source=f"{name}:{i}") if isinstance(p, str) else p for i, p in enumerate(prompts))
    return PromptSet(name, tuple(made))


@dataclass(frozen=True)
class ContrastSet:
    """Harmful and harmless prompts in three disjoint parts: no choice is made on what a claim rests on.

    `train` makes vectors and the paper's bias, and has harmful and harmless prompts only; `val` is for
    choices (layers, strength, stricter bias); `test` is read once, for claims. The last two may hold every
    label.
    """

    name: str
    train: PromptSet
    val: PromptSet
    test: PromptSet

    def __post_init__(self) -> None:
        found = set(self.train.labels)
        if found != {"harmful", "harmless"}:
            raise ValueError(
                f"contrast set {self.name!r}: .train has {', '.join(sorted(found))}, expected harmful and "
                "harmless prompts, both and nothing else: a vector is the difference of the two"
            )
        if not any(part.endswith(".test") for part in self.test.name.split("+")):
            # By this name a sweep knows what no setting is chosen on.
            object.__setattr__(self, "test", replace(self.test, name=f"{self.name}.test"))
        parts = {part: vars(self)[part] for part in ("train", "val", "test") if part in vars(self)}
        seen: dict[object, str] = {}
        for part, prompts in parts.items():
            for prompt in prompts:
                asked = prompt.messages, prompt.images
                if seen.setdefault(asked, part) != part:
                    raise ValueError(
                        f"contrast set {self.name!r}: {prompt.text!r} is in .{seen[asked]} "
                        f"and in .{part}: keep it in one part only"
                    )

    def folds(self, n: int, *, seed: int = 0, apart: str | None = None) -> tuple["ContrastSet", ...]:
        """Cross-fitting: `n` sets that extract from all but a fold of `.train` and choose on that fold.

        They are dealt as `PromptSet.folds` says, share `.test`, and leave this set's `.val` out, where it has one. Once
        all is chosen, refit on the whole of `.train`.
        """
        parts = self.train.folds(n, seed=seed, apart=apart)
        return tuple(
            ContrastSet(f"{self.name}.fold{k}", rest, fold, self.test) for k, (rest, fold) in enumerate(parts)
        )


def load_prompts(path: str | Path, name: str | None = None) -> PromptSet:
    """The prompts of a JSON-lines file; the set is named after the file unless `name` is given.

    A line is `{"messages": [{"role": …, "content": …}], "label": …, "source": …, "cluster": {…}, "answer":
    …, "images": [PATH, …]}`; only `messages` must be there, and paths begin where the file lies.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no prompt file {path}: check the path, or save a PromptSet there first")
    prompts = []
    # Bytes, so that a line that is no UTF-8 can be told by its number.
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                prompts.append(_from_json(json.loads(line.decode("utf-8")), path.parent))
            except FileNotFoundError as error:
                raise FileNotFoundError(f"{path}, line {number}: {error}") from error
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{path}, line {number}: {error}: expected one JSON object "
                    '{"messages": [{"role": ..., "content": ...}], "label": ...} a line, in UTF-8'
                ) from error
    return PromptSet(name or path.stem, tuple(prompts))


def _names(images: Any) -> list[str]:
    if not isinstance(images, list):
        raise ValueError(f"got images {images!r}, expected a list of paths")
    return images


def _as_json(prompt: Prompt, images: Sequence[str]) -> dict[str, Any]:
    told = {
        "messages": [{"role": role, "content": content} for role, content in prompt.messages],
        "label": prompt.label,
        "source": prompt.source,
        "cluster": dict(prompt.cluster),
        "answer": prompt.answer,
    }
    return {**told, "images": list(images)} if images else told


def _from_json(data: Any, folder: Path) -> Prompt:
    prompt = Prompt(
        messages=tuple((message["role"], message["content"]) for message in data["messages"]),
        label=data.get("label", "unlabelled"),
        source=data.get("source", ""),
        cluster=tuple(data.get("cluster", {}).items()),
        answer=data.get("answer"),
        images=tuple(Image.read(folder / name) for name in _names(data.get("images") or [])),
    )
    texts = [("content", content) for _, content in prompt.messages]
    texts += [("source", prompt.source), *prompt.cluster, ("answer", prompt.answer or "")]
    for name, text in texts:
        if not isinstance(text, str):
            raise ValueError(f"got {name} {text!r}, expected a text")
    return prompt
