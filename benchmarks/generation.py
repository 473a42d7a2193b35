"""What steering costs beside the same model unsteered: from prompt to text, and per decode step.

    steered_vs_unsteered = seconds of generate(..., plan) / seconds of generate(...), deciding included
    online_vs_unsteered  = the same, each layer's gate read in the steered pass itself
    step_vs_step         = median seconds of a decode step, steered / unsteered

The worst case: every gate is open, so every row is shifted at every step, and every row writes the full number of
tokens, so all arms do equal work. Two plans decide on the unsteered prompt: a shared gate at the first steered layer,
which is read in the pass over the prompts itself; and the paper's gate per layer, which is read in a clean pass, from
whose middle all rows go on. The ratio is that of the dearer one. The third has the gate per layer too, read online.
"""

import time
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from timing import Timings, arguments, conclude, describe, interleaved, subject

from workbench import SteeringPlan, ThresholdGate, generate, last_token_activations, mean_difference
from workbench.loading import Model
from workbench.models import n_layers
from workbench.prompts import PromptSet

NEW_TOKENS = 48
NO_STOP = [-1]


def step_seconds(model: Model, prompts: PromptSet, plan: SteeringPlan | None, batch_size: int) -> list[float]:
    """The seconds of every decode step, from one forward pass to the next."""
    starts: list[float] = []
    handle = model.register_forward_pre_hook(lambda *_: starts.append(time.perf_counter()))
    try:
        batch = PromptSet(prompts.name, prompts.prompts[:batch_size])
        generate(model, batch, plan, max_new_tokens=NEW_TOKENS, batch_size=batch_size, stop_ids=NO_STOP)
    finally:
        handle.remove()
    # The last NEW_TOKENS passes are the one over the prompts and the steps; what came before was reading.
    return np.diff(starts[-NEW_TOKENS + 1 :]).tolist()


def main() -> None:
    """Time the arms and print their ratios."""
    options = arguments(__doc__.splitlines()[0], repeats=11)
    model, prompts = subject(options.model, options.backend, options.prompts)
    describe(options, model, prompts)
    read = last_token_activations(model, prompts)
    vectors, depth = mean_difference(read), n_layers(model)
    per_layer = ThresholdGate.fit(vectors, read)
    per_layer = replace(per_layer, bias=torch.full_like(per_layer.bias, 1e6))
    layers = range(depth // 2, depth - 1)
    dearer = SteeringPlan(vectors, gate=per_layer, layers=layers, alpha=0.1, scale="residual")
    plans = {
        "unsteered": None,
        "steered, shared gate": dearer.with_gate(replace(per_layer, shared_layer=depth // 2)),
        "steered, gate per layer": dearer,
        "steered, gate per layer, read online": replace(dearer, deciding="online"),
    }

    def write(plan: SteeringPlan | None) -> None:
        replies = generate(
            model, prompts, plan, max_new_tokens=NEW_TOKENS, batch_size=options.batch_size, stop_ids=NO_STOP
        )
        opened = {any(reply.gate_open or ()) for reply in replies}
        if opened != {plan is not None} or {len(reply.tokens) for reply in replies} != {NEW_TOKENS}:
            raise RuntimeError("the arms did not do equal work: expected open gates and full replies")

    print(f"{NEW_TOKENS} new tokens for each; steered layers {layers.start} to {layers.stop - 1} of {depth}")
    timings = interleaved(
        {name: partial(write, plan) for name, plan in plans.items()}, repeats=options.repeats
    )
    timings.show("unsteered")

    steps: dict[str, list[float]] = {name: [] for name in plans}

    def collect(name: str) -> None:
        steps[name].append(float(np.median(step_seconds(model, prompts, plans[name], options.batch_size))))

    interleaved({name: partial(collect, name) for name in plans}, repeats=options.repeats)
    per_step = Timings(steps)
    print("\nper decode step")
    per_step.show("unsteered")
    conclude(
        {
            "steered_vs_unsteered": timings.ratio("steered, gate per layer", "unsteered")[0],
            "online_vs_unsteered": timings.ratio("steered, gate per layer, read online", "unsteered")[0],
            "step_vs_step": per_step.ratio("steered, gate per layer", "unsteered")[0],
        }
    )


if __name__ == "__main__":
    main()
