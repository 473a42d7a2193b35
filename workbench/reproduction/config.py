"""A reproduction as a file: models by target, prompts, a judge and conditions, in TOML, checked key by key.

    [targets.NAME]     the model to make safe, its companions, its utility task, and whose numbers stand beside it

The trap: a misspelt key would be a default in silence, and hours later a table of something else. A key that is not
known is refused, a value of another kind too, and what a file names is looked for, all before anything is loaded.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from workbench.evaluation.conditions import TITLES, Who
from workbench.evaluation.defences import WORDINGS
from workbench.prompts import LABELS
from workbench.reproduction.paper import PAPER, PICTURED, SECONDS_PER_1000, PaperNumbers

Kind: TypeAlias = Literal["table1", "scale", "adaptability", "ablation", "cost", "mm"]
SSV_SUBTRACTED = "ssv_subtracted"
"""The condition that the ablation has beside those of the table."""
COMPANIONS: tuple[str, ...] = get_args(Who)[1:]
"""Other checkpoints of a target, each a condition of that name."""
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Target:
    """One model to make safe. `aligned` stands in for the file's, `paper` is a key of `paper.PAPER`."""

    name: str
    model: str
    companions: Mapping[str, str] = field(default_factory=dict)
    aligned: str | None = None
    utility: str | None = None
    paper: str | None = None
    paper_alpha: float | None = None


@dataclass(frozen=True)
class Prompts:
    """Which prompts: a set that ships (`pairs`), or two published ones with jailbreak templates.

    `bench` is a set of questions with pictures, which are then all of the test: a published one below `root`, a file of
    prompts, or "pictured", which ships. `sample` and `search` are at most so many of each label, of what is asked in
    the end and of what settings are tried on; without them it is all.
    """

    pairs: str | None = None
    harmful: str | None = None
    harmless: str | None = None
    root: str | None = None
    hub: bool = False
    bench: str | None = None
    n_train: int = 64
    folds: int = 8
    templates: str | None = None
    n_templates: int = 10
    n_jailbroken: int = 50
    sample: Mapping[str, int] | None = None
    search: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Experiment:
    """A reproduction as its file says it, word for word in `text`; `judge_settings` is what a table [judge] adds.

    `timed`: on how many test prompts a run with pictures times its conditions, as a run about cost does; none without.
    """

    kind: Kind
    targets: tuple[Target, ...]
    prompts: Prompts
    judge: str
    judge_settings: Mapping[str, Any] = field(default_factory=dict)
    aligned: str | None = None
    conditions: tuple[str, ...] | None = None
    max_new_tokens: int = 256
    min_auroc: float = 0.95
    rounds: int = 5
    timed: int | None = None
    seed: int = 0
    batch_size: int | None = None
    dtype: str = "float32"
    device_map: str | None = None
    template: str | None = None
    wording: str | None = None
    text: str = field(default="", repr=False)

    def aligned_of(self, target: Target) -> str:
        """The aligned model whose vectors steer a target."""
        return target.aligned or str(self.aligned)


def read_experiment(path: str | Path, kind: Kind) -> Experiment:
    """The experiment in a TOML file.

    Raises `ValueError` for a file that is no TOML, for keys that are not known or missing, and for values of another
    kind; `FileNotFoundError` where there is none.
    """
    path = Path(path)
    example = f"workbench reproduce {kind} --example"
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: write one, {example} > {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no TOML ({error}): compare it with {example}") from error
    targets, prompts = content.pop("targets", None), content.pop("prompts", None)
    for name, table in (("targets.NAME", targets), ("prompts", prompts)):
        if not isinstance(table, dict) or not table:
            raise ValueError(f"{path} has no table [{name}]: compare it with {example}")
    settings: dict[str, Any] = {}
    if isinstance(content.get("judge"), dict):
        settings = dict(content["judge"])
        content["judge"] = settings.pop("name", None)
    _require(path, "", content, Experiment, but=("kind", "targets", "prompts", "text", "judge_settings"))
    _require(path, " in [prompts]", prompts, Prompts)
    if isinstance(content.get("conditions"), list):
        content["conditions"] = tuple(content["conditions"])
    found = Experiment(
        kind=kind,
        targets=tuple(_target(path, name, table) for name, table in targets.items()),
        prompts=Prompts(**prompts),
        judge_settings=settings,
        text=text,
        **content,
    )
    _require_sense(path, found)
    return found


def _target(path: Path, name: str, table: Any) -> Target:
    where = f" in [targets.{name}]"
    if not isinstance(table, dict):
        raise ValueError(f"{path}: got targets.{name} = {table!r}, expected a table [targets.{name}]")
    companions = {who: table[who] for who in COMPANIONS if who in table}
    rest = {key: value for key, value in table.items() if key not in companions}
    _require(path, where, rest, Target, but=("name", "companions"), also=COMPANIONS)
    for who, model in companions.items():
        if not isinstance(model, str):
            raise ValueError(f"{path}: got {who} = {model!r}{where}, expected a name in quotes")
    return Target(name, companions=companions, **rest)


def _require(
    path: Path,
    where: str,
    found: Mapping[str, Any],
    noun: type,
    *,
    but: Sequence[str] = (),
    also: Sequence[str] = (),
) -> None:
    """Refuse keys that are not known, missing ones, and values of another kind."""
    known = {f.name: f for f in fields(noun) if f.name not in but}
    if unknown := sorted(set(found) - set(known)):
        raise ValueError(
            f"{path}: got {', '.join(unknown)}{where}, expected some of {', '.join([*known, *also])}"
        )
    required = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in required if name not in found]:
        raise ValueError(f"{path} does not say {', '.join(missing)}{where}")
    for name, value in found.items():
        right, expected = _KINDS[name]
        if not right(value):
            raise ValueError(f"{path}: got {name} = {value!r}{where}, expected {expected}")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _at_least(least: int) -> Callable[[Any], bool]:
    return lambda value: _whole(value) and value >= least


def _number(value: Any) -> bool:
    return _whole(value) or isinstance(value, float)


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _sizes(value: Any) -> bool:
    labelled = isinstance(value, dict) and bool(value) and set(value) <= set(LABELS)
    return labelled and all(map(_at_least(1), value.values()))


_NAME = (_text, "a name in quotes")
_SIZES = (_sizes, f"numbers by label, {{ harmful = 40 }}, of {', '.join(LABELS)}")
_POSITIVE = (_at_least(1), "a whole number, 1 or more")
_CONDITIONS = (*TITLES, SSV_SUBTRACTED)
_PAPERS = tuple(dict.fromkeys((*PAPER, *PICTURED, *SECONDS_PER_1000)))
_KINDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("model", "aligned", "utility", "pairs", "harmful", "harmless", "root"), _NAME),
    **dict.fromkeys(("templates", "template", "bench"), _NAME),
    "device_map": (lambda value: value == "auto", '"auto", over all devices there are'),
    "judge": (_text, "a name in quotes, or a table [judge] with a name and its settings"),
    **dict.fromkeys(("sample", "search"), _SIZES),
    **dict.fromkeys(
        ("n_train", "n_templates", "n_jailbroken", "max_new_tokens", "batch_size", "rounds", "timed"),
        _POSITIVE,
    ),
    "folds": (_at_least(2), "a whole number, 2 or more"),
    "seed": (_whole, "a whole number"),
    "hub": (lambda value: isinstance(value, bool), "true or false"),
    "min_auroc": (lambda value: _number(value) and 0 <= value <= 1, "a number from 0 to 1"),
    "paper_alpha": (
        lambda value: _number(value) and 0 < value < float("inf"),
        "a number above 0, the length of the shift: below 0 it undoes refusals",
    ),
    "wording": (lambda value: value in WORDINGS, f"one of {', '.join(WORDINGS)}"),
    "dtype": (lambda value: value in DTYPES, f"one of {', '.join(DTYPES)}"),
    "paper": (lambda value: isinstance(value, str) and value in _PAPERS, f"one of {', '.join(_PAPERS)}"),
    "conditions": (
        lambda value: isinstance(value, list) and bool(value) and set(map(str, value)) <= set(_CONDITIONS),
        f"a list of some of {', '.join(_CONDITIONS)}",
    ),
}


def _require_sense(path: Path, found: Experiment) -> None:
    """Refuse what each key alone may say, but not all of them together."""
    prompts = found.prompts
    for name, sizes in (("sample", prompts.sample), ("search", prompts.search)):
        if sizes is None:
            continue
        if "domain" not in sizes and any(target.utility for target in found.targets):
            raise ValueError(
                f"{path}: got {name} in [prompts] without domain, beside a target's utility, which it would leave out: "
                f"{name} = {{ ..., domain = 40 }}"
            )
        if "harmful" not in sizes:
            raise ValueError(
                f"{path}: got {name} in [prompts] without harmful, and nothing can be told without"
            )
    if (prompts.pairs is None) == (prompts.harmful is None):
        raise ValueError(
            f"{path}: got {'neither' if prompts.pairs is None else 'both'} pairs and harmful in [prompts], expected "
            'one: pairs = "small-world", or harmful and harmless beside it'
        )
    if prompts.harmful is not None and prompts.harmless is None:
        raise ValueError(f"{path} does not say harmless in [prompts]: a vector is a difference of two kinds")
    if prompts.harmful is not None and prompts.root is None and not prompts.hub:
        raise ValueError(
            f"{path} does not say where {prompts.harmful} is: root = FOLDER in [prompts], or hub = true to fetch it"
        )
    _require_pictures(path, found)
    unread = ("harmless", "templates") if prompts.bench else ("harmless", "root", "templates")
    idle = [n for n in unread if prompts.pairs and getattr(prompts, n) is not None]
    if idle:
        raise ValueError(
            f"{path}: got {', '.join(idle)} beside pairs in [prompts], expected neither: what ships has all of it"
        )
    for target in found.targets:
        papers = _papers(found.kind)
        if target.paper is not None and target.paper not in papers:
            raise ValueError(
                f"{path}: got paper = {target.paper!r} in [targets.{target.name}], expected one of "
                f"{', '.join(papers)}: the paper has no such numbers for {found.kind}"
            )
        if found.aligned is None and target.aligned is None:
            raise ValueError(
                f"{path} names no aligned model for {target.name}: aligned = ..., or in [targets.{target.name}]"
            )
    if found.conditions is not None and "none" not in found.conditions:
        raise ValueError(f"{path}: got conditions without none, which all others are compared with: add it")


def _papers(kind: Kind) -> Mapping[str, Mapping[str, float]] | Mapping[str, Mapping[str, PaperNumbers]]:
    """The paper's numbers that may stand beside a kind's."""
    if kind == "cost":
        return SECONDS_PER_1000
    return PICTURED if kind == "mm" else PAPER


def _require_pictures(path: Path, found: Experiment) -> None:
    """Refuse a run with pictures that does not say which, and pictures where none are asked about."""
    prompts = found.prompts
    if found.kind != "mm":
        if idle := [
            n for n, value in (("bench", prompts.bench), ("timed", found.timed)) if value is not None
        ]:
            raise ValueError(
                f"{path}: got {', '.join(idle)} for {found.kind}, which asks about no pictures: workbench reproduce mm"
            )
        return
    if prompts.bench is None:
        raise ValueError(
            f'{path} does not say bench in [prompts]: which questions with pictures are asked, "mm-harmfulbench", a '
            'file of prompts, or "pictured", which ships'
        )
    if prompts.templates is not None:
        raise ValueError(
            f"{path}: got templates in [prompts], expected none: the bench's questions are asked as they are"
        )
    if prompts.root is None and prompts.bench != "pictured" and not Path(prompts.bench).is_file():
        raise ValueError(
            f"{path} does not say where {prompts.bench} is: root = FOLDER in [prompts], or bench = a file of prompts; "
            f"workbench data show {prompts.bench} tells where it is published"
        )
