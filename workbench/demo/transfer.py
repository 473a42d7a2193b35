"""The transfer run: models named by the shell, the small world's prompts, a table, and the pictures.

The trap: maps are fitted on texts that neither choose nor claim. Whatever stands in a validation or a test list is left
out of them.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from workbench import plots
from workbench.demo.running import require_writable
from workbench.demo.target import BATCH_SIZE, MAX_NEW_TOKENS, PAIRS
from workbench.export import ADVICE, save_figure, save_frame
from workbench.loading import Model, load_model, without_bars
from workbench.organisms.corpus import mixed_prompts
from workbench.organisms.family import FAMILIES, base_of
from workbench.organisms.items import DOMAINS
from workbench.prompts import ContrastSet, PromptSet
from workbench.published import load_contrast
from workbench.transfer import CARRIED, CONTROLS, WITHOUT_SOURCE, TransferResult, transfer_matrix

SHOWN = {
    "refused": "attacks\nrefused",
    "broken": "broken",
    "over_refusal": "harmless\nrefused",
    "utility": "domain\naccuracy",
}


@dataclass(frozen=True)
class Named:
    """A model by its label in tables, where it is loaded from, and where its base is."""

    label: str
    path: str
    base: str


def name_models(given: Iterable[str], *, aligned: bool) -> list[Named]:
    """MODEL or MODEL=BASE, read: an embedded model's base is known, a target may stand for its own.

    Raises `ValueError` for an aligned model from elsewhere without a base.
    """
    found: list[Named] = []
    for text in given:
        path, _, base = text.partition("=")
        if not path:
            raise ValueError(f"got {text!r}, expected MODEL or MODEL=BASE")
        if not base and path.startswith("organism:"):
            base = f"organism:{base_of(path.removeprefix('organism:'))}"
        if aligned and not base:
            raise ValueError(
                f"got --aligned {path} without its base: a map is read from a model that was not trained to refuse, "
                f"so name the one it was trained from: --aligned {path}=BASE"
            )
        label = path.removeprefix("organism:") if path.startswith("organism:") else Path(path).name or path
        taken = {one.label for one in found}
        found.append(Named(label if label not in taken else path, path, base or path))
    return found


def map_texts(n: int, pairs: Iterable[ContrastSet]) -> PromptSet:
    """`n` prompts of the small world that stand in no list which vectors, choices or claims are made from."""
    if n < 10:
        raise ValueError(f"got {n} texts, expected 10 or more, and better several hundred")
    taken = {prompt.text for each in pairs for part in (each.train, each.val, each.test) for prompt in part}
    extra = 0
    while True:
        drawn = mixed_prompts(n + extra)
        kept = [prompt for prompt in drawn if prompt.text not in taken]
        if len(kept) >= n:
            return PromptSet(drawn.name, tuple(kept[:n]))
        extra += n - len(kept)


def pairs_for(label: str) -> ContrastSet:
    """The small world's contrast set, with the prompts of the domain that a model's name begins with, if any."""
    first = label.partition("@")[0].removeprefix(FAMILIES["qwen"].prefix).partition("-")[0]
    return load_contrast(PAIRS, domain=first if first in DOMAINS else None)


def measure_transfer(
    targets: Sequence[Named],
    sources: Sequence[Named],
    *,
    n_texts: int = 600,
    n_search: int | None = None,
    n_test: int | None = None,
    progress: bool = False,
) -> TransferResult:
    """The matrix of named models, on the small world's prompts."""
    loaded: dict[str, Model] = {}
    with nullcontext() if progress else without_bars():
        for one in (*targets, *sources):
            for path in (one.path, one.base):
                if path not in loaded:
                    loaded[path] = load_model(path, backend="plain")
    pairs = {one.label: pairs_for(one.label) for one in targets}
    return transfer_matrix(
        {one.label: loaded[one.path] for one in sources},
        {one.label: loaded[one.path] for one in targets},
        pairs,
        map_texts(n_texts, pairs.values()),
        bases={f"base {one.base}": loaded[one.base] for one in (*targets, *sources)},
        base_of={one.label: f"base {one.base}" for one in (*targets, *sources)},
        n_search=n_search,
        n_test=n_test,
        max_new_tokens=MAX_NEW_TOKENS,
        batch_size=BATCH_SIZE,
        progress=progress,
    )


def run_transfer(
    targets: Sequence[str],
    aligned: Sequence[str],
    folder: str | Path,
    *,
    n_texts: int = 600,
    n_search: int | None = 8,
    n_test: int | None = 24,
    console: Console | None = None,
) -> TransferResult:
    """Measure, write transfer.csv to `folder`, print a table per target, and draw the pictures beside it."""
    console, folder = console or Console(), Path(folder)
    for name, number in (("--n-search", n_search), ("--n-test", n_test)):
        if number is not None and number < 1:
            raise ValueError(f"got {name} {number}, expected 1 or more prompts of each kind")
    into, sources = name_models(targets, aligned=False), name_models(aligned, aligned=True)
    if both := sorted({one.label for one in into} & {one.label for one in sources}):
        raise ValueError(f"{', '.join(both)} is a target and an aligned model: name each model once")
    require_writable(folder)
    result = measure_transfer(
        into, sources, n_texts=n_texts, n_search=n_search, n_test=n_test, progress=sys.stderr.isatty()
    )
    save_frame(result.frame, folder / "transfer.csv")  # first: whatever fails from here on can be done again
    for one in into:
        console.print(_table(result.frame, one.label))
    if (ranked := _predictors(result)).row_count:
        console.print(ranked)
    pictures = save_transfer(result.frame, folder)
    console.print(
        f"transfer.csv and the pictures are in {folder}/; {n_test or 'all'} test prompts of each kind",
        markup=False,
    )
    if any(path.suffix == ".html" for path in pictures):
        console.print(f"No browser to draw SVG with: they are HTML pages. For SVG: {ADVICE}.", markup=False)
    return result


def save_transfer(
    frame: pd.DataFrame, folder: Path, *, finding: Mapping[str, str] | None = None
) -> list[Path]:
    """transfer.csv, which both pictures draw, first; then transfer.svg and transfer-predictors.svg."""
    save_frame(frame, folder / "transfer.csv")
    findings = finding or {}
    figures = {
        "transfer": plots.transfer_matrix(frame, finding=findings.get("transfer", "")),
        "transfer-predictors": plots.transfer_predictors(
            frame, finding=findings.get("transfer-predictors", "")
        ),
    }
    drawn = {"transfer": frame, "transfer-predictors": frame[frame["metric"] == "refused"]}
    return [save_figure(fig, drawn[name], folder / f"{name}.svg") for name, fig in figures.items()]


def _table(frame: pd.DataFrame, target: str) -> Table:
    part = frame[frame["target"] == target]
    order = [*CARRIED, *CONTROLS, *WITHOUT_SOURCE]
    shown = {name: title for name, title in SHOWN.items() if name in set(part["metric"])}
    table = Table(
        f"[bold]{escape(target)}[/bold]", "vectors of", *shown.values(), "cosine\nnative", "beyond\nown", "map\nR²",
        box=None, pad_edge=False,
    )  # fmt: skip
    arms = part.drop_duplicates(["source", "arm", "draw"])
    for row in sorted(
        arms.to_dict("records"), key=lambda row: (order.index(row["arm"]), row["source"], row["draw"])
    ):
        same = (part["source"] == row["source"]) & (part["arm"] == row["arm"]) & (part["draw"] == row["draw"])
        of = part[same].set_index("metric")
        cells = [_percent(of.loc[name]) if name in of.index else "" for name in shown]
        told = [_number(row.get(name)) for name in ("cosine_native", "beyond_own", "r2")]
        table.add_row(row["arm"], escape(row["source"]), *cells, *told)
    return table


def _predictors(result: TransferResult) -> Table:
    table = Table("what predicted refusals", "among", "ρ", "vectors", "pairs", box=None, pad_edge=False)
    for row in result.predictors().dropna(subset=["rho"]).to_dict("records"):
        rho = f"{row['rho']:+.2f}"
        if row["low"] == row["low"]:  # one pair of models has no interval
            rho += f" [{row['low']:+.2f}, {row['high']:+.2f}]"
        table.add_row(row["predictor"], row["among"], rho, str(row["n"]), str(row["pairs"]))
    return table


def _percent(row: "pd.Series[float]") -> str:
    return f"{100 * row['mean']:.0f} [{100 * row['low']:.0f}, {100 * row['high']:.0f}]"


def _number(value: object) -> str:
    return f"{value:+.2f}" if isinstance(value, float) and value == value else ""
