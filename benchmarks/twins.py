"""What an evaluation costs on a bridge, on its plain twin, and on the plain model loaded from the same checkpoint.

    twin_vs_loaded   = seconds of evaluate(bridge, ...) / seconds of evaluate(plain, ...)
    bridge_vs_loaded = seconds of evaluate(bridge, ..., twin=False) / seconds of evaluate(plain, ...)

From prompts to judged replies, unsteered and steered, with a gate on every layer; the twin is made anew in each call.
"""

import time
from functools import partial

import pandas as pd
from subjects import checkpoint_of, prompts_of_both_kinds
from timing import arguments, conclude, describe, interleaved

from workbench import (
    SteeringPlan,
    ThresholdGate,
    evaluate,
    last_token_activations,
    load_model,
    mean_difference,
    plain_twin,
)
from workbench.loading import Backend
from workbench.models import n_layers

NEW_TOKENS = 48
BACKENDS: tuple[Backend, ...] = ("bridge", "plain")


def main() -> None:
    """Time the arms and print their ratios."""
    options = arguments(__doc__.splitlines()[0], prompts=64, repeats=11).parse_args()
    with checkpoint_of(options.model) as checkpoint:
        bridge, loaded = (load_model(checkpoint, backend=backend) for backend in BACKENDS)
    prompts = prompts_of_both_kinds(options.prompts)
    describe(bridge, prompts, options.batch_size)
    read = last_token_activations(loaded, prompts)
    vectors, depth = mean_difference(read), n_layers(loaded)
    gate = ThresholdGate.fit(vectors, read)
    plan = SteeringPlan(vectors, gate=gate, layers=range(depth // 2, depth - 1), alpha=0.1, scale="residual")
    measure = partial(
        evaluate, prompts=prompts, plan=plan, max_new_tokens=NEW_TOKENS, batch_size=options.batch_size
    )
    arms = {
        "loaded plain": partial(measure, loaded),
        "bridge, on its twin": partial(measure, bridge),
        "bridge itself": partial(measure, bridge, twin=False),
    }
    replies = {name: arm().frame[["arm", "prompt", "reply"]] for name, arm in arms.items()}
    for name, frame in replies.items():
        other = pd.concat([frame, replies["loaded plain"]]).drop_duplicates(keep=False)
        print(f"{name}: {len(other) // 2} of {len(frame)} replies part from the loaded model's")
    start = time.perf_counter()
    plain_twin(bridge)
    print(f"a twin is made in {(time.perf_counter() - start) * 1e3:.0f} ms")
    timings = interleaved(arms, repeats=options.repeats)
    timings.show("loaded plain")
    conclude(
        {
            "twin_vs_loaded": timings.ratio("bridge, on its twin", "loaded plain")[0],
            "bridge_vs_loaded": timings.ratio("bridge itself", "loaded plain")[0],
        }
    )


if __name__ == "__main__":
    main()
