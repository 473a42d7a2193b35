"""The numbers of the paper that this room repeats (InferAligner, Wang et al., EMNLP 2024, arXiv 2401.11206).

    attack success        k of 456 harmful requests, in percent; of 100 questions with pictures for LLaVA-1.5
    jailbroken            k of 500, 10 templates x 50 requests
    accuracy              of the domain's own task

The trap: GPT-3.5 judged there, on LLaMA2-7B and its kin, and GPT-4V where there were pictures. A number beside one of
these is of other models, another judge and other prompts, unless all three are the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass

SOURCE = "arXiv 2401.11206"
JUDGE = "GPT-3.5"
JUDGE_OF_PICTURES = "GPT-4V"


@dataclass(frozen=True)
class PaperNumbers:
    """Rates from 0 to 1 of one condition on one model; None where the paper tells none."""

    attack: float
    jailbroken: float | None = None
    accuracy: float | None = None

    def of(self, metric: str) -> float | None:
        """The number that stands beside a metric of `evaluation.metrics`; None beside most.

        Both ways of counting an attack's success have the paper's one beside them.
        """
        by_metric = {"asr": self.attack, "jailbreak": self.jailbroken, "utility": self.accuracy}
        return by_metric.get(metric.removesuffix("_complied").removesuffix("_not_refused"))


def _table(text: str) -> dict[str, dict[str, PaperNumbers]]:
    """Lines of a condition and, for finance, medicine and mathematics, attack / jailbroken / accuracy in percent."""
    found: dict[str, dict[str, PaperNumbers]] = {"finance": {}, "medicine": {}, "maths": {}}
    for line in text.strip().splitlines():
        condition, *cells = (cell.strip() for cell in line.split("|"))
        for domain, cell in zip(found, cells, strict=True):
            found[domain][condition] = PaperNumbers(*(round(float(x) / 100, 4) for x in cell.split("/")))
    return found


_LLAMA = _table(
    """
    from_aligned  |  0.7 /  1.0 / 93.7 |  0.2 /  1.4 / 40.6 |  0.7 /  2.6 / 36.8
    none          | 38.4 / 48.2 / 92.9 | 31.6 / 21.4 / 42.7 | 36.8 / 42.2 / 39.0
    safety_sft    |  0.7 / 13.4 / 92.9 |  0.0 /  0.6 / 40.1 |  0.2 / 14.0 / 36.7
    self_reminder | 25.0 / 34.8 / 92.8 | 29.2 / 25.8 / 43.4 | 14.9 / 37.2 / 38.0
    goal_priority | 21.3 / 25.8 / 92.4 | 11.0 / 13.6 / 43.8 |  7.5 /  4.2 / 39.3
    inferaligner  |  0.0 /  0.2 / 92.9 |  0.0 /  0.0 / 42.7 |  0.0 /  0.0 / 39.0
    """
)


def _charts(
    before: tuple[float, ...], after: tuple[float, ...], name: str
) -> dict[str, dict[str, PaperNumbers]]:
    """Attack success by domain without and with InferAligner, in percent, as read off the paper's charts."""
    return {
        f"{name}-{domain}": {
            "none": PaperNumbers(round(b / 100, 4)),
            "inferaligner": PaperNumbers(round(a / 100, 4)),
        }
        for domain, b, a in zip(_LLAMA, before, after, strict=True)
    }


PAPER: Mapping[str, Mapping[str, PaperNumbers]] = {
    **_LLAMA,
    **_charts((28.0, 46.6, 44.4), (0.0, 0.0, 0.0), "llama2-13b"),
    **_charts((22.7, 39.7, 14.3), (1.5, 2.0, 1.8), "qwen-7b"),
    **_charts((75.3, 85.9, 81.0), (3.1, 2.0, 3.1), "internlm-7b"),
}
"""By model (finance, medicine and maths alone are LLaMA2-7B's) and by condition."""

SECONDS_PER_1000 = {
    "llava-1.5-7b": {"none": 90.0, "inferaligner": 94.0, "self_reminder": 99.0, "goal_priority": 107.0},
    "llava-1.5-13b": {"none": 136.0, "inferaligner": 141.0, "self_reminder": 154.0, "goal_priority": 171.0},
}
"""Seconds per 1,000 generated tokens, which the paper tells of LLaVA-1.5."""


PICTURED: Mapping[str, Mapping[str, PaperNumbers]] = {
    name: {"none": PaperNumbers(before), "inferaligner": PaperNumbers(0.0)}
    for name, before in (("llava-1.5-7b", 0.68), ("llava-1.5-13b", 0.42))
}
"""Attack success on MM-Harmful Bench, of 100."""


def paper_number(model: str | None, condition: str, metric: str) -> float | None:
    """The paper's number for a condition of a model, None where it has none; its InferAligner stands beside both."""
    if model is None:
        return None
    numbers = {**PAPER, **PICTURED}[model].get(
        "inferaligner" if condition == "inferaligner_paper" else condition
    )
    return None if numbers is None else numbers.of(metric)
