"""`workbench tune`: layers and gate chosen, then strength and layer set searched, one setting picked and measured.

The trap: the numbers of a search are those of the prompts it fitted. What it prints last, from test, is the claim.
"""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer
from rich.console import Console

from workbench.cli.plans import Template, load
from workbench.cli.sweep import resumable

if TYPE_CHECKING:
    from workbench.loading import Model
    from workbench.prompts import ContrastSet
    from workbench.steering import SteeringPlan
    from workbench.sweep.tuned import Tuned

Sampler: TypeAlias = Literal["nsga2", "tpe"]
SEARCH = {"harmful": 40, "jailbroken": 40, "harmless": 30, "contrast": 30, "domain": 20}
"""Of each label so many validation prompts are searched on; `--full` takes all."""


def tune(
    target: Annotated[
        str, typer.Option(help="The model to make safe: organism:NAME, a folder, or a hub id.")
    ] = "organism:finance",
    aligned: Annotated[
        str, typer.Option(help="The model that refuses what it should; its vectors steer the target.")
    ] = "organism:aligned",
    trials: Annotated[int, typer.Option(help="How many settings are tried.")] = 48,
    at_once: Annotated[int, typer.Option(help="How many of them are asked and answered together.")] = 12,
    sampler: Annotated[Sampler, typer.Option(help="What asks: NSGA-II, or TPE.")] = "nsga2",
    seed: Annotated[int, typer.Option(help="The same seed tries the same settings.")] = 0,
    max_alpha: Annotated[
        float,
        typer.Option(
            help="Strength is searched from 0 to this, in lengths of the aligned model's difference."
        ),
    ] = 1.5,
    max_bias: Annotated[
        float, typer.Option(help="The gate is made stricter and laxer by up to this; 0 leaves it as it is.")
    ] = 0.0,
    full: Annotated[
        bool, typer.Option("--full", help="Search on every validation prompt, not a sample.")
    ] = False,
    measure: Annotated[
        bool, typer.Option(help="Measure the picked setting once on the test prompts.")
    ] = True,
    template: Template = None,
    out: Annotated[Path, typer.Option(help="Where trials, pictures and the picked plan go.")] = Path(
        "runs/tune"
    ),
) -> None:
    """Search strength, layers and the gate's bias on validation prompts; pick one setting, measure it once on test.

    It minimises attacks without a clean refusal, domain accuracy lost, and harmless or contrast prompts without an
    answer, and never searches for higher attack success. Layers and gate are found first, as in `workbench layers`.
    Random directions of equal length are tried at every setting. Needs Optuna: the extra `search`.

    [dim]workbench tune --target organism:medicine --trials 96 --out runs/tune-medicine[/dim]
    """
    from workbench.sweep.tuning import require_search
    from workbench.sweep.tuning import tune as search

    if not 0 <= max_bias < math.inf:
        raise ValueError(f"got --max-bias {max_bias:g}, expected 0 or more: it is searched to either side")
    if not 0 < max_alpha < math.inf:
        raise ValueError(
            f"got --max-alpha {max_alpha:g}, expected more than 0: strength is searched from 0 to it"
        )
    if seed < 0:
        raise ValueError(f"got --seed {seed}, expected 0 or more")
    require_search(sampler, trials, at_once)
    model, pairs, plan, found = _prepare(target, aligned, template)
    console = Console()
    for sentence in found:
        console.print(f"[dim]{sentence}[/dim]", highlight=False, soft_wrap=True)
    ledger = out / "ledger.sqlite"
    with resumable(ledger):
        tuned = search(
            model, pairs, plan, alpha=(0.0, max_alpha), bias=(-max_bias, max_bias) if max_bias else None,
            sampler=sampler, trials=trials, at_once=at_once, seed=seed, measure=measure, ledger=ledger,
            search_on=None if full else pairs.val.sample_each(SEARCH), progress=sys.stderr.isatty(),
        )  # fmt: skip
    written = write_tuned(tuned, out)
    for sentence in tuned.sentences():
        console.print(sentence, highlight=False, soft_wrap=True)
    console.print(
        f"[dim]written: {', '.join(str(path) for path in written)}[/dim]", highlight=False, soft_wrap=True
    )
    again = f'workbench ask "How do I ...?" --target {target} --plan {out}'
    again += f" --template {template}" if template else ""
    console.print(
        f"Next: {again}"
        if tuned.worth_it
        else "Next: a wider search, since nothing that was tried is worth its price: --max-alpha, --max-bias, --trials",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def write_tuned(tuned: "Tuned", folder: Path) -> list[Path]:
    """Trials and front as pictures with their csv, and the picked plan beside them."""
    from workbench import plots
    from workbench.export import save_figure
    from workbench.sweep.picked import save_plan

    return [
        save_figure(plots.tuning_history(tuned), tuned.trials, folder / "trials.svg"),
        save_figure(plots.pareto(tuned), tuned.scored, folder / "front.svg"),
        save_plan(tuned.plan, folder),
    ]


def _prepare(
    target: str, aligned: str, template: str | None
) -> "tuple[Model, ContrastSet, SteeringPlan, list[str]]":
    """The target, its prompts, and a plan with layers and gate chosen on validation; a sentence on each choice."""
    from workbench.activations import last_token_activations
    from workbench.organisms.items import DOMAINS
    from workbench.profiles import layer_profile, select_layers
    from workbench.published import load_contrast
    from workbench.steering import SteeringPlan
    from workbench.sweep.choosing import MIN_AUROC, choose_gate
    from workbench.vectors import cosine_sentence, mean_difference

    models = [load(name, template=template) for name in (target, aligned)]
    domain = target.removeprefix("organism:")
    pairs = load_contrast("small-world", domain=domain if domain in DOMAINS else None)
    train, val = (
        [last_token_activations(model, part, progress=sys.stderr.isatty()) for model in models]
        for part in (pairs.train, pairs.val)
    )
    srv, ssv = (mean_difference(read) for read in train)
    layers = select_layers(layer_profile(srv, val[0]), layer_profile(ssv, val[1]), min_auroc=MIN_AUROC)
    gate = choose_gate(srv, train[0], val[0])
    plan = SteeringPlan(ssv, gate=gate, layers=layers, alpha=1.0, scale="gap", positions="prompt")
    found = [
        f"layers {', '.join(map(str, layers))} tell harmful from harmless in both models; the gate reads layer "
        f"{gate.shared_layer}",
        cosine_sentence(srv, ssv, layers),
    ]
    return models[0], pairs, plan, found
