"""What steering costs a vision-language model, from words and image in to text out.

    steered_vs_unsteered     = seconds of generate(..., plan) / seconds of transformers' own generate, unsteered
    steered_vs_own_unsteered = seconds of generate(..., plan) / seconds of generate(...)

Everything counts: cutting images, the vision tower, deciding, writing. Every prompt has an image of its own; every gate
is open, so every row is shifted at every step, and every row writes the full number of tokens, so all arms do equal
work. The paper has 90 and 94 seconds per 1,000 tokens for LLaVA-1.5 7B, 136 and 141 for 13B: 1.04 times as long.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import PIL.Image
import torch
from generation import NEW_TOKENS, NO_STOP, OURS, STEERED, TRANSFORMERS, plans_for
from subjects import SEERS, prompts_of_both_kinds, random_seer
from sweep_arms import Replies, differing, until_stop
from timing import arguments, conclude, describe, interleaved

from workbench import Image, PromptSet, SteeringPlan, generate
from workbench.chat import render
from workbench.loading import Model
from workbench.models import words_of


def main() -> None:
    """Time the arms and print their ratios."""
    parser = arguments(__doc__.splitlines()[0], prompts=16, repeats=7)
    parser.add_argument("--shape", default="llava-768x12", choices=list(SEERS))
    options = parser.parse_args()
    model = random_seer(options.shape)
    prompts = with_images(prompts_of_both_kinds(options.prompts))
    describe(model, prompts, options.batch_size)
    plans = plans_for(model, prompts)
    arms: dict[str, Callable[[], Replies]] = {
        TRANSFORMERS: partial(_by_transformers, model, prompts, options.batch_size),
        **{
            name: partial(_by_us, model, prompts, plans[name], options.batch_size) for name in (OURS, STEERED)
        },
    }
    _require_same_replies(arms[OURS](), arms[TRANSFORMERS]())
    timings = interleaved(arms, repeats=options.repeats)
    timings.show(TRANSFORMERS)
    for name, seconds in timings.seconds.items():
        print(f"{name}: {1000 * np.median(seconds) / (len(prompts) * NEW_TOKENS):.2f} s per 1,000 tokens")
    conclude(
        {
            "steered_vs_unsteered": timings.told(STEERED, TRANSFORMERS),
            "steered_vs_own_unsteered": timings.told(STEERED, OURS),
        }
    )


def with_images(prompts: PromptSet) -> PromptSet:
    """Every prompt with an image of its own, of photographs' size."""
    draw = np.random.default_rng(0)
    shown = tuple(
        replace(
            prompt,
            images=(Image.of(PIL.Image.fromarray(draw.integers(0, 256, (480, 640, 3), dtype=np.uint8))),),
        )
        for prompt in prompts
    )
    return PromptSet(f"{prompts.name} with images", shown)


def _by_us(model: Model, prompts: PromptSet, plan: SteeringPlan | None, batch_size: int) -> Replies:
    found = generate(
        model, prompts, plan, max_new_tokens=NEW_TOKENS, batch_size=batch_size, stop_ids=[NO_STOP]
    )
    return Replies(tuple(reply.tokens for reply in found), tuple(reply.near_ties for reply in found))


@torch.no_grad()
def _by_transformers(model: Any, prompts: PromptSet, batch_size: int) -> Replies:
    """`model.generate` on what the model's own processor makes of the same texts and images."""
    words: Any = words_of(model)
    texts = [render(words, prompt) for prompt in prompts]
    tokens: list[tuple[int, ...]] = []
    for start in range(0, len(prompts), batch_size):
        part = range(start, min(start + batch_size, len(prompts)))
        given = words(
            text=[texts[i] for i in part],
            images=[image.pixels() for i in part for image in prompts[i].images],
            padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt",
        ).to(model.device, model.dtype)  # fmt: skip
        written = model.generate(
            **given, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=NO_STOP, pad_token_id=0
        )
        tokens += [until_stop(row, NO_STOP) for row in written[:, given["input_ids"].shape[1] :].tolist()]
        words.tokenizer.batch_decode(tokens[-len(part) :], skip_special_tokens=True)
    return Replies(tuple(tokens))


def _require_same_replies(ours: Replies, theirs: Replies) -> None:
    """In float32 both write the same, but for near ties."""
    parted, without_tie = differing(ours, theirs.tokens)
    print(f"{parted} of {len(theirs.tokens)} replies differ, {without_tie} of them without a near tie")
    if without_tie and not torch.cuda.is_available():
        raise RuntimeError("the arms do not write the same: what is timed is not one thing")


if __name__ == "__main__":
    main()
