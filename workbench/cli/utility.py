"""`workbench utility` and `workbench harness`: what steering costs, on tasks from files and on lm-evaluation-harness'.

The trap: a plan without its model is nothing. Both take a model and a plan that `workbench tune` or `save_plan` wrote,
and tell the numbers of both, without the plan and with it.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from workbench.cli.plans import Template, load

if TYPE_CHECKING:
    from workbench.loading import Model
    from workbench.prompts import PromptSet
    from workbench.stats import Estimate
    from workbench.steering import SteeringPlan
    from workbench.utility.tasks import Task

ModelName = Annotated[
    str, typer.Argument(help="organism:NAME, a folder, or a hub id.", show_default=False, metavar="MODEL")
]
PlanPath = Annotated[
    Path | None,
    typer.Option(
        "--plan", help="A plan that `workbench tune` or save_plan wrote; without one the model as it is.",
        show_default=False,
    ),
]  # fmt: skip


def utility(
    model: ModelName,
    plan: PlanPath = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="gsm8k=PATH, mmlu=PATH, ...: a published set and its file or a folder it lies in; mine=PATH:letter is "
            "a file of your own with the form of its answers. May be repeated.",
            show_default=False,
        ),
    ] = None,
    by: Annotated[
        Literal["generation", "likelihood"],
        typer.Option(help="Read what the model writes, or score every option as the reply."),
    ] = "generation",
    n: Annotated[
        int | None, typer.Option("-n", help="So many prompts of each, drawn by --seed.", show_default="all")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of that draw.")] = 0,
    fluency: Annotated[
        str | None,
        typer.Option(
            help="alpaca=PATH, ...: harmless prompts for perplexity, and KL to the unsteered model; small-world for "
            "the shipped ones.",
            show_default=False,
        ),
    ] = None,
    over_refusal: Annotated[
        str | None,
        typer.Option(
            help="xstest=PATH, or-bench=PATH: how often prompts that only sound harmful are refused, by phrases.",
            show_default=False,
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="The longest reply.", show_default="up to 256")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Rows of a batch.")] = 64,
    template: Template = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same numbers as JSON.")] = False,
) -> None:
    """What does steering cost? Accuracy on tasks, perplexity and KL on harmless text, refusals of safe prompts.

    Whatever names no answer counts as unanswered, which is told and is not right. Intervals are 95 %; the change is
    paired by prompt.

    [dim]workbench utility organism:maths --plan runs/tune/plan.json --fluency small-world[/dim]
    """
    from workbench.sweep.picked import load_plan
    from workbench.utility.tasks import task_of

    if not (task or fluency or over_refusal):
        raise ValueError("got nothing to measure, expected --task, --fluency or --over-refusal: see --help")
    if fluency is not None and plan is None:
        raise ValueError(
            "got --fluency without --plan, and it tells what a plan does: workbench tune makes one"
        )
    tasks = [task_of(text) for text in task or ()]
    harmless = None if fluency is None else _harmless(fluency)
    safe = None if over_refusal is None else _published(over_refusal).labelled("contrast")
    if n is not None:
        tasks = [t.sample(min(n, len(t.prompts)), seed=seed) for t in tasks]
        harmless, safe = (s and s.sample(min(n, len(s)), seed=seed) for s in (harmless, safe))
    ready = None if plan is None else load_plan(plan)
    target = load(model, template=template)
    told: dict[str, Any] = {"model": model, "plan": None if ready is None else ready.id}
    options: dict[str, Any] = dict(max_new_tokens=max_new_tokens, batch_size=batch_size, progress=_bars())
    console = Console(stderr=as_json)
    if tasks:
        told["tasks"] = [_run_task(target, t, ready, by, options, console) for t in tasks]
    if harmless is not None and ready is not None:
        told["fluency"] = _run_fluency(target, harmless, ready, options, console)
    if safe is not None:
        told["over_refusal"] = _run_safe(target, safe, ready, options, console)
    if as_json:
        typer.echo(json.dumps(told, indent=1))


def harness(
    model: ModelName,
    tasks: Annotated[
        list[str],
        typer.Option("--tasks", help="A task or a group by name; may be repeated.", show_default=False),
    ],
    plan: PlanPath = None,
    include: Annotated[
        Path | None,
        typer.Option(help="A folder of task files (YAML) of your own.", show_default=False),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="So many documents of each task, to try it.", show_default="all")
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(help="Examples before each.", show_default="the task's")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat/--no-chat", help="Apply the chat template, at whose end gates read.")
    ] = True,
    without_context: Annotated[
        Literal["open", "closed"] | None,
        typer.Option(
            help="Whether text without a context is shifted: rolling likelihood needs a word on it."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Rows of a batch.")] = 32,
    template: Template = None,
    as_json: Annotated[bool, typer.Option("--json", help="The harness' own results as JSON.")] = False,
) -> None:
    """Run tasks of lm-evaluation-harness on a model without and with a plan (extra eval).

    A gate is decided once per context, at its last token. Tasks of the hub are downloaded by the harness; those in a
    folder of your own (--include) can do without a network.

    [dim]workbench harness organism:maths --plan runs/tune/plan.json --include my-tasks --tasks sums[/dim]
    """
    from workbench.sweep.picked import load_plan
    from workbench.utility.harness import SteeredLM, run_harness

    if include is not None and not include.is_dir():
        raise FileNotFoundError(f"no folder {include}: name the one that your task files lie in")
    ready = None if plan is None else load_plan(plan)
    target = load(model, template=template)
    arms = {"unsteered": None} if ready is None else {"unsteered": None, "steered": ready}
    models = {
        arm: SteeredLM(target, of, batch_size=batch_size, without_context=without_context)
        for arm, of in arms.items()
    }
    found = {
        arm: run_harness(lm, tasks, include=include, limit=limit, num_fewshot=num_fewshot, chat=chat)
        for arm, lm in models.items()
    }
    for arm, lm in models.items():
        if lm.truncated:
            typer.echo(f"workbench: careful: {arm}, {lm.truncated} contexts lost their beginning", err=True)
    if as_json:
        typer.echo(json.dumps(found, indent=1, default=str))
        return
    table = Table("task", "metric", *(f"{arm}\n± s.e." for arm in arms), box=None, pad_edge=False)
    for name, metrics in found["unsteered"].items():
        for metric, value in metrics.items():
            if isinstance(value, float) and "_stderr" not in metric:
                table.add_row(
                    name, metric.removesuffix(",none"), *(_pm(found[arm][name], metric) for arm in arms)
                )
    Console().print(table)


def _run_task(
    target: "Model",
    task: "Task",
    plan: "SteeringPlan | None",
    by: Any,
    options: dict[str, Any],
    console: Console,
) -> dict[str, Any]:
    from workbench.utility.running import run_task

    result = run_task(target, task, plan, by=by, **options)
    summary = result.summary()
    table = Table(
        "read", "arm", "accuracy %", "unanswered", *(["macro F1"] if task.form.classes else []),
        title=f"{task.name}: {len(task.prompts)} prompts, by {by}", title_justify="left", box=None, pad_edge=False,
    )  # fmt: skip
    for row in summary.to_dict("records"):
        f1 = [f"{row['f1']:.3f}"] if task.form.classes else []
        accuracy = f"{100 * row['accuracy']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
        table.add_row(row["reading"], row["arm"], accuracy, f"{row['unanswered']} of {row['n']}", *f1)
    console.print(table)
    told: dict[str, Any] = {"rows": json.loads(summary.to_json(orient="records"))}
    if plan is not None:
        told["change"] = {reading: vars(result.change(reading=reading)) for reading in result.readings}
        console.print(f"change {_points(result.change())} points\n", highlight=False)
    return told


def _run_fluency(
    target: "Model", prompts: "PromptSet", plan: "SteeringPlan", options: dict[str, Any], console: Console
) -> dict[str, Any]:
    from workbench.utility.fluency import fluency

    found = fluency(target, prompts, plan, **options)
    numbers = {"unsteered": found.perplexity("unsteered"), "steered": found.perplexity(), "kl": found.kl()}
    console.print(
        f"{prompts.name}, {len(prompts)} prompts, over {found.written}; the gate opened on "
        f"{int(found.frame['open'].sum())}\n"
        f"  perplexity       {numbers['unsteered']}\n  steered          {numbers['steered']}\n"
        f"  KL, nats a token {numbers['kl']}\n",
        highlight=False,
    )
    return {"written": found.written, **{name: vars(estimate) for name, estimate in numbers.items()}}


def _run_safe(
    target: "Model",
    prompts: "PromptSet",
    plan: "SteeringPlan | None",
    options: dict[str, Any],
    console: Console,
) -> dict[str, Any]:
    from workbench.evaluation.answers import Arm, answer
    from workbench.evaluation.metrics import change, estimate
    from workbench.judges.refusals import judge_refusal
    from workbench.kinship import warn_if_unrelated

    warn_if_unrelated([] if plan is None else [plan])
    arms = [Arm("unsteered")] + ([] if plan is None else [Arm("steered", (plan,))])
    frame = answer(target, prompts, arms, judge=judge_refusal, **options)
    told: dict[str, Any] = {}
    console.print(f"{prompts.name}: {len(prompts)} safe prompts that sound harmful, refused", highlight=False)
    parts = {arm.name: frame[frame["arm"] == arm.name] for arm in arms}
    for name, part in parts.items():
        found = estimate(part, "contrast_refusal")
        assert found is not None  # every prompt is one of contrast
        told[name] = vars(found)
        console.print(f"  {name:<10}{_percent(found)}", highlight=False)
    if plan is not None:
        moved = change(parts["steered"], parts["unsteered"], "contrast_refusal")
        assert moved is not None
        told["change"] = vars(moved)
        console.print(f"  change    {_points(moved)} points", highlight=False)
    return told


def _published(text: str) -> "PromptSet":
    from workbench.published import load_published

    name, _, where = text.partition("=")
    return load_published(name, **_place(where, text))


def _harmless(text: str) -> "PromptSet":
    from workbench.published import load_contrast

    prompts = load_contrast("small-world").val if text == "small-world" else _published(text)
    return prompts.labelled("harmless")


def _place(where: str, text: str) -> dict[str, Any]:
    if not where:
        raise ValueError(f"got {text!r}, expected SET=PATH, a file or the folder it lies in")
    return {"root" if Path(where).is_dir() else "path": Path(where)}


def _pm(metrics: dict[str, Any], metric: str) -> str:
    name, _, filtered = metric.partition(",")
    error = metrics.get(f"{name}_stderr,{filtered}")
    spread = f" ± {error:.4f}" if isinstance(error, float) else ""
    return f"{metrics[metric]:.4f}{spread}"


def _percent(found: "Estimate") -> str:
    return f"{100 * found.mean:.1f} % [{100 * found.low:.1f}, {100 * found.high:.1f}], n = {found.n}"


def _points(found: "Estimate") -> str:
    return f"{100 * found.mean:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]".replace("-", "−")


def _bars() -> bool:
    return sys.stderr.isatty()
