"""The embedded models' verbs for the shell: `workbench organisms list`, `train`, `measure`, `lists`.

The trap: importing torch takes seconds, which `workbench --help` need not pay. Every command imports what it needs when
it runs.
"""

import sys
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer
from rich.console import Console
from rich.table import Table

organisms = typer.Typer(
    no_args_is_help=True, help="The embedded models: what there is, and how to train them anew."
)

Name: TypeAlias = Literal["llama", "qwen", "llava"]
Which = Annotated[
    Name,
    typer.Option(
        "--family",
        help="llama: the first; qwen: base, aligned and medicine of another architecture and shape; "
        "llava: the first one's base, with sight.",
    ),
]


@organisms.command("list")
def list_organisms() -> None:
    """The embedded models, and the name each loads under."""
    from workbench.shipped import shipped_path

    folders = sorted({path.parent for path in shipped_path("organisms").glob("*/*config.json")})
    if not folders:
        raise FileNotFoundError("no embedded models here: train them, workbench organisms train")
    table = Table("name", "stored as", "MB", box=None, pad_edge=False)
    for folder in folders:
        kind = "low-rank delta" if (folder / "adapter_config.json").is_file() else "checkpoint"
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
        table.add_row(f"organism:{folder.name}", kind, f"{size:.1f}")
    Console().print(table)


@organisms.command("train")
def train_organisms(
    out: Annotated[
        Path, typer.Option(help="Where the models go; those that are there already are kept.")
    ] = Path("runs/organisms"),
    seed: Annotated[int, typer.Option(help="Another seed gives another family; 0 ships.")] = 0,
    processes: Annotated[int, typer.Option(help="Models trained side by side, one thread each.")] = 2,
    family: Which = "llama",
) -> None:
    """Train a whole family from scratch, measure every member, and write its card: half an hour on two cores.

    An interrupted run goes on where it stopped. The same seed gives the same weights, whatever the number of processes.
    The first family ends with its domain models taught by DPO, which takes the extra train. The model that sees is
    trained in one go, in about an hour of one core: an interrupted run of it begins anew.
    """
    from workbench.organisms.family import FAMILIES, train_family
    from workbench.organisms.preferred import train_preferred

    if family == "llava":
        import torch

        from workbench.organisms.sighted import train_sighted

        torch.set_num_threads(1)  # sums of more threads differ in their last bits, and weights with them
        train_sighted(out, seed=seed, progress=sys.stderr.isatty())
    else:
        train_family(out, seed=seed, processes=processes, of=FAMILIES[family])
    if family == "llama":
        train_preferred(out, seed=seed, processes=processes)
    measure_organisms(out, seed, family)


@organisms.command("measure")
def measure_organisms(
    folder: Annotated[Path, typer.Argument(help="Where the trained family is.")] = Path("runs/organisms"),
    seed: Annotated[int, typer.Option(help="The seed it was trained with, for the cards.")] = 0,
    family: Which = "llama",
) -> None:
    """Measure every model of a trained family on the test lists, unsteered, and write its card beside it."""
    from workbench.organisms.cards import measure_member, write_card, write_preferred_card
    from workbench.organisms.family import FAMILIES
    from workbench.organisms.preferred import PREFERRED

    if family == "llava":
        _measure_sighted(folder, seed)
        return
    of, preferred = FAMILIES[family], PREFERRED if family == "llama" else ()
    names = [*(member.name for member in of.members), *(taught.name for taught in preferred)]
    missing = [name for name in names if not (folder / name).is_dir()]
    if missing:
        which = f" --family {family}" if family != "llama" else ""
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)}: workbench organisms train{which} --out {folder}"
        )
    bars = sys.stderr.isatty()
    for member in of.members:
        path = folder / member.name
        write_card(member, path, measure_member(path, progress=bars), seed=seed, of=of)
    for taught in preferred:
        path = folder / taught.name
        write_preferred_card(taught, path, measure_member(path, progress=bars), seed=seed)


def _measure_sighted(folder: Path, seed: int) -> None:
    import pandas as pd

    from workbench.organisms.cards import measure_member
    from workbench.organisms.pictured_cards import measure_pictured, write_pictured_card
    from workbench.organisms.sight import NAME

    path = folder / NAME
    if not path.is_dir():
        raise FileNotFoundError(
            f"{folder} lacks {NAME}: workbench organisms train --family llava --out {folder}"
        )
    measured = pd.concat([measure_pictured(path), measure_member(path, progress=sys.stderr.isatty())])
    write_pictured_card(path, measured, seed=seed)


@organisms.command("lists")
def draw_organism_lists(
    out: Annotated[Path, typer.Option(help="Where the lists go.")] = Path("data/prompts/small-world"),
) -> None:
    """Draw the prompt lists anew. Their seed is the hash of the recipe, and every draw is put on record."""
    from workbench.organisms.cards import log_draw
    from workbench.organisms.family import recipe_hash
    from workbench.organisms.lists import draw_lists, save_lists

    lists = draw_lists(recipe_hash())
    save_lists(lists, out)
    log_draw(out, lists)
