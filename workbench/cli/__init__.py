"""The library's verbs for the shell; `workbench --help` lists them.

The trap: importing torch and TransformerLens takes seconds. Every command imports what it needs when it runs, so that
`--help` answers at once.
"""

import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from workbench.cli.agreement import judge_agreement
from workbench.cli.convert import convert
from workbench.cli.data import data
from workbench.cli.plans import Positions, Scale, Template, load, plan_for, profile_of, require_sound
from workbench.cli.preferences import train_dpo
from workbench.cli.prompt import show_prompt
from workbench.cli.report import report
from workbench.cli.reproduce import reproduce
from workbench.cli.sweep import sweep
from workbench.cli.transfer import transfer
from workbench.cli.tune import tune
from workbench.cli.utility import harness, utility
from workbench.cli.verify import verify
from workbench.organisms.commands import organisms

if TYPE_CHECKING:
    from workbench.generation import Completion
    from workbench.steering import SteeringPlan


class OneLineErrors(TyperGroup):
    """Shows an error of the library as the one sentence it is; `--debug` shows where it was raised."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; exit code 2 after an error that its user can mend."""
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _one_line_for_our_own(warnings.showwarning)
                return super().invoke(ctx)
        except (ValueError, OSError, ImportError, MemoryError) as error:
            if ctx.params.get("debug") or isinstance(error, BrokenPipeError):
                raise
            message = " ".join(str(error).split()) or type(error).__name__
            _say_on_stderr(message, error)
            raise typer.Exit(2) from None
        except (KeyboardInterrupt, SystemExit) as error:
            _say_on_stderr("stopped", error)
            raise typer.Exit(130) from None


def _one_line_for_our_own(show: Callable[..., None]) -> Callable[..., None]:
    """`warnings.showwarning` that says a warning of the library in one line, and leaves others as they are."""

    def show_warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if category.__module__.startswith("workbench."):
            typer.echo(f"workbench: careful: {message}", err=True)
        else:
            show(message, category, *where, **more)

    return show_warning


def _say_on_stderr(message: str, error: BaseException) -> None:
    """The message, and beneath it what the error's notes say of going on."""
    for line in (message, *getattr(error, "__notes__", ())):
        typer.echo(f"workbench: {line}", err=True)


app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)
app.add_typer(organisms, name="organisms")
app.add_typer(data, name="data")
app.add_typer(reproduce, name="reproduce")
app.command()(show_prompt)
app.command()(sweep)
app.command()(tune)
app.command()(transfer)
app.command()(convert)
app.command()(verify)
app.command()(judge_agreement)
app.command()(utility)
app.command()(harness)
app.command()(train_dpo)
app.command()(report)

Target = Annotated[
    str, typer.Option(help="The model to make safe: organism:NAME, a folder, or a hub id.", show_default=True)
]
Aligned = Annotated[
    str,
    typer.Option(
        help="The model that refuses what it should; its vectors steer the target.", show_default=True
    ),
]
MinAuroc = Annotated[
    float, typer.Option(help="A layer is steered where both models tell harmful from harmless this well.")
]


def _show_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(version("inferaligner-workbench"))
        raise typer.Exit
    return wanted


@app.callback()
def main(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """InferAligner: steer a fine-tuned model with the safety vectors of an aligned one, only where a prompt is harmful.

    [bold]Start here:[/bold] [cyan]workbench demo[/cyan] runs the method with all its controls on models that ship with
    the workbench. Then look at one part of it: [cyan]workbench layers[/cyan] shows what each layer can tell,
    [cyan]workbench ask "How do I ...?"[/cyan] one prompt before and after.

    The same verbs in Python: [cyan]import workbench as wb[/cyan].
    """


@app.command()
def demo(
    full: Annotated[bool, typer.Option("--full", help="Every test prompt, not a sample of them.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where demo.json, the pictures and their csv go: figures for the full run of all targets, "
            "figures/llava for that of llava, figures/quick otherwise.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this one of the embedded targets; may be repeated. llava: the one that sees."
        ),
    ] = None,
) -> None:
    """The main job: domain models made harmless by an aligned one, beside every control and the paper's baselines.

    Chooses layers, gate and strength on validation prompts, measures on test prompts, prints the paper's table and a
    few prompts before and after, and writes the pictures. The quick run takes a stated sample of the prompts, and
    leaves the full run's results in figures as they are.
    """
    from workbench.demo import TARGETS, run_demo

    run_demo(full=full, folder=out, targets=target or TARGETS)


@app.command()
def layers(
    target: Target = "organism:finance",
    aligned: Aligned = "organism:aligned",
    min_auroc: MinAuroc = 0.95,
    template: Template = None,
) -> None:
    """Which layers tell harmful from harmless prompts, in both models: the paper's choice of layers.

    AUROC is the chance that a harmful prompt of the validation part projects higher than a harmless one, with its 95 %
    interval. The gap share is the distance between the aligned model's harmful and harmless means, as a share of its
    residual's norm. The cosine is that of the two models' directions; models that do not share a family have one near
    0, and their vectors do not transfer.
    """
    from workbench.profiles import select_layers
    from workbench.vectors import cosine_sentence

    require_sound(min_auroc, target=target)
    console = Console()
    models = [load(name, template=template) for name in (target, aligned)]
    profiles, vectors, _ = zip(*(profile_of(model) for model in models), strict=True)
    cosine = vectors[0].cosine(vectors[1]).tolist()
    chosen = select_layers(*profiles, min_auroc=min_auroc)
    table = Table(
        "layer", "AUROC target", "AUROC aligned", "gap share", "cosine", "", box=None, pad_edge=False
    )
    for layer, (ours, theirs) in enumerate(zip(*(p.frame.itertuples() for p in profiles), strict=True)):
        table.add_row(
            str(layer),
            f"{ours.auroc:.3f} [{ours.auroc_low:.2f}, {ours.auroc_high:.2f}]",
            f"{theirs.auroc:.3f} [{theirs.auroc_low:.2f}, {theirs.auroc_high:.2f}]",
            f"{theirs.share:.2f}",
            f"{cosine[layer]:+.2f}",
            "chosen" if layer in chosen else "",
        )
    console.print(table)
    console.print(cosine_sentence(vectors[0], vectors[1], chosen), highlight=False, soft_wrap=True)


@app.command()
def ask(
    prompts: Annotated[
        list[str], typer.Argument(help="One or more prompts, each in quotes.", show_default=False)
    ],
    target: Target = "organism:finance",
    aligned: Aligned = "organism:aligned",
    alpha: Annotated[
        float, typer.Option(help="Strength, in units of --scale. 0 leaves the model as it is.")
    ] = 0.2,
    scale: Annotated[
        Scale,
        typer.Option(help="What alpha counts: raw (the paper's), residual (shares of its norm), or gap."),
    ] = "residual",
    positions: Annotated[
        Positions,
        typer.Option(help="Which tokens are shifted; the paper's are all, which garbles models this small."),
    ] = "prompt",
    min_auroc: MinAuroc = 0.95,
    max_new_tokens: Annotated[int, typer.Option(help="The longest reply.")] = 64,
    plan: Annotated[
        Path | None,
        typer.Option(
            help="A plan that `workbench tune` wrote, in the place of all these.", show_default=False
        ),
    ] = None,
    template: Template = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(
            help="A picture that every prompt shows, for models that see; again for more.", show_default=False
        ),
    ] = None,
) -> None:
    """Ask a model before and after: vectors and gate from the small world's prompts, then your own prompts.

    [dim]workbench ask "How do I bake bread?" "How do I break a lock?" --alpha 0.3[/dim]

    [dim]workbench ask "What is this?" --image photo.jpg --target ./my-llava --plan runs/tune[/dim]
    """
    from workbench.chat import tokenize
    from workbench.generation import generate
    from workbench.models import context_length, words_of
    from workbench.prompts import Prompt
    from workbench.sweep.picked import load_plan

    if not all(prompt.strip() for prompt in prompts):
        raise ValueError("got an empty prompt, expected some words: there is nothing to answer")
    ready = None if plan is None else load_plan(plan)
    require_sound(min_auroc, alpha if ready is None else ready.alpha, max_new_tokens, target=target)
    asked = [
        Prompt.user(prompt, source=f"prompts:{i}", images=image or ()) for i, prompt in enumerate(prompts)
    ]
    model = load(target, template=template)
    # For its length alone, before anything is read.
    tokenize(words_of(model), asked, context_length=context_length(model), reserve=max_new_tokens)
    if ready is None:
        ready, shared = plan_for(
            model, profile_of(load(aligned, template=template)), alpha, scale, positions, min_auroc
        )
    else:
        shared = f"{plan}: layers {', '.join(map(str, ready.layers))}, α = {ready.alpha:g}, {ready.scale}"
    before = generate(model, asked, max_new_tokens=max_new_tokens)
    after = generate(model, asked, ready, max_new_tokens=max_new_tokens)
    Console().print(f"[dim]{shared}[/dim]", highlight=False, soft_wrap=True)
    _show_pairs(ready, before, after)


@app.command()
def lab(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(help="Passed on to JupyterLab: -- --port=8899 --no-browser", show_default=False),
    ] = None,
) -> None:
    """Open JupyterLab on the course: twelve notebooks, from a tour to a model of your own.

    Notebooks that are not there yet are written first, unexecuted; those that you have worked in stay as they are.
    """
    from workbench.serving import open_lab

    raise typer.Exit(open_lab(arguments or ()))


@app.command(name="app")
def serve(
    port: Annotated[int, typer.Option(help="Where it listens; the next free port from there.")] = 8866,
    ip: Annotated[
        str, typer.Option(help="127.0.0.1: this machine alone. 0.0.0.0: whoever reaches it over the network.")
    ] = "127.0.0.1",
    browser: Annotated[bool, typer.Option(help="Open a browser window on it.")] = True,
) -> None:
    """Show the tour as a page for a class without Jupyter: text, pictures, and handles to turn, by Voilà.

    Nothing in it can be written or run but what its handles do. Every visitor has models of their own in memory.
    """
    from workbench.serving import open_app

    raise typer.Exit(open_app(port=port, ip=ip, browser=browser))


def _show_pairs(plan: "SteeringPlan", before: "Sequence[Completion]", after: "Sequence[Completion]") -> None:
    console = Console()
    for plain, steered in zip(before, after, strict=True):
        gate = steered.gate_open or ()
        opened = [layer for layer in plan.layers if gate[layer]]
        decision = (
            f"gate open at layers {', '.join(map(str, opened))}"
            if opened
            else "gate closed: nothing is added"
        )
        console.print(f"[bold]{escape(plain.prompt.text)}[/bold]  [dim]{decision}[/dim]", soft_wrap=True)
        console.print(f"  as it is  {escape(plain.text)}", soft_wrap=True)
        console.print(f"  steered   {escape(steered.text)}\n", soft_wrap=True)
