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
# # 03 · Choosing layers
#
# **The question.** At which layers should a model be steered?
#
# **You will know** the paper's answer, *where both models tell harmful from harmless*, how to make it a rule with
# numbers, how such a rule flatters itself, and what it does not tell.
#
# **Minutes** 25 to read, one to run. **Hardware** two CPU cores, no network. **Before** 01, 02.

# %%
import pandas as pd

import checks
import workbench as wb

# %% tags=["parameters"]
TARGET, ALIGNED, ALPHA = "organism:finance", "organism:aligned", 0.5
ATTACKS, OTHERS = 24, 12

# %% [markdown]
# ## A profile of each model
# Each model's own vector on its own residuals, on prompts that made no vector. The target has to *read* intent where
# the gate decides; the aligned model has to *hold* it where its vector is taken from. Expect two curves that rise
# together.

# %%
pairs = wb.load_contrast("small-world")
target, aligned = wb.load_model(TARGET), wb.load_model(ALIGNED)
read = {m: wb.last_token_activations(m, pairs.train) for m in (target, aligned)}
held_out = {m: wb.last_token_activations(m, pairs.val) for m in (target, aligned)}
srv, ssv = wb.mean_difference(read[target]), wb.mean_difference(read[aligned])
profiles = [wb.layer_profile(srv, held_out[target]), wb.layer_profile(ssv, held_out[aligned])]

# %%
layers = wb.select_layers(*profiles, min_auroc=0.95)
wb.plots.layer_profile(pd.concat([p.frame for p in profiles]), chosen=layers)

# %% [markdown]
# The shaded layers are L_G: AUROC of 0.95 or more in *both* models. The number is ours; the paper gives none.
#
# ## How much hangs on the number?
# Expect little, where the curve is steep, and an error that names the best layer where nothing is good enough.


# %%
def chosen_at(level, *profiles):
    try:
        return wb.select_layers(*profiles, min_auroc=level)
    except ValueError as error:
        return str(error)


{level: chosen_at(level, *profiles) for level in (0.7, 0.9, 0.95, 0.99, 1.01)}

# %% [markdown]
# ## The flattering choice
# What if the profile is read on the prompts that the vector was made from? The vector was *built* to part them. Expect
# every layer to look better than it is, most of all the first ones.

# %%
flattered = wb.layer_profile(srv, read[target]).frame
pd.DataFrame({"made it": flattered["auroc"], "held out": profiles[0].frame["auroc"]}).round(3)

# %%
{"made it": wb.select_layers(wb.LayerProfile(flattered, srv.space, srv.provenance), min_auroc=0.95),
 "held out": wb.select_layers(profiles[0], min_auroc=0.95)}  # fmt: skip

# %% [markdown]
# Look at where the two columns part. Held-out prompts have verbs, things and wrappers that the extraction prompts
# lack, so they test what a layer reads, not what it remembers.
#
# ## No prompts to spare?
# The paper has 64 + 64 prompts and no validation set. Then cross-fit: make vectors from seven eighths, judge on the
# rest, in turn; `apart="verb"` keeps a fold's verbs out of the others. Expect a choice close to the one above.


# %%
def crossfit(model, n=8):
    for fold in pairs.folds(n, seed=0, apart="verb"):
        sides = [wb.last_token_activations(model, part) for part in (fold.train, fold.val)]
        yield wb.layer_profile(wb.mean_difference(sides[0]), sides[1]).frame["auroc"]


crossed = pd.concat(crossfit(target), axis=1).mean(axis=1)
crossed.round(3)

# %% [markdown]
# ## Do the two models mean the same?
# A layer may be readable in both models and point elsewhere in each. Expect cosines far above the band of random
# directions, falling towards the last layer, where each model turns intent into words of its own.

# %%
cosines = wb.vector_cosines(srv, ssv)
wb.plots.vector_cosines(cosines)

# %% [markdown]
# ## Readable is not steerable
# L_G says where intent can be *read*. Where does a shift *act*? Every window of two neighbours, one strength, the same
# attacks. Expect windows that read equally well and steer very differently. `placebo` counts random directions.


# %%
def some(kind, n):
    return list(pairs.val.labelled(kind).sample(n, seed=0))


sample = wb.PromptSet(
    "sample", (*some("harmful", ATTACKS), *some("harmless", OTHERS), *some("contrast", OTHERS))
)
gate = wb.ThresholdGate.fit(srv, read[target], layer=wb.best_layer(srv, held_out[target]))
plan = wb.SteeringPlan(ssv, gate=gate, layers=layers, alpha=ALPHA, scale="gap", positions="prompt")
windows = [(n, n + 1) for n in range(srv.space.n_layers - 1)]
sweep = wb.run_sweep(target, sample, plan, alpha=[ALPHA], layers=windows, placebo=3)

# %%
rates = sweep.rates().set_index("layers")[["refused", "broken", "refusal_rise", "placebo_effect"]]
rates.round(2)

# %% [markdown]
# `refused` counts attacks, `placebo_effect` those that *random* directions of equal length refuse or break. Layers 2
# and 3 are in L_G, and at this strength a shift there is forgotten by the layers above it. Late windows steer. So
# layers are read first and then tried, on validation prompts, with the controls beside them: `workbench.sweep.choose`
# does that.
#
# ## Exercises
# ### 1 · ●○○ L_G
# From two lists of AUROC by layer, the target's and the aligned model's, the layers at which both reach `level`.


# %% tags=["exercise"]
def my_layers(ours, theirs, level):
    return ...


# %% tags=["check"]
checks.both_models(my_layers)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Both reach the level where the *smaller* of the two does.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def my_layers(ours, theirs, level):
#     return [layer for layer, both in enumerate(zip(ours, theirs)) if min(both) >= level]
# ```
#
# </details>
#
# ### 2 · ●●○ A careful L_G
# An AUROC of 0.96 from few prompts may be 0.85 in truth. From `frame`, with the columns layer, auroc, auroc_low and
# auroc_high, the layers that are surely good enough: `level` lies below the whole interval.


# %% tags=["exercise"]
def my_careful_layers(frame, level):
    return ...


# %% tags=["check"]
checks.careful_layers(my_careful_layers)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Which end of the interval lies above the level, if the whole interval does?
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def my_careful_layers(frame, level):
#     return frame.loc[frame["auroc_low"] > level, "layer"].tolist()
# ```
#
# </details>
#
# ## What this notebook claims

# %%
both = pd.concat([p.frame.set_index("layer")["auroc"] for p in profiles], axis=1).min(axis=1)
assert layers == tuple(both.index[both >= 0.95]), "L_G: both models reach the level, and no other layer does"
assert "the best is layer" in chosen_at(1.01, *profiles), (
    "an impossible level is refused with the best layer's name"
)
assert flattered["auroc"].mean() >= profiles[0].frame["auroc"].mean(), (
    "the prompts that made a vector flatter it"
)
assert (cosines.set_index("layer").loc[list(layers), "cosine"] > wb.random_band(srv.space.d_model)).all()
assert rates["refused"].max() > 0.8 > 0.4 > rates["refused"].min(), "some windows steer, others do not"
