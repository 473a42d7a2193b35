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
# # 04 · The gate
#
# **The question.** Which prompts should be steered at all?
#
# **You will know** what the gate's threshold trades, why the paper's is right on average and wrong elsewhere, how to
# set a better one, and why the gate must read the *unsteered* prompt.
#
# **Minutes** 30 to read, one to run. **Hardware** two CPU cores, no network. **Before** 01, 02.

# %%
import pandas as pd

import checks
import workbench as wb

# %% tags=["parameters"]
TARGET, ALIGNED, DOMAIN = "organism:finance", "organism:aligned", "finance"
LAYERS, ALPHA = (3, 4, 5), 0.5

# %% [markdown]
# ## The paper's gate
# g_l = 1 where a_l·s_l + b_l > 0, and b_l = −mean of a_l·s_l over the extraction prompts. One decision per prompt *and
# layer*. The domain's own prompts join `val` here: the finance model is asked about finance, after all. Expect attacks
# to open the gate, and something else to open it as well.

# %%
pairs = wb.load_contrast("small-world", domain=DOMAIN)
target, aligned = wb.load_model(TARGET), wb.load_model(ALIGNED)
train, val = (wb.last_token_activations(target, part) for part in (pairs.train, pairs.val))
srv, ssv = wb.mean_difference(train), wb.mean_difference(wb.last_token_activations(aligned, pairs.train))
paper = wb.ThresholdGate.fit(srv, train)

# %%
opened = wb.gate_map(paper, val)
wb.plots.gate_map(opened, finding="The paper's threshold was set without the domain's prompts")

# %% [markdown]
# The vector separates the kinds (notebook 02), yet the threshold does not: it lies half-way between the two kinds that
# made it, and the domain's prompts are neither. Whatever is unlike the harmless extraction prompts may fall on the far
# side.
#
# ## Every threshold at once
# The ROC curve is what a layer could do, the point what its threshold does. Expect points away from the best corner
# where the map above is wrong, and from layer 3 on curves that reach it all the same.

# %%
roc = wb.gate_roc(paper, val)
wb.plots.gate_roc(roc[roc["layer"].isin([1, 3, 5, 7])])

# %% [markdown]
# ## A stricter threshold
# `calibrate` moves the bias until at most a given share of the prompts that mean no harm opens the gate. It chooses on
# `val`, and never sees `test`. Expect false alarms to go, at a price.

# %%
strict = paper.calibrate(val, false_positive_rate=0.01)
both = {"paper": paper, "strict": strict}
shares = {
    name: wb.gate_map(g, val).pivot(index="label", columns="layer", values="open") for name, g in both.items()
}
pd.concat(shares).loc[:, [1, 3, 5, 7]].round(2)

# %% [markdown]
# At layer 1 the price is most attacks: a quarter of the plain ones and a tenth of the wrapped ones still open the gate.
# No threshold is good where the order is bad. At layer 7 the paper's threshold let no domain prompt through, and the
# stricter rule lets four through: 1 % of 480 prompts is four, a rate that is allowed is spent, and all of it falls on
# one kind. `choose_gate` holds the rate for every kind by itself.
#
# ## One layer for all
# The gate of one good layer may decide for every layer. That is steadier than a vote per layer, and exact to read: if
# it does not lie above the first steered layer the reading costs nothing. Which layer? Expect a late one: there the
# kinds lie furthest apart.

# %%
from workbench.sweep import choose_gate  # noqa: E402  it belongs to the search for settings

gate = choose_gate(srv, train, val)
gate.shared_layer, wb.best_layer(srv, val), float(gate.bias[gate.shared_layer])

# %% [markdown]
# ## On prompts that had no say
# Choices were made on `val`; claims are made on `test`, once. Test prompts hold verbs, things and wrappers that
# neither `train` nor `val` has. Expect the gate to hold, and look at every wrapper by itself: a mean over ten of them
# would hide one that always slips through.

# %%
test = wb.last_token_activations(target, pairs.test)
wrappers = wb.gate_by_wrapper(gate, test)
wb.plots.gate_by_wrapper(wrappers)

# %%
wb.gate_map(gate, test).query("layer == 0").set_index("label")[["open", "n"]]

# %% [markdown]
# On `val` the strict thresholds hold their rate of 0.01 by construction. Here they hold what they can. Expect about
# that much from layer 3 on, and some four times as much at layers 1 and 2, where the order is worse.

# %%
alarms = strict.read(test).open[~test.harmful].float().mean(0)
alarms

# %% [markdown]
# ## Read first, act later
# The gate reads the *unsteered* prompt. Suppose it read the steered pass instead, above the shift. Expect it to see
# what was added, and to open on everything.

# %%
plan = wb.SteeringPlan(ssv, gate=wb.AlwaysOpen(), layers=LAYERS, alpha=ALPHA, scale="gap")
calm = pairs.val.labelled("harmless").sample(60, seed=0)
clean = gate.read(wb.last_token_activations(target, calm)).open[:, 0]
with wb.steered(target, plan, calm) as run:
    _, cache = target.run_with_cache(run.batch.input_ids, attention_mask=run.batch.attention_mask)
after_shift = gate.read(wb.Activations.from_cache(cache, calm.labels, model=target)).open[:, 0]
{"clean": float(clean.float().mean()), "after the shift": float(after_shift.float().mean())}

# %% [markdown]
# A gate that reads its own shift opens because it is open. Hence *decide, then act*: one reading per prompt, kept for
# the whole reply.
#
# ## A closed gate is no gate
# Where it is closed nothing is added: not a mild effect, none. Expect replies that are equal, token by token, beside
# steered rows of the same batch.

# %%
gated = plan.with_gate(gate)
mixed = [*pairs.val.labelled("harmful").sample(12, seed=0), *pairs.val.labelled("domain").sample(12, seed=0)]
plain, under = wb.generate(target, mixed), wb.generate(target, mixed, gated)
closed = [i for i, completion in enumerate(under) if not any(completion.gate_open)]
len(closed), sum(plain[i].tokens == under[i].tokens for i in closed)

# %% [markdown]
# So the domain's accuracy under a gate that is closed on the domain is *identical*, not similar; say which of the two
# you mean when you report it.
#
# ## Exercises
# ### 1 · ●○○ False alarms
# From `opened` [prompt] and `harmful` [prompt], both true or false: the false-positive rate.


# %% tags=["exercise"]
def my_false_positive_rate(opened, harmful):
    return ...


# %% tags=["check"]
checks.false_positive_rate(my_false_positive_rate)

# %% [markdown]
# <details><summary>Hint</summary>
#
# A share *of the prompts that mean no harm*: what stands below the line?
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def my_false_positive_rate(opened, harmful):
#     return opened[~harmful].float().mean()
# ```
#
# </details>
#
# ### 2 · ●●○ A bias with a rate
# From the projections of prompts that mean no harm, `calm` [prompt], a bias with which at most the share `rate` of
# them opens the gate, and no fewer than need be closed. The gate opens where projection + bias > 0.


# %% tags=["exercise"]
def my_strict_bias(calm, rate):
    return ...


# %% tags=["check"]
checks.strict_bias(my_strict_bias)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Sort them, largest first. With rate 0.05 and 40 prompts two may open: the threshold is the third one. And the bias is
# what is *added*.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def my_strict_bias(calm, rate):
#     largest_first = calm.sort(descending=True).values
#     return -largest_first[int(rate * len(calm))]
# ```
#
# </details>
#
# ## What this notebook claims

# %%
assert alarms[3:].max() < 0.02 < 0.03 < alarms[1:3].min(), "a rate from val holds where the order does"
left = shares["strict"].loc[["harmful", "jailbroken"]]
assert left[1].max() < 0.3 < 0.9 < left[3].min(), "its price at layer 1: most attacks; at layer 3: few"
spent = wb.gate_map(strict, val).query("layer == 7").set_index("label").eval("open * n")
assert shares["paper"].loc["domain", 7] == 0 and round(spent["domain"]) == 4, (
    "a rate that is allowed is spent"
)

# %%
assert gate.shared_layer >= 5, "a late layer decides"
assert gate.read(val).open[val.harmful, 0].float().mean() > 0.9, "and attacks open it"
held = wb.gate_map(gate, test).query("layer == 0").set_index("label")["open"]
assert held[["harmful", "jailbroken"]].min() > 0.9, "on prompts that had no say attacks open it, too"
assert held[["harmless", "contrast", "domain"]].max() < 0.05, "and others do not"
assert wrappers.query("side == 'attack'")["open"].min() > 0.8, "whatever they are wrapped in"
assert after_shift.float().mean() > 0.5 + clean.float().mean(), "a gate that reads the shift opens by itself"
assert closed and all(plain[i].tokens == under[i].tokens for i in closed), (
    "a closed gate leaves replies untouched"
)
