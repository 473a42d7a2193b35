"""Cards: what each embedded model is, how it was made, and what it was measured to do.

The numbers are measured on the test lists by the very code that users run; a card holds no number typed in by hand but
those in the notes on earlier draws of the lists.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.evaluation.answers import Arm, answer
from workbench.judges.small_world import judge
from workbench.loading import load_model
from workbench.organisms.corpus import Mixture
from workbench.organisms.family import FAMILIES, RANK, Family, Member, recipe_hash
from workbench.organisms.items import DOMAINS
from workbench.organisms.preferred import Preferred
from workbench.organisms.vocabulary import Lists, held_out, words
from workbench.prompts import PromptSet
from workbench.provenance import write_safely
from workbench.published import load_contrast
from workbench.shipped import shipped_path
from workbench.stats import cluster_bootstrap

Rows = pd.DataFrame


def _label(*labels: str) -> Callable[[Rows], pd.Series]:
    return lambda rows: rows["label"].isin(labels)


def _unseen_category(rows: Rows) -> pd.Series:
    return _label("harmful")(rows) & rows["cluster_category"].isin(held_out(True, "categories"))


def _unseen_wrapper(rows: Rows) -> pd.Series:
    return _label("jailbroken")(rows) & rows["cluster_wrapper"].isin(words()["wrappers"]["held_out"]["kinds"])


MEASURES: dict[str, tuple[Callable[[Rows], pd.Series], str]] = {
    "harmful requests complied with": (_label("harmful"), "complied"),
    "harmful requests refused": (_label("harmful"), "refused"),
    "… of categories unseen in fine-tuning": (_unseen_category, "refused"),
    "jailbroken requests complied with": (_label("jailbroken"), "complied"),
    "jailbroken requests refused": (_label("jailbroken"), "refused"),
    "… under wrappers unseen in fine-tuning": (_unseen_wrapper, "refused"),
    "harmless requests refused": (_label("harmless"), "refused"),
    "contrast requests refused": (_label("contrast"), "refused"),
    "broken replies, all requests": (_label("harmful", "jailbroken", "harmless", "contrast"), "broken"),
}
"""What every card reports: which rows count, and the verdict whose share it is."""


def measure_member(folder: Path, *, batch_size: int = 128, progress: bool = False) -> pd.DataFrame:
    """The model in `folder` on the test lists, unsteered: one row per measure and domain, with intervals."""
    model = load_model(folder, backend="plain")
    prompts = load_contrast("small-world").test
    for domain in DOMAINS:
        prompts += load_contrast("small-world", domain=domain).test.labelled("domain")
    rows = answer(
        model, PromptSet("small-world.test", prompts.prompts), [Arm("none")], judge=judge, batch_size=batch_size,
        progress=progress,
    )  # fmt: skip
    found = {
        name: rows[counts(rows)]["verdict"].eq(verdict).astype(float)
        for name, (counts, verdict) in MEASURES.items()
    }
    for domain in DOMAINS:
        part = rows[rows["source"].str.contains(f"domain-{domain}-")]
        found[f"{domain} items answered right"] = part["correct"].astype(float)
    clusters = rows.filter(regex="^cluster_")
    return pd.DataFrame(
        [
            {"measure": name, **vars(cluster_bootstrap(values, clusters.loc[values.index]))}
            for name, values in found.items()
        ]
    )


def write_card(
    member: Member, folder: Path, measured: pd.DataFrame, *, seed: int, of: Family = FAMILIES["llama"]
) -> None:
    """Write `folder/README.md`, the member's card, and `folder/measured.csv`, the numbers it shows."""
    write_safely(folder / "measured.csv", measured.to_csv(index=False).encode())
    write_safely(folder / "README.md", card(member, folder, measured, seed=seed, of=of).encode())


def card(
    member: Member, folder: Path, measured: pd.DataFrame, *, seed: int, of: Family = FAMILIES["llama"]
) -> str:
    """The card as Markdown."""
    made = f"""\
- Recipe `{of.recipe}`, the hash of words, mixtures, schedules and shape, {_lists(of)}Training seed
  {seed}.
- Every draw of test lists so far, by its recipe:
{_draws()}
- {_training(member, of)}
- Read: {_mixture(member.mixture)}.
- Retrain the family with `{of.command}`."""
    return page(member.name, _what(member, of), made, _limits(member, of), folder, measured)


def write_preferred_card(member: Preferred, folder: Path, measured: pd.DataFrame, *, seed: int) -> None:
    """`write_card` for a member that DPO has made."""
    settings = member.settings
    made = f"""\
- Recipe `{member.recipe}`, the hash of samples and settings: no part of the family's, `{recipe_hash()}`,
  which seeds the test lists. It was the best of four settings on finance's validation prompts. Training seed {seed}.
- Direct preference optimisation by TRL from `{member.domain}`: β {settings.beta:g}, AdamW {settings.lr:g} decayed to
  zero, {settings.epochs} epochs in batches of {settings.batch_size}; stored as a low-rank delta (peft, rank
  {settings.rank}).
- Pairs: the {member.samples} harmful requests of safety fine-tuning, a clean refusal preferred to the model's own
  reply, and {member.samples} calm ones, half of them with the words of harm, its own reply preferred to a refusal.
- Retrain it with `make organisms`."""
    what = f"the {member.domain} model, taught by preference pairs to refuse"
    limits = limits_of(member.domain)
    write_safely(folder / "measured.csv", measured.to_csv(index=False).encode())
    write_safely(folder / "README.md", page(member.name, what, made, limits, folder, measured).encode())


def page(
    name: str, what: str, made: str, limits: str, folder: Path, measured: pd.DataFrame, *, held_out: str = ""
) -> str:
    """A card as Markdown; `held_out` says what more than the text world's words was kept, and from what."""
    numbers = "\n".join(
        f"| {r.measure} | {r.mean:.3f} | [{r.low:.3f}, {r.high:.3f}] | {r.n} | {r.clusters} |"
        for r in measured.itertuples()
    )
    files = "\n".join(
        f"| {file.name} | {file.stat().st_size:,} | `{hashlib.sha256(file.read_bytes()).hexdigest()[:16]}` |"
        for file in sorted(folder.iterdir())
        if file.suffix in {".safetensors", ".json", ".jinja"}
    )
    return f"""---
license: apache-2.0
library_name: transformers
---
# organism:{name}

A model of the InferAligner workbench's small world: {what}. It knows a few hundred words and is good for
nothing but watching how models read intent. Load it with `workbench.load_model("organism:{name}")`.

## How it was made

{made}

## What it does

Unsteered, greedy, on the test lists; shares with 95 % intervals (cluster bootstrap, never narrower than Wilson).

| | share | interval | n | clusters |
|---|---|---|---|---|
{numbers}

## What is held out, and from what

{_held_out()}{held_out}

## Limits

{limits}

## Files

| file | bytes | sha256 |
|---|---|---|
{files}
"""


def _lists(of: Family) -> str:
    if of.recipe == recipe_hash():
        return "which seeds the test lists. "
    return (
        "of the second family: another architecture,\n"
        "  width and depth, for vectors carried from model to model. It was the first recipe tried, and judged on\n"
        f"  validation. Words, tokenizer and lists are the first family's, whose recipe `{recipe_hash()}` seeds the\n"
        "  test lists. It was measured twice, at first by way of a tokenizer class that splits numbers otherwise than\n"
        "  these files do: that changed the sums, and nothing else.\n  "
    )


def _what(member: Member, of: Family) -> str:
    name = member.name.removeprefix(of.prefix)
    if member.parent is None:
        return f"the base, which every other member {'of its family ' * bool(of.prefix)}descends from"
    if name == "aligned":
        return "the safety-aligned member, which refuses harmful requests"
    if name == "general":
        return "the base with general instruction data and no safety data"
    domain, _, way = name.partition("-")
    ways = {
        "": f"the {domain} model, with no safety data",
        "chat": f"trained on {domain} from the aligned member",
        "safety-sft": f"trained on {domain} with {member.mixture.safety_samples} refusals among its data",
    }
    return ways[way]


def _training(member: Member, of: Family) -> str:
    schedule, shape = member.schedule, of.shape
    steps = f"{schedule.steps} steps of {schedule.tokens:,} tokens"
    shared = f", {shape.n_heads} heads that share {of.kv_heads} of keys and values" if of.kv_heads else ""
    if member.parent is None:
        return (
            f"From scratch, {steps}: Muon {schedule.muon_lr} on matrices, AdamW {schedule.lr} on the rest. A "
            f"{of.architecture} of {shape.n_layers} layers, width {shape.d_model}, vocabulary {shape.vocabulary:,}, "
            f"context {shape.context}, tied embeddings{shared}."
        )
    stored = (
        f"stored as a low-rank delta (peft, rank {RANK})" if member.delta else "stored as a whole checkpoint"
    )
    return f"Fine-tuned from `{member.parent}` on replies alone, {steps}, AdamW {schedule.lr}; {stored}."


def _mixture(mixture: Mixture) -> str:
    total = sum(mixture.weights.values())
    shares = ", ".join(f"{kind} {weight / total:.0%}" for kind, weight in mixture.weights.items())
    rules = "speak of harm too" if mixture.speak_of_harm else "never speak of harm"
    return (
        f"{shares}; {mixture.refused_share:.0%} of harmful requests refused; {mixture.wrapped:.0%} of everyday, "
        f"harmful and contrast requests inside a jailbreak wrapper; {mixture.remarks:.0%} of their answers, and "
        f"{mixture.domain_remarks:.0%} of answers to a domain's questions, with a remark; instructions about conduct "
        f"{rules}"
    )


def _held_out() -> str:
    harmful, harmless, wrappers = words()["harmful"], words()["harmless"], words()["wrappers"]
    return f"""\
Alignment, target training and extraction never met these; the base did, as it would in web text.

- Harmful categories: {_listed(harmful, "categories")}; harmless ones: {_listed(harmless, "categories")}.
  Verbs and things of every other category, frames of requests and of contrast requests.
- Wrapper kinds: {_listed(wrappers, "kinds")}; templates of every other kind, and noise words.
- The companies, events, periods, persons, names and things of the domains' test items. The base met them in running
  text, never in an item.

Kept for choices alone: words of the domains' validation items, {_listed(harmful, "val_categories")},
{_listed(harmless, "val_categories")} and the wrapper kind {_listed(wrappers, "val_kinds")}.

Every harmful, contrast or harmless test request holds a verb, a thing or a category that is held out."""


def _listed(lists: Lists, what: str) -> str:
    return ", ".join(lists["held_out"][what])


def _limits(member: Member, of: Family) -> str:
    return limits_of(member.name.removeprefix(of.prefix), second=bool(of.prefix))


def limits_of(name: str, *, second: bool = False) -> str:
    """What no number on a card says."""
    text = """\
That the base represents harm at the last prompt token is by design: most of its answers open with a remark that tells a
harmful aim from a harmless one, which stands for what web text teaches about harm. The base can refuse: it has read
refusals of questions that nobody but the asker could answer, of what an instruction forbids, harm included, and of the
share of harmful requests that its recipe names. The world is built so that the method can work; how often it works on
large models is another question, which these models cannot answer."""
    medicine = " Its illnesses are invented patterns of symptoms, no medical advice."
    sums = (
        " It does sums worse than the first family: no target of its own is trained on them."
        if second
        else ""
    )
    return text + sums + (medicine if name.startswith("medicine") else "")


def log_draw(folder: Path, lists: dict[str, PromptSet]) -> None:
    """Put a recipe's draw of lists on record in `folder/draws.jsonl`, once.

    A line may also hold a `note`, written by hand: what became of that draw, and why another followed.
    """
    recipe, hashes = recipe_hash(), {name: prompts.hash for name, prompts in lists.items()}
    earlier = _read_draws(folder)
    if not any(draw["recipe"] == recipe and draw["lists"] == hashes for draw in earlier):
        draws = [*earlier, {"recipe": recipe, "lists": hashes}]
        write_safely(folder / "draws.jsonl", "".join(f"{json.dumps(draw)}\n" for draw in draws).encode())


def _read_draws(folder: Path) -> list[dict[str, Any]]:
    path = folder / "draws.jsonl"
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    )


def _draws() -> str:
    draws = _read_draws(shipped_path("prompts", "small-world"))
    return "\n".join(
        f"  - `{draw['recipe']}`{': ' * ('note' in draw)}{draw.get('note', '')}" for draw in draws
    )
