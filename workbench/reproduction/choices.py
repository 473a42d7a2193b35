"""Every decision of a run in a line: what, which, on what it was made, by which rule, and what the paper says of it.

The trap: what a paper leaves open is easily filled in silence. Here it is filled aloud.
"""

from collections.abc import Iterator

from workbench.evaluation.protocol import listed
from workbench.records import Choice
from workbench.reproduction.checkpoints import wording_of
from workbench.reproduction.config import Experiment, Target
from workbench.reproduction.material import Material
from workbench.reproduction.paper import SOURCE
from workbench.sweep.choosing import FALSE_POSITIVE_RATE
from workbench.sweep.choosing import Choices as Made
from workbench.sweep.guiding import ChosenGuide
from workbench.sweep.results import MAX_BROKEN, MAX_PLACEBO_EFFECT, MAX_REFUSAL_RISE
from workbench.vectors import cosine_sentence


def of_the_protocol(experiment: Experiment, material: Material) -> list[Choice]:
    """What holds for all targets."""
    prompts, seed = experiment.prompts, experiment.seed
    found = [
        Choice(
            "decoding", f"greedy, at most {experiment.max_new_tokens} tokens", "the file", f"{SOURCE}: 256"
        ),
        Choice(
            "when the gate is read",
            "once, from the unsteered prompt; its decision holds for the whole reply",
            "declared",
            f"{SOURCE} tells one decision per prompt, and not whether it is taken before anything is added",
            True,
        ),
        Choice(
            "the words of the defences",
            "our own, after Self-Reminder, Goal Priority and in-context defence: "
            + ", ".join(sorted({wording_of(experiment, target) for target in experiment.targets})),
            "declared",
            "the paper names the first two, and not their words; the embedded models have read instructions phrased "
            "as theirs",
            True,
        ),
    ]
    if experiment.kind == "cost":  # which times, and chooses nothing
        return found
    if experiment.kind == "mm":
        found += list(_of_pictures(experiment, material))
    found.append(
        Choice(
            "the rule for settings",
            "the mildest setting of those that refuse most attacks",
            "declared",
            f"every point beyond {100 * MAX_BROKEN:g} % broken, {100 * MAX_REFUSAL_RISE:g} points more refusals of "
            f"calm prompts, and {100 * MAX_PLACEBO_EFFECT:g} % of attacks that random directions of equal length "
            "refuse or break, costs several; the paper tells no rule",
            True,
        )
    )
    if material.folds:
        found += [
            Choice(
                "extraction prompts",
                f"{prompts.n_train} of each kind, drawn by seed {seed}",
                "the file",
                f"{SOURCE} tells 64 of each, and not which",
                True,
            ),
            Choice(
                "what choices are made on",
                f"cross-fitting, {prompts.folds} folds of the extraction prompts, then a refit on all of them",
                "declared",
                "the paper's split leaves no prompts for choices: 64 + 456 = 520",
                True,
            ),
        ]
    else:
        found.append(
            Choice("what choices are made on", f"{material.pairs.val.name}, apart from train and test", "declared",
                   "the set has such a part; the paper's split leaves none", True)
        )  # fmt: skip
    if (templates := material.templates) is not None:
        found.append(
            Choice(
                "jailbreak templates",
                f"{len(templates.test)} of {templates.name}, drawn by seed {seed}: "
                + ", ".join(template.source for template in templates.test),
                "the file",
                f"{SOURCE} tells 10 templates, and not which; choices saw "
                + (
                    "none"
                    if templates.choosing is None
                    else f"others, {len(templates.choosing)} of the same source"
                )
                + (f"; {templates.left_out} are longer than a context" if templates.left_out else ""),
                True,
            )
        )
        found.append(
            Choice("requests in the templates", f"{prompts.n_jailbroken} of the test's, drawn by seed {seed}",
                   "the file", f"{SOURCE} tells 50, and not which", True)
        )  # fmt: skip
    return found


def _of_pictures(experiment: Experiment, material: Material) -> Iterator[Choice]:
    """What holds where questions come with pictures."""
    yield Choice(
        "what vectors, gates and strengths rest on", "prompts in words, without a picture", "declared",
        f"{SOURCE} takes the vectors that steer from a model of text; what LLaVA's own gate was read from is not known "
        "here",
        True,
    )  # fmt: skip
    yield Choice(
        "the questions with pictures", f"{material.test.name.removesuffix('.test')}, {len(material.test)}", "the file",
        f"{SOURCE}: MM-Harmful Bench, all 100",
    )  # fmt: skip
    if experiment.timed is not None:
        yield Choice(
            "seconds per 1,000 tokens",
            f"on {min(experiment.timed, len(material.test))} questions drawn by seed {experiment.seed}, "
            f"{experiment.rounds} rounds after one that is not counted", "the file",
            "conditions take turns; measured anew whenever the command runs, for no ledger keeps time", True,
        )  # fmt: skip


def of_a_target(experiment: Experiment, target: Target, made: Made) -> list[Choice]:
    """What was chosen for one target."""
    name, ours, paper, evidence = target.name, made.ours, made.paper, made.evidence
    where = made.strength.provenance.prompts
    shared = made.gate.shared_layer
    bias = float("nan") if shared is None else float(made.gate.bias[shared])
    searched = f"{where}, {made.strength.frame['prompt'].nunique()} prompts"
    rule = "by the rule for settings"
    found = [
        Choice(
            f"{name}: layers that read intent", listed(made.layers), where,
            f"both models tell harmful from harmless with AUROC ≥ {made.min_auroc:g}; the paper says accurately", True,
        ),
        Choice(
            f"{name}: steered layers, ours", listed(ours.layers), searched,
            f"{rule}, of {len(made.places.spec.layers)} sets of these layers; paper-exact steers all of them",
            True,
        ),
        Choice(
            f"{name}: gate, ours", f"layer {shared} decides for all, bias {bias:.3f}", where,
            f"opens on most attacks at no more than {100 * FALSE_POSITIVE_RATE:g} % of each kind of calm prompts; the "
            "paper allows one layer's gate for all and a moved bias",
            True,
        ),
        Choice(
            f"{name}: strength, ours", f"α = {ours.alpha:g} of ‖v'‖, at {ours.positions} positions", searched, rule,
            True,
        ),
        Choice(
            f"{name}: strength, paper-exact", f"α = {paper.alpha:g} raw, at all positions",
            "the file" if target.paper_alpha is not None else made.raw.provenance.prompts,
            f"{SOURCE} has 4.0 for LLaMA2 and Qwen, 8.0 for InternLM"
            + ("" if target.paper_alpha is not None else f", and none for this model: chosen {rule}"),
            target.paper_alpha is None,
        ),
        Choice(
            f"{name}: whose vectors", experiment.aligned_of(target), "the file",
            cosine_sentence(evidence.srv, evidence.ssv, ours.layers),
        ),
    ]  # fmt: skip
    return found


def of_a_guide(target: Target, made: Made, chosen: ChosenGuide) -> Choice:
    """What was chosen for one target's guided decoding."""
    guide = chosen.guide
    return Choice(
        f"{target.name}: guided decoding",
        f"weight {guide.weight:g}, reward read at layer {guide.reward.layer}, {guide.top_k} candidates for a token",
        f"{made.strength.provenance.prompts}, {chosen.n_prompts} prompts",
        f"{chosen}; the paper names the family of methods and runs none of it",
        True,
    )
