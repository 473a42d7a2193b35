"""A run on disk: what was measured, what was chosen and where, every verdict, and what it takes to run it again.

    record.json        which models and prompts, every choice, the versions, the command
    table.csv          a row per target, condition and metric, with its interval, and the paper's number beside it
    comparisons.csv    a row per target, condition and metric against a baseline on the same prompts
    verdicts.jsonl     a line per reply

The trap: replies to harmful prompts are in it. The file of verdicts is readable by its owner alone, and who shows them
to others decides so each time (`workbench report --include-harmful-text`).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.errors import EmptyDataError

from workbench.provenance import content_hash, write_safely

FORMAT = 1
NO_CLAIM = "a check of the machinery, whose rates claim nothing"
RECORD, TABLE, COMPARISONS, VERDICTS = "record.json", "table.csv", "comparisons.csv", "verdicts.jsonl"

TABLE_COLUMNS = (
    "target", "condition", "title", "metric", "mean", "low", "high", "n", "clusters", "method", "paper",
)  # fmt: skip
"""`condition` is its key and `title` its name for people; rates are from 0 to 1; `paper` is NaN where it has none."""
VERDICT_COLUMNS = (
    "target", "condition", "prompt", "label", "source", "text", "reply", "finished", "verdict", "reason", "correct",
    "open",
)  # fmt: skip
"""`prompt` is the prompt's number, `text` what it says; other columns may follow (`cluster_…`, `plan`)."""


@dataclass(frozen=True)
class Choice:
    """One decision of a run: what, which, on what it was made, by which rule; and whether the paper leaves it open."""

    what: str
    value: str
    where: str
    why: str
    open_in_paper: bool = False


@dataclass(frozen=True)
class UsedModel:
    """A model of a run: its part in it, its name and hash, and whether it is one of the embedded ones."""

    role: str
    name: str
    hash: str
    embedded: bool


@dataclass(frozen=True, eq=False)
class RunRecord:
    """What a run found, in frames (`TABLE_COLUMNS`, `VERDICT_COLUMNS`), and all that is needed to judge and repeat it.

    `config` is the text of the file it was told by, `prompts` say of every set its name, hash and number of prompts by
    label, `versions` of every library, `created` when, in UTC. `claims` is false of a run whose rates say nothing of a
    method: embedded models that were asked what is not of their world.
    """

    kind: str
    title: str
    command: str
    config: str
    created: str
    judge: str
    models: tuple[UsedModel, ...]
    prompts: tuple[Mapping[str, Any], ...]
    choices: tuple[Choice, ...]
    notes: tuple[str, ...]
    seeds: tuple[int, ...]
    versions: Mapping[str, str]
    table: pd.DataFrame = field(repr=False)
    comparisons: pd.DataFrame = field(repr=False)
    verdicts: pd.DataFrame = field(repr=False)
    claims: bool = True

    def __post_init__(self) -> None:
        for name, columns in (("table", TABLE_COLUMNS), ("verdicts", VERDICT_COLUMNS)):
            missing = [column for column in columns if column not in getattr(self, name).columns]
            if missing:
                raise ValueError(
                    f"a record's {name} lacks {', '.join(missing)}: expected {', '.join(columns)}"
                )

    @property
    def embedded(self) -> bool:
        """Whether all its models are the embedded ones, whose replies harm nobody."""
        return all(model.embedded for model in self.models)


def save_record(record: RunRecord, folder: str | Path) -> Path:
    """Write `record` into `folder`, which is made; the folder. Each file is replaced whole or not at all."""
    folder = Path(folder)
    # Last the file that says that there is a record.
    lines = record.verdicts.to_json(orient="records", lines=True, force_ascii=False)
    write_safely(folder / VERDICTS, lines.encode(), private=True)
    for name, frame in ((TABLE, record.table), (COMPARISONS, record.comparisons)):
        write_safely(folder / name, frame.to_csv(index=False).encode())
    frames = ("table", "comparisons", "verdicts")
    facts = {f.name: getattr(record, f.name) for f in fields(record) if f.name not in frames}
    facts |= {"models": [asdict(m) for m in record.models], "choices": [asdict(c) for c in record.choices]}
    facts |= {"prompts": [dict(p) for p in record.prompts], "versions": dict(record.versions)}
    told = {"format": FORMAT, "files": _hashes(folder), **facts}
    write_safely(folder / RECORD, (json.dumps(told, indent=1, ensure_ascii=False) + "\n").encode())
    return folder


def load_record(folder: str | Path) -> RunRecord:
    """The record that `save_record` wrote.

    Raises `FileNotFoundError` where there is none, `ValueError` for one that is damaged or of a newer format.
    """
    folder = Path(folder)
    for name in (RECORD, TABLE, COMPARISONS, VERDICTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"no {name} in {folder}: expected the folder of a finished run, as `workbench reproduce` writes it"
            )
    try:
        facts = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if facts.pop("format") > FORMAT:
            raise ValueError(f"it is of a newer format than {FORMAT}: update inferaligner-workbench")
        if facts.pop("files") != _hashes(folder):
            raise ValueError("its files are not those that were written together")
        # As it stands: what looks like a number or a date is a reply.
        verdicts = pd.read_json(folder / VERDICTS, orient="records", lines=True, dtype=False)
        return RunRecord(
            **{
                **facts,
                "models": tuple(UsedModel(**model) for model in facts["models"]),
                "choices": tuple(Choice(**choice) for choice in facts["choices"]),
                **{name: tuple(facts[name]) for name in ("prompts", "notes", "seeds")},
            },
            table=_frame(folder / TABLE),
            comparisons=_frame(folder / COMPARISONS),
            verdicts=verdicts,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder} holds no readable record ({error}): run the command in its {RECORD} again"
        ) from error


def _hashes(folder: Path) -> dict[str, str]:
    """A hash of every frame's file, by which a mixture of two runs is told, and a file that was cut."""
    return {name: content_hash((folder / name).read_bytes()) for name in (TABLE, COMPARISONS, VERDICTS)}


def _frame(path: Path) -> pd.DataFrame:
    """A csv's frame; that of a run that compares nothing has not even columns."""
    names = dict.fromkeys(("target", "condition", "title", "metric", "method", "against"), str)
    try:
        # What looks like a number or like nothing, 7 or NA, may be a target's name.
        return pd.read_csv(path, dtype=names, keep_default_na=False, na_values=[""])
    except EmptyDataError:
        return pd.DataFrame()
