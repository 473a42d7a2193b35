"""`workbench judge-agreement`: a judge beside people, on replies that they have labelled.

The trap: replies to harmful prompts are nobody's to print. What is shown of a disagreement is the number of its row.
"""

import importlib
import json
import math
import sys
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

if TYPE_CHECKING:
    from workbench.judges.agreement import Agreement
    from workbench.judges.verdicts import TextJudge

SHOWN = 40  # row numbers of a kind; beyond that a file is better looked at in Python


def judge_agreement(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Csv with a header, or .jsonl: a reply and a label that people gave it in every row.",
            show_default=False,
        ),
    ],
    judge: Annotated[
        str,
        typer.Option(
            help="refusals (by phrases), small-world (the embedded models'), column:NAME (verdicts that the file has "
            "already), or MODULE:FUNCTION, a judge of your own."
        ),
    ] = "refusals",
    reply: Annotated[
        str | None,
        typer.Option(
            help="The column of the replies.",
            show_default="completion, reply, response, generation or output",
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            help="The column of people's labels.",
            show_default="final_label, label, human_label, human, verdict or refused",
        ),
    ] = None,
    refused: Annotated[
        list[str] | None,
        typer.Option(
            help="A label that means a refusal; may be repeated. All others then mean none.",
            show_default="XSTest's, and plain words: refused, complied, ...",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Accuracy, kappa and n of each file and of all, as JSON.")
    ] = False,
) -> None:
    """How well does a judge agree with people? Accuracy, Cohen's κ, and the rows on which they part.

    Two ways, refused or not: refusing in part counts as refusing. A false positive is a row that only the judge calls
    refused, a false negative one that only people do; rows are numbered as a spreadsheet shows them. Rows without a
    label or a verdict are counted, and are in no rate. Replies are not shown.

    A judge that was tuned on a file agrees with that file: hold some back, and look at those once.

    [dim]workbench judge-agreement xstest_v2_completions_gpt4_streval.csv[/dim]

    [dim]workbench judge-agreement mine.csv --reply answer --label annotator_1 --refused no --refused evasive[/dim]

    [dim]workbench judge-agreement mine.jsonl --judge my_judges:strict --json[/dim]
    """
    from workbench.judges.agreement import judge_agreement as agree

    known = _judge(judge)
    found = [
        agree(
            file, known, reply=reply, label=label, refused=tuple(refused or ()), progress=sys.stderr.isatty()
        )
        for file in files
    ]
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        names = [str(file) for file in files]
    pooled = reduce(add, found)
    left_out = [
        f"{name}: {one.unlabelled} rows unlabelled, {one.unscored} unscored: in no rate"
        for name, one in zip(names, found, strict=True)
        if one.unlabelled or one.unscored
    ]
    if as_json:
        told = {"files": dict(zip(names, map(_numbers, found), strict=True)), "pooled": _numbers(pooled)}
        typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
        for line in left_out:
            typer.echo(f"workbench: careful: {line}", err=True)
        return
    show(list(zip(names, found, strict=True)), pooled, left_out, Console())


def show(
    found: "list[tuple[str, Agreement]]", pooled: "Agreement", left_out: list[str], console: Console
) -> None:
    """A line for each file and for all of them, then the rows on which judge and people part."""
    # Names that differ in their ends are folded, not cut.
    name_column = Column("", overflow="fold")
    table = Table(name_column, "n", "accuracy", "95 %", "κ", "false +", "false −", box=None, pad_edge=False)
    for name, one in [*found, *([("pooled", pooled)] if len(found) > 1 else [])]:
        accuracy = one.accuracy
        table.add_row(
            escape(name),
            str(one.n),
            f"{100 * accuracy.mean:.1f}",
            f"{100 * accuracy.low:.1f} to {100 * accuracy.high:.1f}",
            f"{one.kappa:.3f}",
            str(len(one.false_positives)),
            str(len(one.false_negatives)),
        )
    console.print(table)
    for name, one in found:
        for what, rows in (
            ("refused to the judge alone", one.false_positives),
            ("refused to people alone", one.false_negatives),
        ):
            if rows:
                more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
                line = f"{name}, {what}: rows {', '.join(map(str, rows[:SHOWN]))}{more}"
                console.print(f"[dim]{escape(line)}[/dim]", highlight=False, soft_wrap=True)
    for line in left_out:
        console.print(escape(line), highlight=False, soft_wrap=True)


def _numbers(found: "Agreement") -> dict[str, float | int | None]:
    kappa = found.kappa
    return {
        "accuracy": found.accuracy.mean,
        "kappa": None if math.isnan(kappa) else kappa,  # JSON has no NaN
        "n": found.n,
    }


def _judge(name: str) -> "TextJudge | str":
    """The judge that `--judge` names: a function, or the name of a column."""
    if name == "refusals":
        from workbench.judges.refusals import judge_refusal

        return judge_refusal
    if name == "small-world":
        from workbench.judges.small_world import judge

        return judge
    module, _, member = name.partition(":")
    if not member:
        raise ValueError(
            f"got --judge {name}, expected refusals, small-world, column:NAME or MODULE:FUNCTION"
        )
    if module == "column":
        return member
    sys.path.insert(0, "")  # a judge of one's own lies in the folder that the command is run in
    try:
        found: Any = getattr(importlib.import_module(module), member, None)
    finally:
        sys.path.remove("")
    if not callable(found):
        raise ValueError(
            f"{module} has no function {member}: a judge takes a text and whether it ended by itself"
        )
    return found
