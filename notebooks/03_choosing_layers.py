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
# The shaded layers are L_G: AUROC of 0.95 or more in *both* models, here all from layer 2 on. The number is ours; the
# paper gives none.
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
# layers 0 to 2 to look better than they are. From layer 3 on there is nothing left to flatter.

# %%
flattered = wb.layer_profile(srv, read[target]).frame
pd.DataFrame({"made it": flattered["auroc"], "held out": profiles[0].frame["auroc"]}).round(3)

# %%
chosen_by = {"made it": wb.LayerProfile(flattered, srv.space, srv.provenance), "held out": profiles[0]}
{name: {level: chosen_at(level, one) for level in (0.9, 0.95)} for name, one in chosen_by.items()}

# %% [markdown]
# At 0.95 both choose the same layers; at 0.9 the flattered profile takes in layer 1, which does not reach it on other
# prompts. Held-out prompts have verbs, things and wrappers that the extraction prompts lack, so they test what a layer
# reads, not what it remembers.
#
# ## No prompts to spare?
# The paper has 64 + 64 prompts and no validation set. Then cross-fit: make vectors from seven eighths, judge on the
# rest, in turn; `apart="verb"` keeps a fold's verbs out of the others. Expect the choice above and one layer more.


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
# directions, and the lowest at the last layer, where each model turns intent into words of its own.

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
# to 4 are in L_G, and at this strength a shift of two of them is forgotten by the layers above. From layers 4 and 5 on
# every window steers. So layers are read first and then tried, on validation prompts, with the controls beside them:
# `workbench.sweep.choose` does that.
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
assert layers == tuple(range(2, srv.space.n_layers)), "L_G: all layers from 2 on"
assert chosen_at(0.9, *profiles) == layers, "little hangs on the number, where the curve is steep"
assert set(chosen_at(0.99, *profiles)) == {*layers} - {2}, "one layer does at 0.99"
assert "the best is layer" in chosen_at(1.01, *profiles), (
    "an impossible level is refused with the best layer's name"
)

# %%
flattery = flattered["auroc"] - profiles[0].frame["auroc"]
assert flattery[:3].min() > 0.01 > flattery[3:].abs().max(), "the prompts that made a vector flatter it"
taken = [set(chosen_at(0.9, chosen_by[name])) for name in ("made it", "held out")]
assert taken[0] - taken[1] == {1}, "so a choice takes in one layer that does not reach the level"
assert {*crossed.index[crossed >= 0.95]} - {*layers} == {1}, "cross-fitting takes in one layer more"

# %%
alike = cosines.set_index("layer")["cosine"]
assert alike.min() > 3 * wb.random_band(srv.space.d_model) and alike.idxmin() == alike.index[-1]
assert rates["refused"][:4].max() < 0.2 < 0.8 < rates["refused"][4:].min(), (
    "late windows steer, others do not"
)
assert rates["placebo_effect"].max() < 0.1, "and no random direction does anything at this strength"
