"""Along the tokens: how far the residual of every token, at every layer, lies on the harmful side.

    reads[l, pos] = (x_l[pos] · s_l − m_l) / ‖v'_l‖      m_l: the gate's threshold −b_l, else half-way between the means

At the last token this is what the gate decides by; everywhere else it is the same ruler laid along the text.

The trap: vectors are made at the last token only. Elsewhere the projection shows where the direction is *present*, and
the first token, whose residual is like no other, may lie far off on either side.
"""

import pandas as pd
import torch
from einops import einsum

from workbench.decoding.asking import Prompts
from workbench.gates import ThresholdGate
from workbench.insight.reading import ALONG, read_texts, require_there, texts_of
from workbench.loading import Model
from workbench.models import model_name, space_of
from workbench.prompts import PromptSet
from workbench.vectors import SteeringVectors


def token_map(
    vectors: SteeringVectors, model: Model, prompts: Prompts, *, gate: ThresholdGate | None = None
) -> pd.DataFrame:
    """A row per prompt, token and layer: the projection on `vectors`, plain and as read from the threshold.

    Columns: prompt (number), label, position (from 0), token, image (which of the prompt's the token is a part of, −1
    for a word), layer, projection (x · s, in residual units), threshold,
    reads ((projection − threshold) / ‖v'‖; positive is the harmful side), model. The threshold is the `gate`'s if
    given, else `vectors.midpoints`, else 0. Any backend; the prompts may differ in length.
    """
    require_there(model)
    space = space_of(model, vectors.space.site)
    vectors.space.require(space, "vectors")
    if gate is not None:
        gate.require_along(vectors)
    texts = texts_of(model, prompts)
    residuals = read_texts(model, texts, site=vectors.space.site)
    projections = einsum(residuals, vectors.directions, ALONG)
    middle = -gate.bias if gate is not None else vectors.midpoints
    thresholds = torch.zeros(vectors.space.n_layers) if middle is None else middle
    unit = torch.where(vectors.norms > 0, vectors.norms, torch.ones_like(vectors.norms))
    rows = [
        {
            "prompt": number,
            "label": prompt.label,
            "position": position,
            "token": word,
            "image": texts.shows[number][position],
            "layer": layer,
            "projection": float(projections[number, layer, column]),
            "threshold": float(thresholds[layer]),
            "reads": float((projections[number, layer, column] - thresholds[layer]) / unit[layer]),
            "model": model_name(model),
        }
        for number, prompt in enumerate(texts.prompts)
        for position, (word, column) in enumerate(
            zip(texts.words(number), texts.positions(number), strict=True)
        )
        for layer in range(vectors.space.n_layers)
    ]
    return pd.DataFrame(rows)


def jailbreak_twins(prompts: PromptSet) -> list[PromptSet]:
    """Every harmful prompt whose very words a jailbroken one holds too, with the first that does: sets of two.

    Their token maps show what the wrapper alone changes.
    """
    jailbreaks = [prompt for prompt in prompts if prompt.label == "jailbroken"]
    pairs = []
    for plain in prompts:
        twin = next((other for other in jailbreaks if plain.text in other.text), None)
        if plain.label == "harmful" and twin is not None:
            pairs.append(PromptSet(f"{prompts.name}: a request and its jailbreak", (plain, twin)))
    if not pairs:
        raise ValueError(
            f"no harmful prompt of {prompts.name!r} comes back word by word in a jailbroken one (it has "
            f"{len(jailbreaks)}): pass a set that has both, or wrap one yourself"
        )
    return pairs
