"""What the model that sees reads, and what vectors of words, of pictures and of both make of its replies.

    workbench demo --full --target llava && python figures/pictured.py && python figures/results.py

Into figures/llava, each picture with the csv it draws: separability (which vectors read which prompts, layer by layer),
sources (what becomes of replies under a gate from each), patches, cards. Layers, gate and strength are chosen on
validation, as `make demo` chooses; what is drawn is of test.

The trap: the sources differ in who is asked when vectors are made, and in nothing else. The steering vectors are those
of the aligned text model, from words, in all three.
"""

from pathlib import Path

import pandas as pd

import workbench as wb
from workbench.demo.target import (
    BATCH_SIZE,
    FULL_SEARCH,
    MAX_NEW_TOKENS,
    PAIRS,
    SEER,
    load_embedded,
    prompts_for,
)
from workbench.evaluation.answers import Arm
from workbench.evaluation.conditions import Condition
from workbench.evaluation.metrics import estimates, openings
from workbench.evaluation.protocol import describe, measure
from workbench.export import save_figure, save_frame
from workbench.loading import Model
from workbench.organisms.pictured_lists import Extract, pictured_list
from workbench.profiles import NoLayers
from workbench.sweep.choosing import Choices, choose

FOLDER = Path(__file__).parent / SEER
SOURCES: tuple[Extract, ...] = ("words", "pictures", "both")
KINDS = ("harmful", "jailbroken", "harmless", "contrast")


def asked_of(target: Model) -> dict[str, wb.Activations]:
    """Test prompts of three kinds: words alone, words that tell beside a picture, words and picture both needed."""
    pictured = pictured_list("test")
    calm = [one for one in pictured if one.prompt.label != "domain"]
    kinds = {
        "words alone": wb.load_contrast(PAIRS).test.where(lambda prompt: prompt.label in KINDS),
        "words beside a picture": wb.PromptSet("told.test", tuple(p.shown for p in calm if not p.needs_both)),
        "words and picture": wb.PromptSet("joint.test", tuple(p.shown for p in calm if p.needs_both)),
    }
    return {
        name: wb.last_token_activations(target, part, batch_size=BATCH_SIZE) for name, part in kinds.items()
    }


def separability(target: Model) -> pd.DataFrame:
    """AUROC by layer, of vectors of every source on every kind of prompt."""
    made: dict[str, wb.SteeringVectors] = {
        source: wb.mean_difference(wb.last_token_activations(target, wb.load_pictured(source).train))
        for source in SOURCES
    }
    return wb.separability(made, asked_of(target))


def chosen(target: Model, aligned: Model, source: Extract) -> Choices | None:
    """What the rules choose where the target's vectors are of one source; None where no layer reads well enough."""
    pairs = wb.load_pictured(source)
    try:
        return choose(
            target, aligned, pairs, prompts_for(SEER)[1], aligned_pairs=wb.load_contrast(PAIRS),
            search_on=pairs.val.sample_each(FULL_SEARCH), controls=False, beside=False,
            max_new_tokens=MAX_NEW_TOKENS, batch_size=BATCH_SIZE,
        )  # fmt: skip
    except NoLayers:
        return None


def by_source(target: Model, made: dict[Extract, Choices | None]) -> pd.DataFrame:
    """Rates and openings of the gate, a row per source and metric; a source by which no layer reads well has none.

    On test, of requests for harm those alone whose aim needs words and picture: words that tell are no question here.
    """
    found = {source: one for source, one in made.items() if one is not None}
    rows = [Condition("none", Arm("none"))]
    rows += [Condition(source, Arm(source, (one.ours,))) for source, one in found.items()]
    asked = (
        one for one in pictured_list("test") if one.needs_both or one.prompt.label in ("contrast", "domain")
    )
    test = wb.PromptSet("joint.test", tuple(one.shown for one in asked))
    measured = measure({"target": target}, test, rows, max_new_tokens=MAX_NEW_TOKENS, batch_size=BATCH_SIZE)
    told = {source: describe(one.ours) for source, one in found.items()}
    frames = [estimates(measured.frame).rename(columns={"arm": "made_from"})]
    for source in found:
        for label, share in openings(measured.arm(source)).items():
            row = {"made_from": source, "metric": f"gate open, {label}", **vars(share)}
            frames.append(pd.DataFrame([row]))
    frame = pd.concat(frames, ignore_index=True)
    for column in ("layers", "alpha", "gate_layers"):
        frame[column] = [
            " ".join(map(str, told[name][column])) if isinstance(told.get(name, {}).get(column), list)
            else told.get(name, {}).get(column)
            for name in frame["made_from"]
        ]  # fmt: skip
    return frame


def cards(target: Model, plan: wb.SteeringPlan) -> tuple[pd.DataFrame, list[wb.Image]]:
    """The first test prompt of each kind, and the first harmful one's block: the first, not the finest."""
    test = wb.load_pictured().test
    first = test.labels.index("harmful") // 4 * 4
    shown = [*test.prompts[first : first + 4]]
    shown += [test[test.labels.index(label)] for label in ("jailbroken", "contrast", "domain")]
    before = wb.generate(target, shown, max_new_tokens=MAX_NEW_TOKENS)
    after = wb.generate(target, shown, plan, max_new_tokens=MAX_NEW_TOKENS)
    opened = plan.read(target, shown).open[:, list(plan.layers)].any(1).tolist()
    frame = pd.DataFrame(
        {"label": [p.label for p in shown], "asked": [p.text for p in shown], "open": opened}
    )
    frame = frame.assign(before=[one.text for one in before], after=[one.text for one in after])
    return frame, [prompt.images[0] for prompt in shown]


def main() -> None:
    """Measure, and write all of it to `FOLDER`."""
    models, aligned = load_embedded(SEER)
    target = models["target"]
    made = {source: chosen(target, aligned, source) for source in SOURCES}
    save_frame(by_source(target, made), FOLDER / "sources")
    frame = separability(target)
    both = made["both"]
    if both is None:
        raise RuntimeError(
            "no layer reads intent well enough from words and pictures: there is nothing to draw"
        )
    layers = both.ours.layers
    save_figure(wb.plots.separability(frame, chosen=layers), frame, FOLDER / "separability.svg")
    told, images = cards(target, both.ours)
    save_figure(wb.plots.reply_cards(told, images), told, FOLDER / "cards.svg")
    shown = wb.load_pictured().test.labelled("harmful")[0]
    patches = wb.patch_map(both.evidence.srv, target, shown, gate=both.gate)
    fig = wb.plots.patch_map(patches, wb.as_seen(target, shown.images[0]), chosen=layers)
    save_figure(fig, patches, FOLDER / "patches.svg")


if __name__ == "__main__":
    main()
