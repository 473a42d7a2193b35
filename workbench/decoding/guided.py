"""Guided decoding: of the likeliest next tokens, the one whose reply a reward likes, too.

    token_t = argmax over the top k of   logit(v) + weight · r(P, token_1 ... token_(t-1), v)

The search is that of ARGS (Khanov et al. 2024); r, the log-probability that a reply which goes on so is a good one, is
what FUDGE (Yang & Klein 2021) adds.

The reward reads a model of its own choice, `reader`, which goes through the reply beside the one that writes. That is
the price: at every token, k rows of the reader's beside the writer's one, and k copies of the reader's cache.

The trap: a reward of what is there already comes a token too late, and cannot choose. Each candidate is read as if it
had been written; what was read of the others is dropped.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.chat import pad_id, pad_left
from workbench.decoding.choosers import NEAR_TIE, Greedy
from workbench.decoding.passes import passes_over
from workbench.decoding.rewards import Reward
from workbench.loading import Model
from workbench.models import device_of, model_name, residual_hooks, space_of, tokenizer_of, weights_hash
from workbench.provenance import content_hash

TOP_K = 10
"""Candidates for a token, as many as the paper of ARGS takes."""


@dataclass(frozen=True, eq=False)
class Guide:
    """A reward, the model that it reads, its weight beside the logits, and how many candidates it is asked about."""

    reader: Model
    reward: Reward
    weight: float = 1.0
    top_k: int = TOP_K

    def __post_init__(self) -> None:
        whole = isinstance(self.top_k, int) and self.top_k >= 2
        if not (math.isfinite(self.weight) and self.weight >= 0 and whole):
            raise ValueError(
                f"got weight={self.weight}, top_k={self.top_k}: expected a weight of 0 or more, since a negative one "
                "looks for bad replies, and 2 candidates or more"
            )
        space_of(self.reader).require(self.reward.space, "the reward of a guide")

    @cached_property
    def key(self) -> str:
        """A hash of all that a reply under this guide depends on beside the model that writes it."""
        reward = self.reward
        return content_hash(
            weights_hash(self.reader),
            reward.weights,
            repr((reward.bias, reward.layer, self.weight, self.top_k)),
        )

    def require_words_of(self, model: Model) -> None:
        """Refuse a writer whose tokens or chat template are not the reader's."""
        mine, theirs = space_of(self.reader), space_of(model)
        if (mine.tokenizer_hash, mine.template_hash) != (theirs.tokenizer_hash, theirs.template_hash):
            raise ValueError(
                f"the guide reads {model_name(self.reader)!r}, whose tokens or chat template are not those of "
                f"{model_name(model)!r}: fit a reward on a model of the same family, or on the writer itself"
            )


class Guided(Greedy):
    """The token that logit and reward together like best, until a stop token; near ties are those of their sum."""

    def __init__(
        self, guide: Guide, prompts: Sequence[Sequence[int]], n_steps: int, stop: Int[Tensor, "stop"]
    ) -> None:
        super().__init__(len(prompts), n_steps, stop)
        self.guide = guide
        batch = pad_left(prompts, pad_id(tokenizer_of(guide.reader))).to(device_of(guide.reader))
        self.passes = passes_over(guide.reader, batch, n_steps)
        self.passes.next_logits(batch.input_ids)
        self.there = torch.arange(len(prompts), device=stop.device)

    def choose(
        self, logits: Float[Tensor, "row d_vocab"], rows: Int[Tensor, "row"], step: int
    ) -> Int[Tensor, "row"]:
        """The best of the candidates, which are the `top_k` largest logits."""
        reader_device = device_of(self.guide.reader)
        if len(rows) < len(self.there):
            self.passes.keep(torch.isin(self.there, rows).nonzero()[:, 0].to(reader_device))
        self.there = rows
        if self.guide.top_k > logits.shape[-1]:
            raise ValueError(
                f"got top_k={self.guide.top_k}, the model has {logits.shape[-1]} tokens: ask for fewer"
            )
        values, candidates = logits.float().topk(self.guide.top_k)
        rewards = self._rewards(candidates.to(reader_device)).to(values.device)
        both = values + self.guide.weight * rewards
        best = both.topk(2)
        # Of equals the likelier token: with weight 0 this is the greedy one.
        at = (both == best.values[:, :1]).int().argmax(1)
        tokens = candidates.gather(1, at[:, None])[:, 0]
        self.passes.keep(
            (torch.arange(len(rows), device=at.device) * self.guide.top_k + at).to(reader_device)
        )
        self.tokens[rows, step] = tokens
        self.near_ties[rows, step] = best.values[:, 0] - best.values[:, 1] < NEAR_TIE
        self.not_finite[rows, step] = ~best.values[:, 0].isfinite()
        return tokens

    def _rewards(self, candidates: Int[Tensor, "row k"]) -> Float[Tensor, "row k"]:
        """What each candidate is worth; the passes then hold a state for every one of them."""
        found: list[Tensor] = []

        def read(residual: Tensor) -> None:
            found.append(self.guide.reward.of(residual[:, -1]))

        n, k = candidates.shape
        self.passes.keep(torch.arange(n, device=candidates.device).repeat_interleave(k))
        with residual_hooks(self.guide.reader, "resid_post", {self.guide.reward.layer: read}):
            self.passes.next_logits(candidates.reshape(-1, 1))
        return found[0].reshape(n, k)
