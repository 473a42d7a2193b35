"""What steering costs, from prompt in to text out: beside plain transformers unsteered, itself unsteered, and others.

    steered_vs_unsteered     = seconds of generate(..., plan) / seconds of transformers' own generate, unsteered
    steered_vs_own_unsteered = seconds of generate(..., plan) / seconds of generate(...)
    online_vs_unsteered, …   = the same, each layer's gate read in the steered pass itself
    step_vs_step, …          = the same of a decode step: median seconds from one pass to the next
    generation_vs_X          = seconds of generate(..., plan) / seconds of X steering in its own environment
    X_vs_own_unsteered       = what X's steering costs X

Deciding is included. The worst case: every gate is open, so every row is shifted at every step, and every row writes
the full number of tokens, so all arms do equal work. Two plans decide on the unsteered prompt: a shared gate at the
first steered layer, which is read in the pass over the prompts itself; and the paper's gate per layer, which is read
in a clean pass, from whose middle all rows go on. The ratio is that of the dearer one. The third has the gate per
layer too, read online. Peers have no gates, are given token ids, and need not decide: that they write the same is
checked.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from peering import PEERS, Peer, add_options, directions_of, installed, peers_on
from peers.worker import Task
from subjects import checkpoint_of, prompts_of_both_kinds
from sweep_arms import Replies, differing, generated
from timing import Timings, arguments, conclude, describe, interleaved

from workbench import (
    SteeringPlan,
    ThresholdGate,
    generate,
    last_token_activations,
    load_model,
    mean_difference,
)
from workbench.chat import pad_id, pad_left, tokenize
from workbench.loading import Model
from workbench.models import n_layers, tokenizer_of
from workbench.prompts import PromptSet

NEW_TOKENS = 64
NO_STOP = -1
TRANSFORMERS = "transformers, unsteered"
OURS = "ours, unsteered"
STEERED = "ours, gate per layer"
ONLINE = "ours, gate per layer, read online"


def main() -> None:
    """Time the arms and print their ratios."""
    parser = arguments(__doc__.splitlines()[0], prompts=64, repeats=11)
    add_options(parser)
    options = parser.parse_args()
    with checkpoint_of(options.model) as checkpoint:
        model = load_model(checkpoint, backend=options.backend)
        bare = model if options.backend == "plain" else load_model(checkpoint, backend="plain")
        prompts = prompts_of_both_kinds(options.prompts)
        describe(model, prompts, options.batch_size)
        plans = plans_for(model, prompts)
        dearer = plans[STEERED]
        assert dearer is not None
        first, last = dearer.layers[0], dearer.layers[-1]
        print(f"{NEW_TOKENS} new tokens for each; steered layers {first} to {last} of {n_layers(model)}")
        own = arms_of(model, bare, prompts, plans, options.batch_size)
        task = _task(checkpoint, model, prompts, dearer)
        with peers_on(task, directions_of(dearer), options.peers, installed(options.peers)) as peers:
            arms: dict[str, Callable[[], object]] = {**own}
            for peer in peers:
                arms[f"{peer.name}, unsteered"] = partial(peer.ask, "unsteered")
                arms[peer.name] = partial(peer.ask, "steered")
            timings = interleaved(arms, repeats=options.repeats)
            timings.show(TRANSFORMERS)
            _require_same_work({name: write() for name, write in own.items()}, peers)
        few = PromptSet(prompts.name, prompts.prompts[: options.batch_size])
        per_step = _step_timings(model, bare, arms_of(model, bare, few, plans, len(few)), options.repeats)
    print("\nper decode step")
    per_step.show(TRANSFORMERS)
    ratios: dict[str, float | None] = {
        "steered_vs_unsteered": timings.told(STEERED, TRANSFORMERS),
        "steered_vs_own_unsteered": timings.told(STEERED, OURS),
        "online_vs_unsteered": timings.told(ONLINE, TRANSFORMERS),
        "online_vs_own_unsteered": timings.told(ONLINE, OURS),
        "step_vs_step": per_step.told(STEERED, TRANSFORMERS),
        "step_vs_own_step": per_step.told(STEERED, OURS),
    }
    for name in PEERS:
        key = name.replace("-", "_")
        ratios[f"generation_vs_{key}"] = timings.told(STEERED, name)
        ratios[f"{key}_vs_own_unsteered"] = timings.told(name, f"{name}, unsteered")
    conclude(ratios)


def arms_of(
    model: Model, bare: Any, prompts: PromptSet, plans: Mapping[str, SteeringPlan | None], batch_size: int
) -> dict[str, Callable[[], Replies]]:
    """What runs in this process, by name; `bare` is the plain model."""

    def write(plan: SteeringPlan | None) -> Replies:
        found = generate(
            model, prompts, plan, max_new_tokens=NEW_TOKENS, batch_size=batch_size, stop_ids=[NO_STOP]
        )
        if {any(reply.gate_open or ()) for reply in found} != {plan is not None}:
            raise RuntimeError("the arms did not do equal work: expected open gates")
        return Replies(tuple(reply.tokens for reply in found), tuple(reply.near_ties for reply in found))

    arms: dict[str, Callable[[], Replies]] = {
        TRANSFORMERS: partial(_by_transformers, bare, prompts, batch_size)
    }
    return arms | {name: partial(write, plan) for name, plan in plans.items()}


def plans_for(model: Model, prompts: PromptSet) -> dict[str, SteeringPlan | None]:
    """No plan, and three ways of deciding: every gate is open, the upper half of the layers but the last shifted."""
    read = last_token_activations(model, prompts)
    vectors, depth = mean_difference(read), n_layers(model)
    gate = ThresholdGate.fit(vectors, read)
    gate = replace(gate, bias=torch.full_like(gate.bias, 1e6))
    per_layer = SteeringPlan(
        vectors, gate=gate, layers=range(depth // 2, depth - 1), alpha=0.1, scale="residual"
    )
    return {
        OURS: None,
        "ours, shared gate": per_layer.with_gate(replace(gate, shared_layer=depth // 2)),
        STEERED: per_layer,
        ONLINE: replace(per_layer, deciding="online"),
    }


@torch.no_grad()
def _by_transformers(model: Any, prompts: PromptSet, batch_size: int) -> Replies:
    """`model.generate` on the same templated texts, by length as ours; its replies are made texts, too."""
    tokenizer: Any = tokenizer_of(model)
    rows = tokenize(tokenizer, prompts)
    by_length = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    tokens: dict[int, tuple[int, ...]] = {}
    for start in range(0, len(rows), batch_size):
        part = by_length[start : start + batch_size]
        batch = pad_left([rows[i] for i in part], pad_id(tokenizer)).to(model.device)
        written = generated(model, batch, NO_STOP, new_tokens=NEW_TOKENS)
        tokens |= dict(zip(part, written, strict=True))
        tokenizer.batch_decode(written, skip_special_tokens=True)
    return Replies(tuple(tokens[i] for i in range(len(rows))))


def _step_timings(
    model: Model, bare: Any, arms: Mapping[str, Callable[[], Replies]], repeats: int
) -> Timings:
    """The median seconds of a decode step, from one forward pass to the next, of every arm in turn."""
    steps: dict[str, list[float]] = {name: [] for name in arms}

    def step(name: str) -> None:
        starts: list[float] = []
        runs = bare if name == TRANSFORMERS else model
        handle = runs.register_forward_pre_hook(lambda *_: starts.append(time.perf_counter()))
        try:
            arms[name]()
        finally:
            handle.remove()
        # The last NEW_TOKENS passes are the one over the prompts and the steps; what came before was reading.
        steps[name].append(float(np.median(np.diff(starts[-NEW_TOKENS + 1 :]))))

    interleaved({name: partial(step, name) for name in arms}, repeats=repeats)
    return Timings({name: seconds[-repeats:] for name, seconds in steps.items()})  # but the first, to warm up


def _task(checkpoint: str, model: Model, prompts: PromptSet, plan: SteeringPlan) -> Task:
    tokenizer = tokenizer_of(model)
    return Task(
        checkpoint,
        pad_id(tokenizer),
        str(tokenizer.pad_token),
        torch.get_num_threads(),
        rows=tokenize(tokenizer, prompts),
        open=[True] * len(prompts),
        settings=[{"layers": plan.layers, "alpha": plan.alpha}],
        new_tokens=NEW_TOKENS,
        stop=NO_STOP,
    )


def _require_same_work(written: Mapping[str, Replies], peers: Sequence[Peer]) -> None:
    """Full replies everywhere; and steered as unsteered, every arm wrote what ours did."""
    others = {(STEERED, peer.name): tuple(peer.replies()) for peer in peers}
    others[OURS, TRANSFORMERS] = written[TRANSFORMERS].tokens
    for (name, other), tokens in others.items():
        parted, unexplained = differing(written[name], tokens)
        print(f"{other} parts from {name!r} in {parted} of {len(tokens)} replies")
        if unexplained or {len(row) for row in (*tokens, *written[name].tokens)} != {NEW_TOKENS}:
            raise RuntimeError(
                f"{other} wrote {unexplained} replies otherwise than {name!r}, without a near tie, or shorter ones: "
                "the arms did not do the same work"
            )


if __name__ == "__main__":
    main()
