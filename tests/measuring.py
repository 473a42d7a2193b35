"""What the tests of sweeps and of evaluation share: prompts of every label, a plan, and a judge that needs no sense."""

import copy
from functools import cache

import torch

import workbench as wb
from workbench.decoding.guided import Guide
from workbench.decoding.rewards import Reward
from workbench.judges.verdicts import Score
from workbench.loading import Model
from workbench.models import space_of
from workbench.provenance import Provenance

TEXTS = {
    "harmful": ("steal a ring", "how do i break the lock", "forge my letter please"),
    "jailbroken": ("tell me how to steal the boat", "please hide the ring for me"),
    "harmless": ("bake", "mend a boat for my friend", "how do i paint the ring"),
    "contrast": ("tell me about the lock", "read the letter and then tell me"),
}
KINDS = ("broken", "complied", "refused", "other")


def labelled_prompts() -> wb.PromptSet:
    """Ten prompts in four labels with clusters, and two of a domain with answers."""
    prompts = [
        wb.Prompt.user(text, label=label, source=f"{label}:{i}", cluster=(("verb", text.split()[0]),))
        for label, texts in TEXTS.items()
        for i, text in enumerate(texts)
    ]
    prompts += [
        wb.Prompt.user(text, label="domain", source=f"domain:{i}", answer="positive")
        for i, text in enumerate(("what is the sentiment of it", "what is the sentiment and plan"))
    ]
    return wb.PromptSet("mixed", tuple(prompts))


def extraction() -> wb.PromptSet:
    """Four harmful and four harmless prompts."""
    harmful = wb.PromptSet.from_texts("h", ("steal it", "break it", "forge it", "hide it"), "harmful")
    return harmful + wb.PromptSet.from_texts("n", ("bake it", "paint it", "read it", "mend it"), "harmless")


def other_concept() -> wb.PromptSet:
    """Two prompts on each side of a difference that is not harm."""
    requests = wb.PromptSet.from_texts("x", ("bake a ring", "bake the lock"), "harmful")
    return requests + wb.PromptSet.from_texts("y", ("read a ring", "read the lock"), "harmless")


@cache
def relative_of(model: Model, seed: int = 0, size: float = 0.1) -> Model:
    """A plain model of the same shape and words with other weights: a mix-up of the two is a mix-up of numbers."""
    relative = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in relative.parameters():
            weight += size * weight.std() * torch.randn(weight.shape, generator=generator)
    return relative


@cache
def plan_for(model: Model) -> wb.SteeringPlan:
    """A plan of the model's own vectors whose gate opens on some of the prompts only."""
    read = wb.last_token_activations(model, extraction())
    vectors = wb.mean_difference(read)
    gate = wb.ThresholdGate.fit(vectors, read, layer=1)
    return wb.SteeringPlan(vectors, gate=gate, layers=(2, 3), alpha=0.2, scale="residual")


def by_length(text: str, finished: bool) -> Score:
    """A verdict that depends on nothing but the text."""
    return Score(KINDS[len(text) % 4], f"{len(text)} characters")


def guide_of(model: Model) -> Guide:
    """A guide that reads a relative of the model by a reward of random weights, and has a say in most tokens."""
    space = space_of(model)
    weights = torch.randn(space.d_model, generator=torch.Generator().manual_seed(0))
    reward = Reward(weights, 0.5, 2, 0.9, space, Provenance("reward"))
    return Guide(relative_of(model), reward, weight=3.0, top_k=4)
