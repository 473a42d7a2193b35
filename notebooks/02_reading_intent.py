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
# # 02 · Reading intent
#
# **The question.** The target refuses nothing. Does it know, all the same, that a request means harm?
#
# **You will know** how to see what a layer can tell: projections, AUROC, controls; and whether it reads *words* or
# *intent*.
#
# **Minutes** 25 to read, less than one to run. **Hardware** two CPU cores, no network. **Before** 01.

# %%
import pandas as pd
import torch

import checks
import workbench as wb

# %% tags=["parameters"]
TARGET, DOMAIN, LAYER = "organism:finance", "finance", 5
KINDS = ["harmful", "jailbroken", "contrast", "harmless", "domain"]

# %% [markdown]
# ## Prompts of five kinds
# `train` makes vectors, `val` is for choices, `test` for claims: three parts that share no prompt. `val` has five
# kinds. Expect requests that sound alike. A contrast prompt has the words of a harmful one and the opposite aim.

# %%
pairs = wb.load_contrast("small-world", domain=DOMAIN)
for kind in KINDS:
    print(f"{kind:<11}{len(pairs.val.labelled(kind)):>4}  {pairs.val.labelled(kind)[0].text}")

# %% [markdown]
# ## One number per prompt and layer
# The vector is made from `train` alone. How far along it does each prompt of `val` lie? In units of ‖v'‖ the classes
# that made it lie at +½ and −½, so 0 is half-way. Expect a cloud at the first layer and two groups later on.

# %%
target = wb.load_model(TARGET)
train, val = (wb.last_token_activations(target, part) for part in (pairs.train, pairs.val))
srv = wb.mean_difference(train)
falls = wb.projections(srv, val, train=train)
wb.plots.projections(falls)

# %% [markdown]
# At the first layers the kinds are mixed, and harmless prompts fall on both sides of 0. From layer 3 on all attacks lie
# to the right, plain or wrapped, all harmless and contrast prompts to the left. The domain's headlines are late: half
# of them lie right of 0 at layer 3, none at layer 7 (notebook 04). The model that answers every request has read all
# along what is asked of it.
#
# ## AUROC: one number per layer
# The chance that a prompt that means harm lies further along than one that does not: 0.5 is a coin, 1 is perfect. It
# needs no threshold, so it says what a layer *can* tell. Expect a rise to 1 within four layers.

# %%
profile = wb.layer_profile(srv, val)
profile.frame.set_index("layer")[["auroc", "auroc_low", "auroc_high", "balanced_accuracy"]].round(3)

# %% [markdown]
# AUROC is high before accuracy is: at layer 2 the *order* is right and the threshold of the training prompts is not,
# because held-out prompts lie elsewhere as a whole. The intervals count verbs, things and wrappers, not prompts:
# requests from templates are no independent observations.
#
# ## Words or intent?
# A layer that knows the word *steal* tells harmful from harmless requests, and takes "How do I report someone who
# wants to steal …" for theft. So compare kinds pair by pair. Expect the pairs to come apart at different layers.


# %%
def auroc(yes, no):
    """The chance that a draw of `yes` lies above one of `no`, ties counting half."""
    return float((yes[:, None] > no).double().mean() + (yes[:, None] == no).double().mean() / 2)


def along(kind, layer):
    return val.labelled(kind).values[:, layer] @ srv.directions[layer]


versus = [("harmful", "harmless"), ("harmful", "contrast"), ("jailbroken", "harmless"), ("harmful", "domain")]
told = {f"{a} / {b}": [auroc(along(a, n), along(b, n)) for n in range(srv.space.n_layers)] for a, b in versus}
pd.DataFrame(told).rename_axis("layer").round(2)

# %% [markdown]
# Every column is a claim of its own. Contrast prompts are told apart *first* here: they have phrasings of their own
# ("someone who wants to …"), and the harmless side of `train` holds a few such prompts, so words of harm alone cannot
# make the vector. What comes last is what is new: wrappers that `train` lacks, and the domain's headlines. At layer 0
# those are hardly told from attacks at all (0.57). From layer 3 on all four pairs are apart.
#
# ## How long is the difference?
# A mean difference is never 0: noise alone gives it some length, most of all from few prompts. The control is the same
# residuals under *shuffled labels*. Expect the true difference above it at every layer, more than ten times as long
# from layer 3 on, and to grow as a share of the residual.

# %%
strength = wb.vector_strength(train)
wb.plots.vector_strength(strength)

# %% [markdown]
# ## How many prompts does it take?
# Vectors from 1, 4, 16 and 64 prompts of each kind, judged on the same held-out ones. Expect one to be enough where the
# model reads intent, and 64 not to be enough at layer 0, where it does not.

# %%
growth = wb.extraction_growth(train, val, sizes=[1, 4, 16, 64], draws=5)
wb.plots.extraction_growth(growth[growth["layer"].isin([0, 2, 3, 5])])

# %% [markdown]
# ## The same without any labels
# Principal components look for what varies most and know no labels. Is intent among it? Move the slider. Expect the
# first component of a later layer to be intent itself.

# %%
wb.plots.principal_components(wb.principal_components(val), layer=LAYER)

# %% [markdown]
# ## Where in the text?
# The vector is made at the last token. Laid along the whole text it shows where the direction is present. Expect the
# harmful request and its contrast twin to share a verb and a thing, and to lie furthest apart where the reply begins.

# %%
twins = [wb.Prompt.user("How can I steal a wallet?", label="harmful")]
twins += [wb.Prompt.user("How can I stop a person who plans to steal a wallet?", label="contrast")]
tokens = wb.token_map(srv, target, twins)
late = tokens[tokens["layer"] >= 3]
wb.plots.token_map(late, finding="The same words, the opposite aim: the last tokens tell them apart")

# %% [markdown]
# Layers 0 to 2 are left out: their ‖v'‖ is short, and in its units most tokens lie further out than harmful prompts
# do, whatever they say. Notebook 07 goes further with this picture. Mind that the ruler was made at the last token:
# elsewhere it shows where the direction is present, not what the model "thinks" there.
#
# ## Exercises
# ### 1 · ●○○ Words or intent?
# Which two kinds share their words and differ in intent, so that telling them apart is a matter of intent alone?

# %% tags=["exercise"]
my_kinds = (..., ...)

# %% tags=["check"]
checks.intent_alone(my_kinds)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Look at the five examples at the top. Which two could have been written with the same verb and the same thing,
# without a wrapper around either?
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# my_kinds = ("harmful", "contrast")
# ```
#
# </details>
#
# ### 2 · ●●○ AUROC by hand
# From the projections of prompts that mean harm, `yes` [prompt], and of others, `no` [other]: the chance that one of
# `yes` lies above one of `no`. Ties count half.


# %% tags=["exercise"]
def my_auroc(yes, no):
    return ...


# %% tags=["check"]
checks.auroc(my_auroc)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `yes[:, None] > no` compares every pair at once. How does `auroc` above go on?
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def my_auroc(yes, no):
#     above, ties = yes[:, None] > no, yes[:, None] == no
#     return (above.double() + ties.double() / 2).mean()
# ```
#
# </details>
#
# ## What this notebook claims

# %%
table, by_layer = pd.DataFrame(told), profile.frame.set_index("layer")
assert by_layer["auroc"].loc[3:].min() > 0.95, "the later layers tell intent, on prompts that made no vector"
assert by_layer["auroc_low"].loc[0] < 0.9, "the first layer does not"
assert (table.loc[3:] > 0.9).all().all(), "intent, not words: every pair is told apart there"
assert table.loc[0].idxmin() == table.loc[2].idxmin() == "harmful / domain", "the headlines come late"
right = (falls["projection"] > 0).groupby([falls["label"], falls["layer"]]).mean().unstack("label").loc[3:]
assert right[["harmful", "jailbroken"]].min().min() == 1 and right[["harmless", "contrast"]].max().max() == 0
assert right["domain"][3] > 0.3 > 0 == right["domain"][7], "and lie right of 0 until the last layer"

# %%
longer = strength["gap_norm"] / strength["shuffled"]
assert longer.min() > 2 and longer[3:].min() > 10, "the difference is no noise"
assert strength["share"].is_monotonic_increasing, "and grows as a share of the residual"

# %%
ends = tokens[tokens["position"] == tokens.groupby("prompt")["position"].transform("max")]
reads = ends[ends["layer"] >= 3].set_index("label")["reads"]
assert reads["harmful"].min() > 0 > reads["contrast"].max(), "at the last token the twins lie apart"
enough = growth.set_index(["size", "layer"])["auroc"]
assert enough[1, 3] > 0.95 > 0.85 > enough[64, 0], "one prompt is enough, or 64 are not"
first = wb.principal_components(val).query("layer == @LAYER").set_index("label")["first"]
sides = first[["harmful", "jailbroken"]], first[["contrast", "harmless", "domain"]]
told_apart = auroc(*(torch.tensor(side.to_numpy()) for side in sides))
assert max(told_apart, 1 - told_apart) > 0.95, "the first component is intent, found without labels"
