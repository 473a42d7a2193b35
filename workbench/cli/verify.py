"""`workbench verify`: whether steering runs on a model of your own as it says, in every way that it can be run here.

The trap: importing torch takes seconds, which `workbench --help` need not pay. The command imports what it needs when
it runs.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, get_args

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from workbench.cli.plans import Template, load, plan_for, profile_of, require_sound

if TYPE_CHECKING:
    from workbench.prompts import PromptSet
    from workbench.verification import Verification

Dtype: TypeAlias = Literal["float32", "bfloat16", "float16"]
BAR = 24


def verify(
    prompts: Annotated[
        Path | None,
        typer.Argument(
            help="A file with a prompt a line, or JSON lines as PromptSet.save writes them; some harmful, some not.",
            show_default="six of the small world's validation prompts",
        ),
    ] = None,
    target: Annotated[
        str, typer.Option(help="The model to steer: organism:NAME, a folder, or a hub id.")
    ] = "organism:finance",
    aligned: Annotated[
        str,
        typer.Option(
            help="The model whose vectors, made of the small world's prompts, steer it, where no --plan is given."
        ),
    ] = "organism:aligned",
    plan: Annotated[
        Path | None,
        typer.Option(
            help="A plan that `workbench tune` or save_plan wrote, in the place of --aligned's.",
            show_default=False,
        ),
    ] = None,
    alpha: Annotated[float, typer.Option(help="Strength, in shares of the residual's norm.")] = 0.2,
    min_auroc: Annotated[
        float,
        typer.Option(help="A layer is steered where both models tell harmful from harmless this well."),
    ] = 0.95,
    template: Template = None,
    dtype: Annotated[Dtype, typer.Option(help="What the weights of both models are loaded as.")] = "float32",
    backend: Annotated[
        list[str] | None,
        typer.Option(
            help="plain, bridge or hooked (a second copy in memory), beside the model itself, which is plain; may be "
            "repeated.",
            show_default="all that can hold the model",
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="The tokens of each reply that are compared.")] = 8,
) -> None:
    """Does steering do on this model what it says? Compares every way of running it, and measures what arrives.

    A plain loop, one pass over the whole text for each token, is the yardstick. Beside it: TransformerLens' hooks, the
    bridge and the transformers model itself; batches and single rows; with keys and values kept and without. At every
    layer what enters the next block is held against what the block gave out: an open gate's rows are to differ by their
    shift, closed ones by nothing at all.

    Exit code 1 where it does not run as planned, 2 for an error.

    [dim]workbench verify --target ./my-model --aligned ./my-chat-model my-prompts.txt[/dim]
    """
    import torch

    from workbench.loading import Backend
    from workbench.sweep.picked import load_plan

    backends: tuple[Backend, ...] = get_args(Backend)
    if unknown := set(backend or ()) - set(backends):
        raise ValueError(
            f"got --backend {', '.join(sorted(unknown))}, expected some of {', '.join(backends)}"
        )
    asked = _prompts(prompts)
    ready = None if plan is None else load_plan(plan)
    require_sound(min_auroc, alpha if ready is None else ready.alpha, max_new_tokens, target=target)
    chosen = [known for known in backends if known in backend] if backend else None
    held = partial(load, template=template, dtype=getattr(torch, dtype))
    theirs = profile_of(held(aligned)) if ready is None else None  # gone again before the target comes
    model = held(target)
    if theirs is not None:
        ready, _ = plan_for(model, theirs, alpha, "residual", "all", min_auroc)
    assert ready is not None
    from workbench.verification import verify as run  # after what could be refused: it is half of the library

    found = run(model, ready, asked, backends=chosen, max_new_tokens=max_new_tokens)
    console = Console()
    show(found, console)
    if not found.holds:
        raise typer.Exit(1)
    again = f"--plan {plan}" if plan else f"--aligned {aligned} --alpha {alpha:g} --positions all"
    again += f" --template {template}" if template else ""
    console.print(
        f'[dim]next:[/dim] workbench ask "How do I ...?" --target {escape(target)} {escape(again)}',
        highlight=False,
        soft_wrap=True,
    )


def show(found: "Verification", console: Console) -> None:
    """What arrived, drawn; the comparisons; what was left out; the verdict."""
    console.print(_arrivals(found))
    if len(found.comparisons):
        console.print(_comparisons(found))
    lines = [f"{backend} left out: {reason}" for backend, reason in found.refused.items()]
    for line in (*lines, *found.notes, *([found.cosine] if found.cosine else [])):
        console.print(f"[dim]{escape(line)}[/dim]", highlight=False, soft_wrap=True)
    colour = "green" if found.holds else "red"
    console.print(f"[bold {colour}]{escape(found.verdict)}[/]", highlight=False, soft_wrap=True)
    for fault in found.faults[1:]:
        console.print(f"  and {escape(fault)}", highlight=False, soft_wrap=True)


def _arrivals(found: "Verification") -> Table:
    """A line per backend and steered layer, and for everything else together."""
    table = Table("", "layer", "shift", "arrived: open gate", "", "closed", box=None, pad_edge=False)
    for backend, mine in found.shifts.groupby("backend", sort=False):
        steered = mine[(mine.gate == "open")].layer.unique()
        for layer in steered:
            here = mine[mine.layer == layer]
            opened, closed = here[here.gate == "open"], here[here.gate == "closed"]
            planned = opened.planned.max()
            table.add_row(
                str(backend),
                str(layer),
                f"{planned:.3g}",
                *_bar(opened, planned),
                _most(closed),
                style=_style(here),
            )
        rest = mine[~mine.layer.isin(steered)]
        if len(rest):
            table.add_row(str(backend), "others", "0", "", "", _most(rest), style=_style(rest))
    return table


def _bar(rows: Any, planned: float) -> tuple[str, str]:
    if rows.least.isna().any():
        return "?" * BAR, "never reached"
    least, most = rows.least.min(), rows.most.max()
    share = 0.0 if not planned else min(1.0, least / planned)
    text = f"{least:.3g}" if f"{least:.3g}" == f"{most:.3g}" else f"{least:.3g} to {most:.3g}"
    return "█" * round(BAR * share) + "·" * (BAR - round(BAR * share)), text


def _most(rows: Any) -> str:
    if not len(rows):
        return "-"
    return "?" if rows.most.isna().any() else f"{rows.most.max():.3g}"


def _style(rows: Any) -> str | None:
    return None if rows.holds.all() else "red"


def _comparisons(found: "Verification") -> Table:
    table = Table(
        "", "way", "logits differ", "of the largest", "flips", "near ties", box=None, pad_edge=False
    )
    row: Any
    for row in found.comparisons.itertuples():
        numbers = (
            f"{row.absolute:.2g}",
            f"{row.relative:.2g} ≤ {row.tolerance:g}",
            f"{row.flips} of {row.steps}",
        )
        if row.way == "generate":
            same = row.rows - row.flips
            numbers = "", f"{same} of {row.rows} replies alike", f"{row.flips}"
        table.add_row(row.backend, row.way, *numbers, str(row.near_ties), style=None if row.holds else "red")
    return table


def _prompts(path: Path | None) -> "PromptSet":
    """The prompts of a file; a few of the small world's, of both kinds, where none is named."""
    from workbench.prompts import PromptSet, load_prompts
    from workbench.published import load_contrast

    if path is None:
        val = load_contrast("small-world").val
        kinds = ([prompt for prompt in val if prompt.harmful == harmful] for harmful in (True, False))
        return PromptSet("small-world", tuple(prompt for kind in kinds for prompt in kind[:3]))
    if path.suffix == ".jsonl":
        return load_prompts(path)
    if not path.is_file():
        raise FileNotFoundError(f"no prompt file {path}: name a text file with a prompt a line")
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    texts = [line for line in lines if line]
    if not texts:
        raise ValueError(f"{path} has no prompts: write one a line, some of them harmful")
    return PromptSet.from_texts(path.stem, texts)
