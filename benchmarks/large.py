"""Reading, steering and sweeping at the shapes of LLaMA-2, with random weights: for a machine with a GPU.

    steered / unsteered    tokens per second of `generate` under a plan, and of transformers' own generate
    extraction / forward   prompts per second of `last_token_activations`, and of a bare forward pass
    one batch / loop       rows per second of a sweep of 32 settings, and of the same in a loop over settings

Weights are bfloat16 on a GPU and float32 elsewhere, in one copy; peak memory is the GPU's, weights included, and not
known elsewhere. In bfloat16 two arms part oftener than the count of near ties knows, so nothing is compared but time.
"""

import argparse
import gc
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import extraction
import generation
import pandas as pd
import torch
from subjects import SHAPES, prompts_of_both_kinds
from sweep_arms import write_looped, write_ours
from sweep_grid import NEW_TOKENS, Subject, grid_of, random_subject
from timing import interleaved

from workbench import PromptSet

SETTINGS = 32


def main() -> None:
    """Print a table per shape."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--shape", nargs="+", default=["llama-2-7b", "llama-2-13b"], choices=list(SHAPES))
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--prompts", type=int, default=128, help="of extraction")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU"
    for shape in options.shape:
        print(
            f"\n{shape} on {device}, torch {torch.__version__}, medians of {options.repeats} [quartiles]",
            flush=True,
        )
        rows = list(_rows(random_subject(shape), options.batch_sizes, options.prompts, options.repeats))
        print(pd.DataFrame(rows).to_string(index=False))
        del rows
        gc.collect()  # hooks and models hold each other: the next shape needs the room


def _rows(
    subject: Subject, batch_sizes: list[int], n_prompts: int, repeats: int
) -> Iterator[Mapping[str, object]]:
    model = subject.model
    for size in batch_sizes:
        pool = prompts_of_both_kinds(max(size, 2))
        prompts = PromptSet("large", pool.prompts[:size])
        arms = generation.arms_of(model, model, prompts, generation.plans_for(model, pool), size)
        chosen = {name: arms[name] for name in (generation.TRANSFORMERS, generation.OURS, generation.STEERED)}
        done = size * generation.NEW_TOKENS
        yield from _told(
            f"generation, batch {size}", "tokens/s", done, chosen, generation.TRANSFORMERS, repeats
        )
    prompts = prompts_of_both_kinds(n_prompts)
    reading = extraction.arms_of(model, model, prompts, 64)
    chosen_reads = {name: reading[name] for name in (extraction.FORWARD, extraction.OURS)}
    yield from _told(
        "extraction, batch 64", "prompts/s", n_prompts, chosen_reads, extraction.FORWARD, repeats
    )
    grid = grid_of(subject, closed_share=0, n_prompts=2, n_settings=SETTINGS)
    n_rows = SETTINGS * len(grid.prompts)
    sweeps: dict[str, Callable[[], object]] = {
        "loop": partial(write_looped, grid, batch_size=len(grid.prompts), way="own loop, dynamic cache"),
        "one batch": partial(write_ours, grid, batch_size=n_rows),
    }
    what = f"{SETTINGS} settings, {len(grid.prompts)} prompts, {NEW_TOKENS} tokens"
    yield from _told(what, "rows/s", n_rows, sweeps, "loop", repeats)


def _told(
    what: str, unit: str, done: int, arms: Mapping[str, Callable[[], object]], reference: str, repeats: int
) -> Iterator[Mapping[str, object]]:
    """A line per arm: what it gets done in a second, its seconds over the reference's, and its peak memory."""
    peaks = {name: _peak_gigabytes(arm) for name, arm in arms.items()}
    timings = interleaved(arms, repeats=repeats)
    for name, seconds in timings.seconds.items():
        per_second = f"{done / pd.Series(seconds).median():.1f} {unit}"
        ratio = "{:.3f} [{:.3f}, {:.3f}]".format(*timings.ratio(name, reference))
        yield {
            "what": what,
            "arm": name,
            "does": per_second,
            "seconds, ratio": ratio,
            "peak, GB": peaks[name],
        }


def _peak_gigabytes(arm: Callable[[], object]) -> str:
    if not torch.cuda.is_available():
        arm()
        return ""
    torch.cuda.reset_peak_memory_stats()
    arm()
    return f"{torch.cuda.max_memory_allocated() / 1e9:.1f}"


if __name__ == "__main__":
    main()
