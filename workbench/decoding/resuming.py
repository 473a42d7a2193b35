"""A second pass over the prompts that begins where the first one stops being right: at the first shifted layer.

    first pass     clean: the gates read in it, and rows that nothing shifts are done with their prompt
    second pass    the others, from what left the first shifted layer, plus the shift, to the top

Below its first shift a steered row is the unsteered one: residuals, keys and values are there already.

The trap: an architecture may hand from block to block what is not in the residual stream (keys and values of another
layer, states of a recurrence). So this is for architectures on which it was tested; others read in a pass of their own.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from workbench.hooks import Hook, attached
from workbench.loading import Model
from workbench.models import carries_hooks
from workbench.steering import SteeringPlan, gate_site

TESTED = (
    "FalconForCausalLM", "GPT2LMHeadModel", "GPTNeoXForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM",
    "GraniteForCausalLM", "LlamaForCausalLM", "LlavaForConditionalGeneration", "MistralForCausalLM", "Olmo2ForCausalLM",
    "Phi3ForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM",
)  # fmt: skip
"""The architectures of tests/test_resuming.py, and of tests/test_seeing.py."""


def can_resume(model: Model, plans: Iterable[SteeringPlan]) -> bool:
    """Whether these plans' gates may be read in the pass over the prompts, and their rows go on from its middle.

    Not on a model with hooks of somebody else: what they did to a block's output would be done to it again.
    """
    if not isinstance(model, PreTrainedModel) or type(model).__name__ not in TESTED or carries_hooks(model):
        return False
    return all(
        plan.deciding == "clean" and plan.vectors.space.site == gate_site(plan.gate) == "resid_post"
        for plan in plans
    )


@contextmanager
def output_of(block: nn.Module) -> Iterator[list[Any]]:
    """Within this context whatever the block gives is put into the list."""
    given: list[Any] = []
    with attached([Hook(block, lambda module, args, output: given.append(output))]):
        yield given


@contextmanager
def standing_in(blocks: Iterable[nn.Module], output: Any, rows: Int[Tensor, "kept"]) -> Iterator[None]:
    """Within this context the blocks compute nothing: they give these rows of an output that is there already."""
    is_tuple = isinstance(output, tuple)
    residual = (output[0] if is_tuple else output)[rows]
    given = (residual, *output[1:]) if is_tuple else residual
    own = [(block, block.__dict__.get("forward")) for block in blocks]
    try:
        for block, _ in own:
            block.forward = lambda *_, **__: given  # type: ignore[method-assign]
        yield
    finally:
        for block, forward in own:
            block.__dict__.pop("forward", None)
            if forward is not None:  # a library had put one of its own there
                block.forward = forward  # type: ignore[method-assign]
