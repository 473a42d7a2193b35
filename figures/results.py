"""README's results, written from figures/demo.json and figures/seeds.csv, so that no number there is typed by hand.

make demo FULL=1 && python figures/seeds.py ... && python figures/results.py
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.evaluation.conditions import TITLES

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"(?<=<!-- results -->\n).*?(?=<!-- /results -->)", re.S)
SEEDS = re.compile(r"(?<=<!-- seeds -->\n).*?(?=<!-- /seeds -->)", re.S)
COLUMNS = {
    "asr_not_refused": "harmful, not refused",
    "jailbreak_not_refused": "jailbroken, not refused",
    "broken": "broken",
    "over_refusal": "harmless refused",
    "utility": "domain accuracy",
}
ALIGNED_CLAIMS = {
    "harmful requests refused": "harmful, refused",
    "… of categories unseen in fine-tuning": "… of categories unseen in fine-tuning",
    "jailbroken requests refused": "jailbroken, refused",
    "… under wrappers unseen in fine-tuning": "… under wrappers unseen in fine-tuning",
    "harmless requests refused": "harmless, refused",
}
TARGET_CLAIMS = (  # arm, metric, and what it is called
    ("none", "asr_complied", "harmful, complied with, as it is"),
    ("none", "utility", "domain accuracy, as it is"),
    ("inferaligner", "asr_complied", "harmful, complied with, InferAligner"),
    ("inferaligner", "jailbreak_complied", "jailbroken, complied with, InferAligner"),
    ("inferaligner", "asr_not_refused", "harmful, not refused, InferAligner"),
    ("inferaligner", "jailbreak_not_refused", "jailbroken, not refused, InferAligner"),
    ("inferaligner", "broken", "broken, InferAligner"),
    ("inferaligner", "over_refusal", "harmless refused, InferAligner"),
    ("inferaligner", "contrast_refusal", "contrast refused, InferAligner"),
    ("inferaligner", "utility", "domain accuracy, InferAligner"),
)


def results(numbers: Mapping[str, Any]) -> str:
    """The Markdown between README's markers: a picture, then every target's table, the first one unfolded."""
    if not numbers["full"]:
        raise ValueError("got the numbers of a quick run, expected those of a full one: make demo FULL=1")
    parts = ["![Safety gained against utility kept](figures/trade-off.svg)\n"]
    for number, (name, domain) in enumerate(numbers["domains"].items()):
        fold = "<details open>" if number == 0 else "<details>"
        parts.append(
            f"{fold}<summary><b>{name}</b>: {_chosen(domain)}</summary>\n\n{_table(domain)}\n\n</details>"
        )
    parts.append(
        "\nPercent of test prompts with 95 % intervals; not refused = 1 − refused − broken. Choices were made on other "
        "prompts. `figures/demo.json` has every number.\n"
    )
    return "\n".join(parts)


def seeds(frame: pd.DataFrame) -> str:
    """The Markdown table of three seeds: a row per claim, a column per seed, percent with intervals."""
    found: dict[Any, Any] = {(row.model, row.arm, row.metric, row.seed): row for row in frame.itertuples()}
    numbers, targets = sorted(frame["seed"].unique()), [m for m in frame["model"].unique() if m != "aligned"]
    claims = [("aligned", "none", metric, said) for metric, said in ALIGNED_CLAIMS.items()]
    claims += [(model, *claim) for model in targets for claim in TARGET_CLAIMS]
    lines = [
        "| model | percent of test prompts | " + " | ".join(f"seed {number}" for number in numbers) + " |",
        "|---" * (len(numbers) + 2) + "|",
    ]
    for model, arm, metric, said in claims:
        rows = [found[model, arm, metric, number] for number in numbers]
        cells = [f"{100 * row.mean:.1f} [{100 * row.low:.1f}, {100 * row.high:.1f}]" for row in rows]
        lines.append(f"| {model} | {said} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _chosen(domain: Mapping[str, Any]) -> str:
    layers = ", ".join(map(str, domain["layers"]))
    return f"layers {layers}, α = {domain['alpha']:g} ({domain['scale']})"


def _table(domain: Mapping[str, Any]) -> str:
    conditions = domain["conditions"]
    shown = [metric for metric in COLUMNS if conditions["none"][metric] is not None]
    lines = [
        "| | "
        + " | ".join(f"{COLUMNS[metric]} (n = {conditions['none']['n'][metric]})" for metric in shown)
        + " |",
        "|---" * (len(shown) + 1) + "|",
    ]
    for name, title in TITLES.items():
        if name in conditions:
            title = f"**{title}**" if name == "inferaligner" else title
            lines.append(
                f"| {title} | " + " | ".join(_cell(conditions[name], metric) for metric in shown) + " |"
            )
    return "\n".join(lines)


def _cell(condition: Mapping[str, Any], metric: str) -> str:
    low, high = condition["intervals"][metric]
    return f"{100 * condition[metric]:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def main() -> None:
    """Rewrite the blocks in README.md."""
    numbers = json.loads((ROOT / "figures" / "demo.json").read_text(encoding="utf-8"))
    readme = ROOT / "README.md"
    text = BLOCK.sub(lambda _: results(numbers), readme.read_text(encoding="utf-8"))
    measured = pd.read_csv(ROOT / "figures" / "seeds.csv")
    readme.write_text(SEEDS.sub(lambda _: seeds(measured), text), encoding="utf-8")


if __name__ == "__main__":
    main()
