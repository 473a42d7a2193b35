"""`workbench transfer`: safety vectors of aligned models in targets of other bases.

The trap: importing torch takes seconds, which `workbench --help` need not pay. The command imports what it needs when
it runs.
"""

from pathlib import Path
from typing import Annotated

import typer


def transfer(
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="A model to make safe: organism:NAME, a folder or a hub id; may be repeated. MODEL=BASE names the "
            "model it was trained from; without one it stands for its base itself.",
            show_default="organism:medicine, organism:qwen-medicine",
        ),
    ] = None,
    aligned: Annotated[
        list[str] | None,
        typer.Option(
            help="A model that refuses what it should; may be repeated. MODEL=BASE, except for embedded ones, whose "
            "base is known.",
            show_default="organism:aligned, organism:qwen-aligned",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where transfer.csv and the pictures go.")] = Path(
        "runs/transfer"
    ),
    n_texts: Annotated[int, typer.Option(help="Texts that the maps are fitted on.")] = 600,
    n_search: Annotated[
        int, typer.Option(help="Validation prompts of each kind that settings are tried on.")
    ] = 8,
    n_test: Annotated[int, typer.Option(help="Test prompts of each kind that each arm is measured on.")] = 24,
) -> None:
    """Carry safety vectors between models: of every aligned model into every target.

    Where both come from one base, a vector passes as it is. Elsewhere it goes through a linear map, fitted without
    labels on what both [bold]bases[/bold] make of the same texts; widths and depths may differ. Beside it stand the
    controls: the vector as it is, a map read from the aligned model itself, a map of shuffled texts, a random vector
    through the map, the target's own vector. All get the same search on validation prompts, and are measured once, on
    test prompts.

    A base must not have been trained to refuse: a map from the aligned model itself turns its safety vector into the
    target's own, which steers nothing. Any model of the base's family without safety training will do.

    [dim]workbench transfer --target organism:qwen-medicine --aligned organism:aligned[/dim]

    [dim]workbench transfer --target ./mine=./my-base --aligned ./theirs-chat=./theirs-base --n-test 100[/dim]
    """
    from workbench.demo.transfer import run_transfer

    run_transfer(
        target or ["organism:medicine", "organism:qwen-medicine"],
        aligned or ["organism:aligned", "organism:qwen-aligned"],
        out,
        n_texts=n_texts,
        n_search=n_search,
        n_test=n_test,
    )
