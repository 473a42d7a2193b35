"""Safety vectors of every aligned model in every target: the embedded families, and more trainings of the first.

    python figures/transfer.py                       what ships: two families of different architecture, width and depth
    python figures/transfer.py 1=runs/seed-1         and another training of the first, of one shape and no shared base

For every pair of models without a shared base the maps and their controls, every arm at its own best setting on
validation, then once on test; `workbench transfer` does the same for models of your own.

The trap: a sample. Every arm is measured on N_TEST test prompts of each kind, the same for all; the csv has the n. What
is published is the third such measurement: arms were added after the first two (maps of calm texts, several draws of
each random control), and no arm, setting or layer was chosen by them.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from workbench.demo.transfer import Named, measure_transfer, name_models, save_transfer

HERE = Path(__file__).parent
TARGETS = ("finance", "medicine", "maths", "general", "qwen-medicine")
SOURCES = ("aligned", "qwen-aligned")
ELSEWHERE = "medicine"
"""The target of the further trainings."""
N_TEXTS, N_SEARCH, N_TEST = 600, 8, 50


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all pairs in this process, on one thread, and write the csv and the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "families",
        nargs="*",
        metavar="SEED=FOLDER",
        help="a further training of the first family, and its seed",
    )
    families = [family.partition("=") for family in parser.parse_args(arguments).families]
    wanted = [Path(folder) / name for _, _, folder in families for name in (ELSEWHERE, "aligned", "base")]
    if missing := [str(path) for path in wanted if not path.is_dir()]:
        parser.error(
            f"no {', '.join(missing)}: train them, workbench organisms train --seed SEED --out FOLDER"
        )
    targets, sources = (
        name_models([f"organism:{name}" for name in names], aligned=aligned)
        for names, aligned in ((TARGETS, False), (SOURCES, True))
    )
    for seed, _, folder in families:
        targets.append(Named(f"{ELSEWHERE}@{seed}", f"{folder}/{ELSEWHERE}", f"{folder}/base"))
        sources.append(Named(f"aligned@{seed}", f"{folder}/aligned", f"{folder}/base"))
    torch.set_num_threads(1)
    result = measure_transfer(
        targets, sources, n_texts=N_TEXTS, n_search=N_SEARCH, n_test=N_TEST, progress=sys.stderr.isatty()
    )
    save_transfer(result.frame, HERE)


if __name__ == "__main__":
    main()
