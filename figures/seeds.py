"""What three trainings of the family do, from three seeds: the claims that one training alone could owe to luck.

For every seed, over every test prompt: the aligned model as it is; each domain model as it is and under InferAligner,
whose layers, gate, strength and positions are chosen anew, by the search of the full demo but for its controls' own.

    python figures/seeds.py 0=data/organisms 1=runs/seed-1 2=runs/seed-2

The trap: seed 0 ships, whatever the others show. Nothing here picks a seed.
"""

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch

from workbench.demo.target import BATCH_SIZE, FULL_SEARCH, MAX_NEW_TOKENS, prompts_for
from workbench.evaluation.answers import Arm
from workbench.evaluation.conditions import Condition
from workbench.evaluation.metrics import estimates
from workbench.evaluation.protocol import measure
from workbench.loading import load_model
from workbench.organisms.cards import measure_member
from workbench.organisms.items import DOMAINS
from workbench.provenance import write_safely
from workbench.sweep.choosing import choose

CSV = Path(__file__).with_name("seeds.csv")
ALIGNED = "aligned"


def measure_one(seed: int, folder: Path, name: str) -> pd.DataFrame:
    """The rows of one model of one seed: seed, model, arm, metric, and an estimate."""
    torch.set_num_threads(1)
    if name == ALIGNED:
        found = measure_member(folder / ALIGNED).rename(columns={"measure": "metric"}).assign(arm="none")
    else:
        pairs, other_concept = prompts_for(name)
        target, aligned = (load_model(folder / one, backend="plain") for one in (name, ALIGNED))
        made = choose(
            target, aligned, pairs, other_concept, search_on=pairs.val.sample_each(FULL_SEARCH), controls=False,
            max_new_tokens=MAX_NEW_TOKENS, batch_size=BATCH_SIZE,
        )  # fmt: skip
        rows = [Condition("none", Arm("none")), Condition("inferaligner", Arm("inferaligner", (made.ours,)))]
        measured = measure(
            {"target": target}, pairs.test, rows, max_new_tokens=MAX_NEW_TOKENS, batch_size=BATCH_SIZE
        )
        found = estimates(measured.frame)
    return found.assign(seed=seed, model=name)[
        ["seed", "model", "arm", "metric", "mean", "low", "high", "n", "clusters", "method"]
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every seed's models, in as many processes as there are cores, and write the csv."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("families", nargs="+", metavar="SEED=FOLDER", help="a trained family and its seed")
    families = [family.partition("=") for family in parser.parse_args(arguments).families]
    jobs = [
        (int(seed), Path(folder), name) for (seed, _, folder), name in product(families, (ALIGNED, *DOMAINS))
    ]
    missing = [str(folder / name) for _, folder, name in jobs if not (folder / name).is_dir()]
    if missing:
        parser.error(
            f"no {', '.join(missing)}: train them, workbench organisms train --seed SEED --out FOLDER"
        )
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        frame = pd.concat(pool.map(measure_one, *zip(*jobs, strict=True)), ignore_index=True)
    write_safely(CSV, frame.to_csv(index=False).encode())


if __name__ == "__main__":
    main()
