"""`workbench train-dpo`: a low-rank delta that prefers the chosen replies of a file of pairs.

The trap: importing torch takes seconds, which `workbench --help` need not pay. The command imports what it needs when
it runs.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer


def train_dpo(
    model: Annotated[
        str, typer.Argument(help="The model to train: a folder, hub id or organism.", show_default=False)
    ],
    pairs: Annotated[
        Path,
        typer.Argument(
            help='JSON lines: {"prompt": ..., "chosen": ..., "rejected": ...}.', show_default=False
        ),
    ],
    out: Annotated[Path, typer.Argument(help="A new folder for the delta.", show_default=False)],
    seed: Annotated[int, typer.Option(help="Of the delta's first weights and the pairs' order.")] = 0,
    beta: Annotated[
        float, typer.Option(help="How closely the model is held to itself: smaller is looser.")
    ] = 0.1,
    epochs: Annotated[int, typer.Option(help="Passes over the pairs.")] = 3,
    batch_size: Annotated[int, typer.Option(help="Pairs a step.")] = 8,
    lr: Annotated[float, typer.Option(help="The learning rate, which falls to zero.")] = 1e-4,
    rank: Annotated[int, typer.Option(help="Of the delta.")] = 16,
    template: Annotated[
        str | None,
        typer.Option(help="A chat template's name, where the model brings none.", show_default=False),
    ] = None,
) -> None:
    """Train a model to prefer one reply to another, by DPO (extra `train`): the delta loads as a model of its own.

    [dim]workbench train-dpo my-domain-model pairs.jsonl my-safer-model[/dim]
    """
    from workbench.preferences import DpoRecipe, load_pairs, train_dpo

    found = load_pairs(pairs)
    folder = train_dpo(
        model,
        found,
        out,
        seed=seed,
        recipe=DpoRecipe(beta, epochs, batch_size, lr, rank),
        template=template,
        progress=sys.stderr.isatty(),
    )
    typer.echo(f"{folder}: a delta on {model}, of {len(found):,} pairs")
    named = "" if template is None else f', template="{template}"'
    typer.echo(f'Next: in Python: wb.load_model("{folder}", backend="plain"{named})')
