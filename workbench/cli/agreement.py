"""`workbench judge-agreement`: a judge beside people, on replies that they have labelled.

The trap: replies to harmful prompts are nobody's to print. What is shown of a disagreement is the number of its row.
"""

import json
import math
import sys
import tomllib
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
    from workbench.judges.verdicts import Judge

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
            help="phrases, classifier, embeddings:MODEL, hf:MODEL (one of a folder or the hub), llm:MODEL (at an "
            "address), small-world (the embedded models'), column:NAME (verdicts that the file has already), or "
            "MODULE:FUNCTION, a judge of your own."
        ),
    ] = "phrases",
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A setting of the judge, as wb.load_judge, wb.llm_judge and their like take it; may be repeated.",
            show_default=False,
        ),
    ] = None,
    send_replies_to: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Consent that prompts and replies go to this OpenAI-compatible address, for --judge llm:MODEL.",
            show_default=False,
        ),
    ] = None,
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
    prompt: Annotated[
        str | None,
        typer.Option(
            help="The column of what was asked, for judges that read it.",
            show_default="prompt, question, instruction, request or behavior",
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

    [dim]workbench judge-agreement mine.csv --judge hf:HarmBench-Mistral-7b-val-cls --set template=prompt.txt[/dim]

    [dim]workbench judge-agreement mine.csv --judge llm:MODEL --send-replies-to https://HOST/v1 --set key_env=MY_KEY
    --set cache=answers.sqlite[/dim]
    """
    from workbench.judges.agreement import judge_agreement as agree

    known = _judge(judge, setting or [], send_replies_to)
    columns = dict(reply=reply, label=label, prompt=prompt)
    try:
        found = [
            agree(file, known, **columns, refused=tuple(refused or ()), progress=sys.stderr.isatty())
            for file in files
        ]
    finally:
        if (bill := getattr(known, "bill", None)) is not None:
            typer.echo(f"workbench: {judge}: {bill}", err=True)
    if len({file.resolve() for file in files}) < len(files):
        raise ValueError("got a file more than once, expected each once: its replies would count twice")
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        names = [str(file) for file in files]
    pooled = reduce(add, found)
    left_out = [
        f"{name}: {one.unlabelled} rows unlabelled, {one.unscored} unscored{_reasons(one)}: in no rate"
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


def _reasons(found: "Agreement") -> str:
    told = [f"{n} × {reason}" for reason, n in list(found.unscored_by.items())[:3]]
    return f" ({'; '.join(told)})" if told else ""


def _judge(name: str, given: list[str], send_replies_to: str | None) -> "Judge | str":
    """The judge that `--judge` names with its settings, or the name of a column."""
    from workbench.judges.named import NAMES, judge_by_name

    settings = dict(map(_setting, given))
    if send_replies_to is not None:
        settings |= {"url": send_replies_to, "send_replies_away": True}
    kind, _, member = name.partition(":")
    if kind == "column" and member:
        if settings:
            raise ValueError(f"got the setting {next(iter(settings))} for --judge {name}, which has none")
        return member
    if not member and name not in NAMES:
        raise ValueError(f"got --judge {name}, expected one of {', '.join(NAMES)}, column:NAME")
    return judge_by_name(name, settings, progress=sys.stderr.isatty())


def _setting(text: str) -> tuple[str, Any]:
    """A name and its value, which is read as TOML has it, and is a text where it has none."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ValueError(f"got --set {text}, expected NAME=VALUE")
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), value
