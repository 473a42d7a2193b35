"""What a sweep costs beside the strongest fair loop, beside its peers, and beside the floor.

    speedup_vs_X       = seconds of X / seconds of ours, on the same grid, of the same repeat
    speedup_without_X  = seconds of ours without X / seconds of ours
    over_floor         = seconds of ours / seconds of the distinct rows, unsteered, at the best batch size

The grid: 8 strengths (none of them 0) x 8 layer sets x 64 prompts, greedy, 24 new tokens, all positions steered, with
25, 50 and 75 % of the prompts behind a closed gate. Every arm writes the same replies, which is checked token by token.
"""

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from peering import ENVIRONMENTS, Peer, directions_of, installed, peers_on
from subjects import SHAPES
from sweep_arms import WAYS, Replies, Way, differing, write_looped, write_ours, write_unsteered
from sweep_grid import NEW_TOKENS, Grid, Subject, embedded_subject, grid_of, random_subject
from sweep_scaling import compare_cost, compare_memory
from timing import Timings, conclude, describe, interleaved

PEERS = ("steering-vectors", "nnsight")
"""Those that can leave rows of a batch alone."""
OURS, LOOP, FLOOR = "ours", "transformers loop", "floor"
WITHOUT = ("packing", "closed-gate sharing", "prefix sharing")
BATCH_SIZES = (64, 128, 256, 512)
LOOP_BATCH_SIZES = (16, 32, 64)
TOLD = 50
"""The share of closed gates, in percent, that the last line is about."""


def main() -> None:
    """Time the arms of every grid, and print their ratios."""
    options = _options()
    if options.memory:
        batch = options.batch_size or max(BATCH_SIZES)
        return conclude(compare_memory(options.model, options.prompts, options.settings, batch))
    subject = random_subject(options.shape) if options.shape else embedded_subject(options.model)
    options.batch_size = options.batch_size or _best_batch(subject, options)
    if options.cost:
        describe(subject.model, subject.open.sample(options.prompts, seed=0), options.batch_size)
        return conclude(
            compare_cost(subject, options.prompts, options.settings, options.batch_size, options.repeats)
        )
    if options.shape:
        print(f"left out: {', '.join(PEERS)} (they load a checkpoint)")
    options.installed = [] if options.shape else installed(options.peers, PEERS)
    told = TOLD if TOLD in options.share else options.share[-1]
    last_line: Mapping[str, float | None] = {}
    for percent in options.share:
        grid = grid_of(
            subject, closed_share=percent / 100, n_prompts=options.prompts, n_settings=options.settings
        )
        print(f"\n{percent} % of gates closed:", end=" ")
        found = _compare(grid, options)
        last_line = found if percent == told else last_line
    conclude(last_line)


def _compare(grid: Grid, options: argparse.Namespace) -> Mapping[str, float | None]:
    """Time all arms on one grid; the ratios by their names in the last line."""
    describe(grid.model, grid.prompts, options.batch_size)
    asked = len(grid.prompts) * len(grid.plans)
    print(f"{len(grid.plans)} settings: {asked} rows asked for, {grid.distinct_rows} distinct")
    way, size = _best_loop(grid)
    print(f"the loop runs in batches of {size} ({way})")
    written: dict[str, Replies] = {}

    def keep(name: str, write: Callable[[], Replies]) -> None:
        written[name] = write()

    ours = partial(write_ours, grid, batch_size=options.batch_size)
    local: dict[str, Callable[[], Replies]] = {
        OURS: ours,
        LOOP: partial(write_looped, grid, batch_size=size, way=way),
        f"without {WITHOUT[0]}": partial(ours, packed=False),
        f"without {WITHOUT[1]}": partial(ours, share_closed=False),
        f"without {WITHOUT[2]}": partial(ours, share_prefix=False),
        FLOOR: partial(write_unsteered, grid, batch_size=options.batch_size),
    }
    arms: dict[str, Callable[[], object]] = {
        name: partial(keep, name, write) for name, write in local.items()
    }
    with peers_on(grid.task, directions_of(grid.plans[0]), options.peers, options.installed) as peers:
        for peer in peers:
            arms[f"{peer.name}, unsteered"] = partial(peer.ask, "unsteered")
            arms[peer.name] = partial(peer.ask, "steered")
        timings = interleaved(arms, repeats=options.repeats)
        timings.show(OURS)
        _require_same_work(grid, written, peers, strict=not options.shape)
    return _ratios(timings)


def _ratios(timings: Timings) -> dict[str, float | None]:
    """Printed with quartiles, where the line above has them the other way round or not at all."""
    for peer in [name for name in PEERS if name in timings.seconds]:
        ratio = "{:.3f} x [{:.3f}, {:.3f}]".format(*timings.ratio(peer, f"{peer}, unsteered"))
        print(f"{peer} beside its own unsteered model: {ratio}")
    print("ours over the floor: {:.3f} x [{:.3f}, {:.3f}]".format(*timings.ratio(OURS, FLOOR)))

    def beside(arm: str) -> float | None:
        return timings.ratio(arm, OURS)[0] if arm in timings.seconds else None

    return (
        {"speedup_vs_transformers_loop": beside(LOOP)}
        | {f"speedup_vs_{name.replace('-', '_')}": beside(name) for name in PEERS}
        | {"over_floor": timings.ratio(OURS, FLOOR)[0]}
        | {f"speedup_without_{_key(saving)}": beside(f"without {saving}") for saving in WITHOUT}
    )


def _require_same_work(
    grid: Grid, written: Mapping[str, Replies], peers: list[Peer], *, strict: bool
) -> None:
    """Every steered arm wrote what ours did, or parted from it where two logits nearly tie.

    In bfloat16 they part oftener than the count of near ties knows: there the rows are only counted.
    """
    ours = written[OURS]
    others = {name: replies.tokens for name, replies in written.items() if name not in (OURS, FLOOR)}
    others |= {peer.name: tuple(peer.replies()) for peer in peers}
    n_tokens = [len(row) for row in ours.tokens]
    full = np.mean([n == NEW_TOKENS for n in n_tokens])
    ties = sum(n > 0 for n in ours.near_ties)
    print(
        f"replies have {np.mean(n_tokens):.1f} tokens, {100 * full:.0f} % all {NEW_TOKENS}; {ties} have near ties"
    )
    for name, tokens in others.items():
        parted, unexplained = differing(ours, tokens)
        if unexplained and strict:
            raise RuntimeError(
                f"{name} wrote {unexplained} of {len(tokens)} replies otherwise than ours, without a near tie: "
                "the arms did not do the same work"
            )
        print(f"{name}: {parted} of {len(tokens)} replies part from ours")


def _best_batch(subject: Subject, options: argparse.Namespace) -> int:
    """The batch size at which ours takes the least time on an eighth of the grid."""
    few = max(1, options.settings // 8)
    grid = grid_of(subject, closed_share=0, n_prompts=options.prompts, n_settings=few)
    sizes = [size for size in BATCH_SIZES if size <= len(grid.prompts) * few] or [min(BATCH_SIZES)]
    arms = {str(size): partial(write_ours, grid, batch_size=size) for size in sizes}
    return int(_fastest(arms))


def _best_loop(grid: Grid) -> tuple[Way, int]:
    """How the loop runs fastest on two settings."""
    few = grid.part(2)
    sizes = [size for size in LOOP_BATCH_SIZES if size <= len(grid.prompts)] or [len(grid.prompts)]
    choices = {f"{way}, {size}": (way, size) for way in WAYS for size in sizes}
    fastest = _fastest(
        {name: partial(write_looped, few, batch_size=size, way=way) for name, (way, size) in choices.items()}
    )
    return choices[fastest]


def _fastest(arms: Mapping[str, Callable[[], object]]) -> str:
    if len(arms) == 1:
        return next(iter(arms))
    seconds = interleaved(arms, repeats=2).seconds
    return min(seconds, key=lambda name: min(seconds[name]))


def _key(saving: str) -> str:
    return saving.replace("-", "_").replace(" ", "_")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--model", default="organism:finance", help="an embedded model, organism:NAME")
    parser.add_argument(
        "--shape", choices=list(SHAPES), help="random weights of this shape instead; no peers"
    )
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--settings", type=int, default=64, help="so many of the 64, evenly spread")
    parser.add_argument("--share", type=int, nargs="+", default=[25, 50, 75], help="percent of gates closed")
    parser.add_argument("--batch-size", type=int, help="of ours; the best of a few where none is given")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", type=Path, default=ENVIRONMENTS, help="their environments")
    parser.add_argument(
        "--memory", action="store_true", help="instead: peak memory of the grid and of an eighth"
    )
    parser.add_argument(
        "--cost", action="store_true", help="instead: seconds against the number of distinct rows"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
