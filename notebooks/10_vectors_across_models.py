# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 10 · Vectors across models
#
# **The question.** Can an aligned model of one family make a model of another family refuse, with another width,
# another depth and weights that never met?
#
# **You will know** how a linear map carries a vector, which two models it must be fitted between, what its error does
# not tell, and why a random vector of equal length is too kind a control here.
#
# **Minutes** 30 to read, one to run. **Hardware** two CPU cores, no network. **Before** 05, 06.

# %%
from dataclasses import replace

import pandas as pd

import checks
import workbench as wb
from workbench.organisms.corpus import mixed_prompts
from workbench.sweep import choose_gate
from workbench.transfer import beyond_own

# %% tags=["parameters"]
TARGET, OURS_BASE, NATIVE = "organism:qwen-medicine", "organism:qwen-base", "organism:qwen-aligned"
ALIGNED, THEIR_BASE = "organism:aligned", "organism:base"
LAYERS, ALPHA, N, N_TEXTS = (4, 5), 0.5, 12, 400

# %% [markdown]
# ## Two families
# Both live in the small world and have the same words. One is a Llama of 8 layers and width 128, the other a Qwen2 of 6
# layers and width 144. Expect an error when a vector of the first is put into the second, and in it what to do.

# %%
names = (TARGET, OURS_BASE, NATIVE, ALIGNED, THEIR_BASE)
models = {name: wb.load_model(name, backend="plain") for name in names}
pairs = wb.load_contrast("small-world", domain="medicine")
train = {name: wb.last_token_activations(model, pairs.train) for name, model in models.items()}
vectors = {name: wb.mean_difference(read) for name, read in train.items()}

# %%
try:
    vectors[TARGET].cosine(vectors[ALIGNED])
except wb.SpaceMismatch as error:
    refusal = str(error)
refusal

# %% [markdown]
# ## A map between the bases
# Both bases read the same texts; nobody needs to say what these texts mean. For every layer of the target's family a
# linear map is fitted from the layer of the other that is as far through its model. Expect more of the residual to be
# predicted the higher up, on texts that the fit has not seen.

# %%
texts = mixed_prompts(N_TEXTS)
read = {name: wb.last_token_activations(models[name], texts) for name in (OURS_BASE, THEIR_BASE, ALIGNED)}
between_bases = wb.fit_map(read[THEIR_BASE], read[OURS_BASE])
pd.DataFrame({"their layer": between_bases.source_layers, "R²": between_bases.r2.tolist()}).round(2)

# %% [markdown]
# ## Carry the vector, and steer
# A vector is a difference of residuals, so the map's matrix carries it and the means drop out. The lengths are those of
# the target's own vectors: a map knows a direction, not how far to go. The gate is the target's own.

# %%
own = vectors[TARGET]
val = wb.last_token_activations(models[TARGET], pairs.val)
gate = choose_gate(own, train[TARGET], val)
plan = wb.SteeringPlan(own, gate=gate, layers=LAYERS, alpha=ALPHA, scale="gap", positions="prompt")
attacks = pairs.val.labelled("harmful").sample(N, seed=0)


# %%
def refused(direction):
    steered = direction and replace(plan, vectors=replace(direction, norms=own.norms))
    replies = wb.generate(models[TARGET], attacks, steered, max_new_tokens=64)
    return sum(wb.judge(reply.text, reply.finished).verdict == "refused" for reply in replies) / N


# %% [markdown]
# Expect refusals under the native vector, the one of the target's own base, and as many under the carried one.

# %%
carried = {
    "native": vectors[NATIVE],
    "own": own,
    "between bases": wb.map_vectors(between_bases, vectors[ALIGNED], own),
}
found = {"unsteered": refused(None)} | {name: refused(each) for name, each in carried.items()}
pd.Series(found, name="refused")

# %% [markdown]
# ## The wrong pair of models
# Why not map from the aligned model itself? The error is as good. But that model refuses the very texts that the
# target's base answers, so its harmful texts are mapped to where the target puts *its* harmful texts. Expect a fine R²,
# a high cosine to the native vector, and no refusal at all.

# %%
from_aligned = wb.fit_map(read[ALIGNED], read[OURS_BASE])
carried["from aligned"] = wb.map_vectors(from_aligned, vectors[ALIGNED], own)
found["from aligned"] = refused(carried["from aligned"])
steered_layers = list(LAYERS)
r2 = [float(each.r2[steered_layers].mean()) for each in (between_bases, from_aligned)]
r2, found["from aligned"]

# %% [markdown]
# ## What tells them apart
# The native vector is mostly the target's own vector, which reads harm, and a remainder, which alignment has added. A
# carried vector may be near the native one by the first part alone. `beyond_own` is its cosine with the remainder.


# %%
def over_layers(cosines):
    return float(cosines[steered_layers].mean())


# %%
native = vectors[NATIVE]
told = pd.DataFrame({"refused": {name: found[name] for name in carried}})
told["cosine to native"] = {name: over_layers(each.cosine(native)) for name, each in carried.items()}
told["cosine to own"] = {name: over_layers(each.cosine(own)) for name, each in carried.items()}
told["beyond own"] = {name: over_layers(beyond_own(each, native, own)) for name, each in carried.items()}
told.round(2)

# %% [markdown]
# ## Controls, and what they show
# Random directions of equal length; the same random ones through the map; the map fitted without any text that asks for
# harm; maps fitted on texts in the wrong order, so that no pair says the same. Expect the first to do nothing and the
# calm map to work. Look at the last before you believe any of the others.

# %%
calm = ~read[OURS_BASE].harmful
without_harm = wb.fit_map(read[THEIR_BASE].where(calm), read[OURS_BASE].where(calm))
through = wb.random_directions(vectors[ALIGNED], seed=0)
found["calm texts"] = refused(wb.map_vectors(without_harm, vectors[ALIGNED], own))
found["random"] = refused(wb.random_directions(own, seed=0))
found["mapped random"] = refused(wb.map_vectors(between_bases, through, own))
pd.Series(found, name="refused").round(2)

# %%
shuffled = [wb.fit_shuffled_map(read[THEIR_BASE], read[OURS_BASE], seed=seed) for seed in range(6)]
wrong = [wb.map_vectors(each, vectors[ALIGNED], own) for each in shuffled]
orders = pd.DataFrame({"refused": [refused(each) for each in wrong]})
orders["R²"] = [over_layers(each.r2) for each in shuffled]
orders["beyond own"] = [over_layers(beyond_own(each, native, own)) for each in wrong]
orders.round(2)

# %% [markdown]
# Maps that predict nothing (R² of 0) can steer. A map sends whatever it is given to where the target's residuals vary
# most, and in these models refusing is among those directions: which of its two ends is met is a matter of chance. So
# one shuffled order shows nothing, and a random vector of equal length, which meets such a direction hardly ever, is
# too kind. What a map carries is shown by many of them, and by what lies beyond the own vector.
#
# ## Exercises
# ### 1 · ●○○ Which layer belongs to which?
# A target of `ours` blocks, a source of `theirs`. After block *l* (from 0) a model is (l + 1) / L of its way through.
# For every layer of the target: the source's layer at the nearest such share, halves going up, never below 0.


# %% tags=["exercise"]
def my_pairs(theirs, ours):
    return ...


# %% tags=["check"]
checks.paired(my_pairs)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Layer l of `ours` is (l + 1) / ours of the way; the source's layer k is (k + 1) / theirs. `int(x + 0.5)` rounds halves
# up.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def my_pairs(theirs, ours):
#     return [max(0, int((layer + 1) / ours * theirs + 0.5) - 1) for layer in range(ours)]
# ```
#
# </details>
#
# ### 2 · ●●○ A ridge map
# `theirs` [text, d_source] and `ours` [text, d_target] are residuals of the same texts. Give the matrix W [d_target,
# d_source] with least Σ ‖ours − W theirs‖² + λ ‖W‖², of centred residuals.


# %% tags=["exercise"]
def my_ridge(theirs, ours, strength):
    return ...


# %% tags=["check"]
checks.ridge(my_ridge)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Subtract both means. Then W.T solves (XᵀX + λ I) W.T = XᵀY: `torch.linalg.solve`.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def my_ridge(theirs, ours, strength):
#     x, y = theirs - theirs.mean(0), ours - ours.mean(0)
#     return (x.T @ y).T @ (x.T @ x + strength * x.new_ones(x.shape[1]).diag()).inverse()
# ```
#
# </details>
#
# ### 3 · ●●● Beyond the own vector
# Three unit vectors: `carried`, `native` and `own`. The cosine of `carried` with what `native` adds to `own`.


# %% tags=["exercise"]
def my_beyond(carried, native, own):
    return ...


# %% tags=["check"]
checks.beyond(my_beyond)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Take from `native` its projection on `own`; what is left is not of unit length.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def my_beyond(carried, native, own):
#     rest = native - (native @ own) * own
#     return carried @ rest / rest.norm()
# ```
#
# </details>
#
# ## What this notebook claims

# %%
assert "n_layers=8" in refusal and "fit_map" in refusal, "another depth is refused, with the remedy"
assert found["unsteered"] == found["own"] == 0 and found["native"] > 0.8, "the native vector makes it refuse"
assert found["between bases"] > 0.8, "so does one carried between the bases"
assert found["calm texts"] > 0.8, "and no text that asks for harm is needed for that"

# %%
assert found["from aligned"] < 0.2 and told.loc["from aligned", "cosine to native"] > 0.7, (
    "a map from the aligned model does not, however near the native vector it comes"
)
assert told.loc["from aligned", "beyond own"] < 0.2 < told.loc["between bases", "beyond own"], (
    "what tells them apart"
)

# %%
assert found["random"] < 0.2, "a random direction of equal length does nothing"
assert orders["R²"].max() < 0.1 and orders["refused"].max() > 0.5, (
    "maps that predict nothing can steer all the same"
)
assert orders["refused"].min() < 0.2, "by chance: not every wrong order does"
