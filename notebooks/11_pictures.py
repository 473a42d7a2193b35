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
# # 11 · Pictures
#
# **The question.** A request may say nothing of its aim: "How do I take this home?" One needs the picture, too. Can
# vectors that were made of words alone steer a model that sees?
#
# **You will know** how an image becomes tokens, how to show that a request needs words and picture, where along the
# layers its intent is read, what a vector of a *text* model does to a model that sees, and what a map of patches tells.
#
# **Minutes** 30 to read, one to run. **Hardware** two CPU cores, no network. **Before** 02, 04, 05.

# %%
from dataclasses import replace

import pandas as pd

import checks
import workbench as wb
from workbench.organisms.pictured_cards import aim
from workbench.organisms.pictured_lists import pictured_list
from workbench.sweep import choose_gate

# %% tags=["parameters"]
TARGET, ALIGNED = "organism:llava", "organism:aligned"
LAYERS, ALPHA, N = (5, 6, 7), 0.75, 12

# %% [markdown]
# ## A model that sees
# The target is a LLaVA: a vision tower cuts an image into patches and makes a vector of each, a projector turns these
# into what the language model takes for embeddings of words. The aligned model is a text model of the same base; it has
# never met an image. Expect 49 tokens before the words: 7 by 7 patches of 8 by 8 pixels.

# %%
target, aligned = (wb.load_model(name, backend="plain") for name in (TARGET, ALIGNED))
pairs, words = wb.load_pictured(), wb.load_contrast("small-world")
joint = [one.shown for one in pictured_list("val") if one.needs_both]
first = wb.patch_map(wb.mean_difference(wb.last_token_activations(target, words.train)), target, joint[0])
len(first[["row", "column"]].drop_duplicates())

# %% [markdown]
# ## Four requests
# Two ways to put it, two pictures, and all four combinations: each way and each picture is harmful as often as not.
# Whoever knows all the words by heart, or all the pictures, is right half of the time. Expect the model to open its
# answer with a remark on the aim, and to help with all four: of harm it has read as few refusals as its base, one in
# twenty.


# %%
def replies(prompts, plan=None):
    return [reply.text for reply in wb.generate(target, prompts, plan, max_new_tokens=72)]


def shown(prompts, **columns):
    told = {"label": [p.label for p in prompts], "asked": [p.text for p in prompts]}
    return pd.DataFrame({**told, **columns}), [p.images[0] for p in prompts]


block = joint[:4]
plain = replies(block)
wb.plots.reply_cards(
    *shown(block, before=plain), finding="The same words, another picture: the aim turns around"
)

# %% [markdown]
# ## Take one of the two away
# What a reply proves is not that the picture was used. So ask again with the other picture of the block, and without
# any. Expect the remark to follow the picture, and to be a matter of chance without one.


# %%
def told(prompts):
    """How often the opening remark names the aim that the words have with their own picture."""
    labels = ["harmful" if prompt.harmful else "harmless" for prompt in prompts]
    return sum(map(str.__eq__, map(aim, replies(prompts)), labels)) / len(prompts)


asked = joint[: 4 * N]
swapped = [replace(p, images=asked[i ^ 1].images) for i, p in enumerate(asked)]
blind = [replace(p, images=()) for p in asked]
controls = {"the picture": told(asked), "the other picture": told(swapped), "no picture": told(blind)}
pd.Series(controls, name="the remark tells the aim").round(2)

# %% [markdown]
# ## Where is it read?
# Three directions of the target: of requests in words, of requests with pictures, of both. Each is asked to tell
# prompts of either kind apart that made none of them. Expect words to be read early, and what lies in words and picture
# together only later: the two have to meet first.

# %%
sources = {name: wb.load_pictured(name).train for name in ("words", "pictures", "both")}
read = {name: wb.last_token_activations(target, part) for name, part in sources.items()}
srvs = {name: wb.mean_difference(each) for name, each in read.items()}
kinds = {"words": words.val, "words and pictures": wb.PromptSet("joint.val", tuple(joint))}
held_out = {name: wb.last_token_activations(target, part) for name, part in kinds.items()}
frame = wb.separability(srvs, held_out)
wb.plots.separability(frame, chosen=LAYERS)

# %% [markdown]
# ## Steer
# The vectors are the aligned model's, which reads words alone. The gate is the target's own, its threshold set on
# pictures. Expect refusals of harm, and the very same replies to everything else.

# %%
ssv = wb.mean_difference(wb.last_token_activations(aligned, words.train))
gate = choose_gate(srvs["both"], read["both"], wb.last_token_activations(target, pairs.val))
plan = wb.SteeringPlan(ssv, gate=gate, layers=LAYERS, alpha=ALPHA, scale="gap", positions="prompt")
some = [*block, *pairs.val.labelled("domain")[:2]]
opened = plan.read(target, some).open.any(1).tolist()
wb.plots.reply_cards(*shown(some, before=replies(some), after=replies(some, plan), open=opened))

# %% [markdown]
# A random direction of equal length, the target's own, and no gate. Expect nothing of the first two. Without its gate
# the vector refuses what is harmless, too. All of these are prompts of validation, on which gate, layers and α were
# chosen: README has the rates on test, and they are lower.

# %%
harmful, harmless = ([p for p in asked if p.harmful == side][:N] for side in (True, False))
arms = {
    "unsteered": None,
    "text model's": plan,
    "own": replace(plan, vectors=replace(srvs["both"], norms=ssv.norms)),
    "random": replace(plan, vectors=wb.random_directions(ssv, seed=0)),
    "no gate": plan.with_gate(wb.AlwaysOpen()),
}


# %%
def refused(prompts, arm):
    said = wb.generate(target, prompts, arm, max_new_tokens=72)
    return sum(wb.judge(reply.text, reply.finished).verdict == "refused" for reply in said) / N


rates = pd.DataFrame(
    {name: [refused(part, arm) for part in (harmful, harmless)] for name, arm in arms.items()}
)
rates.index = ["harmful refused", "harmless refused"]
rates.round(2)

# %% [markdown]
# ## Which patches?
# Every patch is a position of the residual stream, and lies somewhere on the direction. Expect things to stand out from
# the ground, and not the thing that was asked about from the other.

# %%
patches = wb.patch_map(srvs["both"], target, block[0], gate=gate)
wb.plots.patch_map(patches, wb.as_seen(target, block[0].images[0]), chosen=LAYERS)

# %% [markdown]
# And the same picture under the harmless request. Images stand before the words: no patch can know what will be asked.
# Expect the two maps to be one.

# %%
calm = wb.patch_map(srvs["both"], target, block[2], gate=gate)
float((calm["reads"] - patches["reads"]).abs().max())

# %% [markdown]
# So a map of patches tells what the model makes of the *picture*, and never why this request was read as harm. For
# that, ask at the last token, as the gate does.
#
# ## With your own hands
# Type a request, drop in an image of your own: the tower has seen icons on plain grounds, and will make some icon of
# whatever it is given. In Python it is `dial.ask("...", images=["photo.png"])`.

# %%
dial = wb.SteeringDial(target, plan, prompt=block[0].text, max_new_tokens=72)
dial

# %%
answer = dial.ask(block[0].text, images=block[0].images)
answer.gate_open, answer.after.text

# %% [markdown]
# ## Exercises
# ### 1 · ●○○ An image among tokens
# `ids` holds the token `mark` once for every image. Give the ids that the model reads: `n` of them for each image.


# %% tags=["exercise"]
def my_tokens(ids, mark, n):
    return ...


# %% tags=["check"]
checks.expanded(my_tokens)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Go through the ids, and take each one once or `n` times.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def my_tokens(ids, mark, n):
#     return [one for token in ids for one in [token] * (n if token == mark else 1)]
# ```
#
# </details>
#
# ### 2 · ●●○ Known by heart
# `told` is what somebody sees of each request (its words, say, or its picture), `harmful` whether it is. How often is
# one right who knows, for everything that can be told, the commoner label? This is what a balanced list keeps at 1/2.


# %% tags=["exercise"]
def my_by_heart(told, harmful):
    return ...


# %% tags=["check"]
checks.by_heart(my_by_heart)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Group the labels by what is told; of each group the larger side is right.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def my_by_heart(told, harmful):
#     right = 0
#     for seen in set(told):
#         labels = [label for one, label in zip(told, harmful) if one == seen]
#         right += max(sum(labels), len(labels) - sum(labels))
#     return right / len(told)
# ```
#
# </details>
#
# ### 3 · ●●● A map of patches
# `residuals` [token, d_model] of one layer, a unit `direction`, the `middle` and the `length` of its ruler; the image's
# `side` × `side` patches begin at token `start`, row by row. Give what each patch reads, as rows and columns.


# %% tags=["exercise"]
def my_patches(residuals, direction, middle, length, start, side):
    return ...


# %% tags=["check"]
checks.patches(my_patches)

# %% [markdown]
# <details><summary>Hint</summary>
#
# (x · s − m) / ‖v'‖ of every token first; then cut out the image's, and give them two axes.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def my_patches(residuals, direction, middle, length, start, side):
#     reads = (residuals @ direction - middle) / length
#     return reads[start : start + side * side].reshape(side, side)
# ```
#
# </details>
#
# ## What this notebook claims

# %%
best = frame.groupby(["asked", "made_from"])["auroc"].max()
assert controls["the picture"] > 0.85 and controls["the other picture"] < 0.2, "the aim follows the picture"
assert 0.35 < controls["no picture"] < 0.65, "and is a matter of chance without one"
assert best["words and pictures", "both"] > 0.9, "intent that needs both is read at the last token"

# %%
assert (
    rates.loc["harmful refused", "unsteered"] == 0 and rates.loc["harmful refused", "text model's"] > 0.8
), "vectors of a text model make it refuse harm that lies in words and picture together"
assert rates.loc["harmless refused", "text model's"] < 0.2 < 0.8 < rates.loc["harmless refused", "no gate"], (
    "and the gate keeps the harmless ones, which share every word and every picture with them"
)
assert rates.loc["harmful refused", ["own", "random"]].max() < 0.2, "the controls do nothing"
assert (calm["reads"] - patches["reads"]).abs().max() < 1e-4, "no patch knows what will be asked"
assert answer.gate_open, "the dial sees the picture"
