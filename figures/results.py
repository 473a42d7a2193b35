"""README's results, written from figures/demo.json, so that no number there is typed by hand.

make demo FULL=1 && python figures/results.py
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.evaluation.conditions import TITLES

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"(?<=<!-- results -->\n).*?(?=<!-- /results -->)", re.S)
COLUMNS = {
    "asr_not_refused": "harmful, not refused",
    "jailbreak_not_refused": "jailbroken, not refused",
    "broken": "broken",
    "over_refusal": "harmless refused",
    "utility": "domain accuracy",
}


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
    """Rewrite the block in README.md."""
    numbers = json.loads((ROOT / "figures" / "demo.json").read_text(encoding="utf-8"))
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(BLOCK.sub(lambda _: results(numbers), text), encoding="utf-8")


if __name__ == "__main__":
    main()
