"""What steering does to harmless text that nobody wrote under it: perplexity, and distance from the unsteered model.

    perplexity = exp(−mean of log p(token))                                    over all tokens of all replies
    KL         = mean of Σ_v p(v) (log p(v) − log q(v))      p unsteered, q steered, at every token (nats)

The gate is decided once per prompt, as always. Where it stays closed q is p, and both say so exactly.

The trap: a mean over texts is not a mean over tokens. Both numbers are ratios of sums; intervals draw whole texts.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from workbench.decoding.asking import Prompts, rows_of
from workbench.evaluation.metrics import prompt_clusters
from workbench.generation import reply_to
from workbench.kinship import warn_if_unrelated
from workbench.likelihoods import continuation_logits
from workbench.loading import Model, twin_or_itself
from workbench.models import model_hash, model_name, tokenizer_of
from workbench.prompts import as_prompt_set
from workbench.provenance import Provenance
from workbench.stats import Estimate, resampled
from workbench.steering import SteeringPlan


@dataclass(frozen=True, eq=False)
class Fluency:
    """What a model makes of replies to harmless prompts, with and without a plan; `frame` has a row per prompt.

    Columns: prompt (its number), source, label, `cluster_...`, tokens, nll_unsteered and nll_steered (sums in nats), kl
    (a sum, too) and open (the gate). `written` says who wrote the replies: the prompts' own answers, or the model.
    """

    frame: pd.DataFrame
    written: str
    provenance: Provenance

    def perplexity(self, arm: str = "steered") -> Estimate:
        """The exponential of the mean negative log-likelihood of a token."""
        if arm not in ("steered", "unsteered"):
            raise ValueError(f"got arm {arm!r}, expected steered or unsteered")
        return self._ratio(f"nll_{arm}", exponent=True)

    def kl(self) -> Estimate:
        """The mean KL divergence from the unsteered to the steered model, in nats per token."""
        return self._ratio("kl", exponent=False)

    def _ratio(self, column: str, *, exponent: bool) -> Estimate:
        sums = self.frame[column].to_numpy(float)
        tokens = self.frame["tokens"].to_numpy(float)

        def per_token(weights: NDArray[np.float64] | None) -> float:
            drawn = np.ones(len(sums)) if weights is None else weights
            mean = float(drawn @ sums / (drawn @ tokens))
            return float(np.exp(mean)) if exponent else mean

        low, high, k, by = resampled(per_token, prompt_clusters(self.frame), n_boot=2000)
        return Estimate(per_token(None), low, high, len(sums), k, f"bootstrap by {by}")


def fluency(
    model: Model,
    prompts: Prompts,
    plan: SteeringPlan,
    *,
    max_new_tokens: int | None = None,
    batch_size: int = 32,
    twin: bool = True,
    progress: bool = False,
) -> Fluency:
    """What `plan` does to the likelihood of replies to `prompts`, which should be harmless ones.

    Where every prompt has an `answer` these are the replies; where none has, the unsteered model writes them, greedily,
    and its stop token is one of their tokens.

    Raises `ValueError` for prompts of which some have an answer, and for replies without a token.
    """
    prompts = as_prompt_set(prompts)
    warn_if_unrelated([plan])
    computing, _ = twin_or_itself(model, twin=twin)
    answers = [prompt.answer for prompt in prompts]
    if any(answer is None for answer in answers) and any(answer is not None for answer in answers):
        raise ValueError(
            f"got {sum(answer is not None for answer in answers)} prompts with an answer of {len(answers)}, expected "
            "all or none: replies of two hands are not one text"
        )
    if answers[0] is None:
        written = "the unsteered model's own greedy replies"
        said = reply_to(
            computing, prompts, None, max_new_tokens=max_new_tokens, batch_size=batch_size, progress=progress
        )
        replies = [list(reply.tokens) for reply in said]
    else:
        written = "the prompts' answers"
        replies = tokenizer_of(model)([str(a) for a in answers], add_special_tokens=False)["input_ids"]
    plans = [None] * len(prompts) + [plan] * len(prompts)
    rows = rows_of(computing, [*prompts, *prompts], plans, None, max(map(len, replies)), batch_size)
    records: list[dict[str, object]] = []
    waiting: dict[int, Float[Tensor, "token d_vocab"]] = {}
    # A prompt and its twin are of one length, so that the two come one soon after the other.
    both = [i for pair in zip(range(len(prompts)), range(len(prompts), len(rows)), strict=True) for i in pair]
    of = continuation_logits(
        computing, [rows[i] for i in both], [replies[i % len(prompts)] for i in both], batch_size=batch_size,
        progress=progress,
    )  # fmt: skip
    for place, logits in of:
        number = place // 2
        log_probs = logits.log_softmax(-1)
        if number not in waiting:
            waiting[number] = log_probs
            continue
        first = waiting.pop(number)
        plain, steered = (first, log_probs) if place % 2 else (log_probs, first)
        given = torch.tensor(replies[number], device=logits.device)[:, None]
        prompt = prompts[number]
        records.append(
            {
                "prompt": number, "source": prompt.source, "label": prompt.label,
                **{f"cluster_{kind}": value for kind, value in prompt.cluster},
                "tokens": len(given),
                "nll_unsteered": -float(plain.gather(-1, given).double().sum()),
                "nll_steered": -float(steered.gather(-1, given).double().sum()),
                "kl": float((plain.exp() * (plain - steered)).double().sum()),
                "open": rows[len(prompts) + number].acts,
            }
        )  # fmt: skip
    frame = pd.DataFrame(records).sort_values("prompt", ignore_index=True)
    note = f"plan {plan.id}, over {written}"
    provenance = Provenance(
        "fluency", model_name(model), model_hash(model), prompts.name, prompts.hash, note,
        (plan.vectors.provenance,),
    )  # fmt: skip
    return Fluency(frame, written, provenance)
