"""How good a reply is so far: a linear reading of one layer, learned from good replies and bad ones.

    r(P, y_1 ... y_t) = log σ(w · a_l(P y_1 ... y_t) + b)      log-probability of a good reply      (by scikit-learn)

Every one of a reply's first tokens is an example, the first too: a guide that knows whole replies only comes too late.
The layer is the one at which a classifier, fitted on other prompts, tells good from bad best.

The trap: a request and its replies go to one side of every fold. A classifier that has met the request on the other
side knows its refusal by the request.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from workbench.chat import pad_id, pad_left, tokenize
from workbench.folds import deal
from workbench.forward import run_body
from workbench.loading import Model
from workbench.memory import in_batches
from workbench.models import (
    context_length,
    model_hash,
    model_name,
    n_layers,
    residual_hooks,
    space_of,
    tokenizer_of,
    words_of,
)
from workbench.prompts import Prompt, PromptSet
from workbench.provenance import Provenance, Space, content_hash

FIRST_TOKENS = 16
"""Of a reply, that are examples: by then it is clear what it does."""
N_FOLDS = 5
STRENGTH = 0.1
"""Of the classifier's fit, scikit-learn's C, on features of unit variance: more of them than examples is usual."""


@dataclass(frozen=True, eq=False)
class Reward:
    """A fitted reading: `weights` and `bias` at `layer`, in the space of the model that is read.

    `auroc` is how well it tells good from bad partial replies to prompts that it was not fitted on.
    """

    weights: Float[Tensor, "d_model"]
    bias: float
    layer: int
    auroc: float
    space: Space
    provenance: Provenance

    def of(self, residual: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
        """The log-probability of a good reply, in float32, of residuals at the reward's layer.

        Bounded above: odds are not, and a token that no reply has ever had could win by them, however unlikely it is.
        """
        return logsigmoid(residual.float() @ self.weights.to(residual.device) + self.bias)


def fit_reward(
    model: Model,
    prompts: Sequence[Prompt] | PromptSet,
    replies: Sequence[Sequence[int]],
    good: Sequence[bool],
    *,
    layers: Sequence[int] | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> Reward:
    """The reward that tells good replies from bad ones, by `model`'s activations; `replies` are tokens, one per prompt.

    A prompt may occur several times, with several replies. `layers` are those tried, all by default.

    Raises `ValueError` for counts that do not match, a reply without a token, and replies of one kind only.
    """
    if not len(prompts) == len(replies) == len(good):
        raise ValueError(
            f"got {len(prompts)} prompts, {len(replies)} replies and {len(good)} verdicts: expected one of each"
        )
    if len(set(good)) < 2:
        kind = "good" if any(good) else "bad"
        raise ValueError(
            f"got {len(good)} {kind} replies only: expected some of both kinds to tell them apart"
        )
    if empty := [i for i, reply in enumerate(replies) if not len(reply)]:
        raise ValueError(f"reply {empty[0]} has no token: expected one or more, its stop token at least")
    kinds = ["good" if each else "bad" for each in good]
    folds = deal(N_FOLDS, labels=kinds, keys=list(prompts), seed=seed, what="the replies")
    tried = range(n_layers(model)) if layers is None else layers
    values, of_reply = _read(model, prompts, replies, list(tried), batch_size)
    right, fold = np.array(good)[of_reply], np.array(folds)[of_reply]
    found = {layer: _cross_fitted(values[layer], right, fold) for layer in tried}
    best = max(found, key=lambda layer: found[layer])
    weights, bias = _fitted(values[best], right)
    asked = content_hash(*(prompt.text for prompt in prompts))
    provenance = Provenance("reward", model_name(model), model_hash(model), "replies", asked)
    return Reward(torch.from_numpy(weights).float(), bias, best, found[best], space_of(model), provenance)


def _read(
    model: Model,
    prompts: Sequence[Prompt] | PromptSet,
    replies: Sequence[Sequence[int]],
    layers: Sequence[int],
    batch_size: int,
) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Residuals at each of a reply's first tokens, by layer, and which reply each is of."""
    tokenizer = tokenizer_of(model)
    heads = tokenize(words_of(model), prompts, context_length=context_length(model), reserve=FIRST_TOKENS)
    begun = [list(reply[:FIRST_TOKENS]) for reply in replies]
    seen: dict[int, list[Tensor]] = {layer: [] for layer in layers}

    def keep(layer: int, lengths: list[int], residual: Tensor) -> None:
        seen[layer] += [row[-n:].float().cpu().clone() for row, n in zip(residual, lengths, strict=True)]

    def read(chosen: Sequence[int]) -> None:
        lengths = [len(begun[i]) for i in chosen]
        batch = pad_left([heads[i].followed_by(begun[i]) for i in chosen], pad_id(tokenizer))
        with residual_hooks(model, "resid_post", {layer: partial(keep, layer, lengths) for layer in layers}):
            run_body(model, batch)

    rows = range(len(begun))
    for _ in in_batches(rows, batch_size, read, lambda chosen: f"{len(chosen)} replies"):
        pass
    return {layer: torch.cat(found).numpy() for layer, found in seen.items()}, np.repeat(
        rows, [len(each) for each in begun]
    )


def _cross_fitted(values: np.ndarray, good: np.ndarray, fold: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score  # here, as in `stats.wilson`: it takes a second to import

    scores = np.empty(len(good))
    for held in range(N_FOLDS):
        weights, bias = _fitted(values[fold != held], good[fold != held])
        scores[fold == held] = values[fold == held] @ weights + bias
    return float(roc_auc_score(good, scores))


def _fitted(values: np.ndarray, good: np.ndarray) -> tuple[np.ndarray, float]:
    """Logistic regression on standardised features, told in units of the features as they are."""
    from sklearn.linear_model import LogisticRegression

    mean, deviation = values.mean(0), values.std(0) + 1e-6
    fit = LogisticRegression(C=STRENGTH, max_iter=1000).fit((values - mean) / deviation, good)
    weights = fit.coef_[0] / deviation
    return weights, float(fit.intercept_[0] - mean @ weights)
