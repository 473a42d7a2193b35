"""Inside a steered run: what a shift does to the residual of every token, and to the reply's first word.

    x_l = x'_l + alpha * g_l * theta_l      norm ‖x_l‖, projection x_l · theta_l and cosine, with the shift and without
    lead_l = max over refusal tokens of logit − max over compliance tokens of logit, by logit lens

The trap: what is added at one layer is carried on and answered by all later ones. Only at the first steered layer do
the two runs differ by the shift itself; after it the difference is the model's doing as well.
"""

from collections.abc import Sequence

import pandas as pd
import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from workbench.decoding.asking import Prompts
from workbench.generation import steered
from workbench.insight.lens import lens_logits, opening_tokens
from workbench.insight.reading import ALONG, Texts, read_texts, require_there, texts_of, token_text
from workbench.loading import Model
from workbench.models import n_layers, space_of
from workbench.steering import SteeringPlan
from workbench.vectors import SteeringVectors


def steered_residuals(
    model: Model,
    plan: SteeringPlan,
    prompts: Prompts,
    *,
    onto: SteeringVectors | None = None,
    control: SteeringPlan | None = None,
    reply: str = "",
) -> pd.DataFrame:
    """A row per prompt, token, layer and arm ("unsteered", "steered"): what the residual is like there.

    Columns: prompt, label, position, token, part ("prompt" or "reply"), layer, arm, norm, projection and cosine (on
    `onto`, else the plan's vectors: the safety direction), shift (the length of what is added there), open (whether the
    gate is). `control` is another plan, say of random directions of equal norm, shown as arm "control"; `reply` a text
    that the model has said already. Any backend.
    """
    require_there(model)
    vectors = plan.vectors if onto is None else onto
    vectors.space.require(space_of(model, vectors.space.site), "vectors")
    texts = texts_of(model, prompts, reply=reply)
    clean, shifted, lengths, opened = _both(model, plan, texts, vectors.space.site)
    arms = {"unsteered": (clean, torch.zeros_like(lengths), opened), "steered": (shifted, lengths, opened)}
    if control is not None:
        arms["control"] = _both(model, control, texts, vectors.space.site)[1:]
    rows = []
    for arm, (residuals, lengths, opened) in arms.items():
        norms = residuals.norm(dim=-1)
        along = einsum(residuals, vectors.directions, ALONG)
        cosines = along / norms.clamp(min=torch.finfo(torch.float32).tiny)
        for number, prompt in enumerate(texts.prompts):
            words = texts.words(number)
            for position, column in enumerate(texts.positions(number)):
                part = "prompt" if column < texts.prompt_width else "reply"
                for layer in range(residuals.shape[1]):
                    added = lengths[number, layer, int(part == "reply")]
                    at = number, layer, column
                    token = number, prompt.label, position, words[position], part, layer, arm
                    sizes = float(norms[at]), float(along[at]), float(cosines[at]), float(added)
                    rows.append((*token, *sizes, bool(opened[number, layer])))
    columns = ["prompt", "label", "position", "token", "part", "layer", "arm", "norm", "projection", "cosine"]
    return pd.DataFrame(rows, columns=[*columns, "shift", "open"])


def refusal_lead(
    model: Model,
    prompts: Prompts,
    *,
    refusal: Sequence[str],
    compliance: Sequence[str],
    plan: SteeringPlan | None = None,
    control: SteeringPlan | None = None,
    reply: str = "",
) -> pd.DataFrame:
    """By layer, the lead of a refusal's likeliest first word over a compliant one's, by logit lens at the last token.

    Columns: prompt, label, layer, arm, refusal and compliance (the largest logit of those sentences' first tokens),
    lead (their difference, the log of how much likelier: above 0 a refusal leads), token (the likeliest of all) and
    opens (what it opens: "refusal", "compliance" or "other"). At the last layer these are the model's own logits.
    `control` is another plan, shown as arm "control". `reply` is what it has said already: a model that opens with a
    remark, an "other" word, decides after it. Any backend.
    """
    no, yes = opening_tokens(model, refusal, compliance, reply=reply)
    kinds = dict.fromkeys(no.tolist(), "refusal") | dict.fromkeys(yes.tolist(), "compliance")
    texts = texts_of(model, prompts, reply=reply)
    if plan is None:
        arms = {"unsteered": read_texts(model, texts)}
    else:
        clean, shifted, _, _ = _both(model, plan, texts, "resid_post")
        arms = {"unsteered": clean, "steered": shifted}
    if control is not None:
        arms["control"] = _both(model, control, texts, "resid_post")[1]
    rows = []
    for arm, residuals in arms.items():
        for layer in range(n_layers(model)):
            logits = lens_logits(model, residuals[:, layer, -1])
            refuses, complies = logits[:, no].amax(-1), logits[:, yes].amax(-1)
            likeliest = logits.argmax(-1).tolist()
            for number, (prompt, token) in enumerate(zip(texts.prompts, likeliest, strict=True)):
                said, done = float(refuses[number]), float(complies[number])
                word, opens = token_text(texts.tokenizer, token), kinds.get(token, "other")
                rows.append((number, prompt.label, layer, arm, said, done, said - done, word, opens))
    columns = ["prompt", "label", "layer", "arm", "refusal", "compliance", "lead", "token", "opens"]
    return pd.DataFrame(rows, columns=columns)


def _both(
    model: Model, plan: SteeringPlan, texts: Texts, site: str
) -> tuple[
    Float[Tensor, "prompt layer pos d_model"],
    Float[Tensor, "prompt layer pos d_model"],
    Float[Tensor, "prompt layer part"],
    Tensor,
]:
    """Residuals without and with the shift, the lengths of what was added to prompt and reply, the decisions."""
    clean = read_texts(model, texts, site=site)
    with steered(model, plan, texts.prompts) as run:
        # Attached after the shift's own hooks, so they see what these return.
        shifted = read_texts(model, texts, site=site)
    lengths = torch.zeros(*clean.shape[:2], 2)
    for column, layer in enumerate(run.shift.layers):
        for part, where in enumerate((run.shift.on_prompt, run.shift.on_reply)):
            lengths[:, layer, part] = run.shift.values[:, column].norm(dim=-1) * where
    return clean, shifted, lengths, run.reading.open
