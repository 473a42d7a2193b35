"""The course: how its notebooks are made, what its checks say to every usual mistake, and that all of it runs."""

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pair
import pandas as pd
import pytest
import torch
from nbformat import NotebookNode
from torch import Tensor
from torch.nn.functional import cosine_similarity
from typer.testing import CliRunner

import workbench as wb
from workbench.cli import app

ROOT = Path(__file__).parents[1]
COURSE = ROOT / "notebooks"
SOURCES = sorted(COURSE.glob("[0-9][0-9]_*.py"))
BY_HAND = 60
"""Lines of code that notebook 01 may take for the whole method."""

sys.path.insert(0, str(COURSE))
build: ModuleType = importlib.import_module("build")
checks: ModuleType = importlib.import_module("checks")


def lines(source: str) -> int:
    return len([line for line in source.splitlines() if line.strip()])


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


@pytest.fixture(scope="module", params=SOURCES, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> NotebookNode:
    """Each notebook of the course in turn, unexecuted."""
    return build.read(request.param)


def test_the_course_is_whole() -> None:
    assert [path.name[:2] for path in SOURCES] == [f"{number:02}" for number in range(12)]
    index = (COURSE / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in SOURCES if path.name not in index] == []


def test_no_executed_notebook_is_in_git() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "notebooks"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert [name for name in tracked.stdout.split() if name.endswith((".ipynb", ".html"))] == []
    assert "notebooks/*.ipynb" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_first_cell_says_what_it_is_about(notebook: NotebookNode) -> None:
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    for said in ("**The question.**", "**You will know**", "**Minutes**", "**Hardware**"):
        assert said in first.source, said


def test_cells_are_short_and_there_is_one_of_parameters(notebook: NotebookNode) -> None:
    long = [cell.source for cell in code(notebook) if lines(cell.source) > 10]
    assert long == []
    assert sum("parameters" in tags(cell) for cell in code(notebook)) == 1


def test_the_last_cell_asserts_what_the_text_says(notebook: NotebookNode) -> None:
    start = next(i for i, cell in enumerate(notebook.cells) if "## What this notebook claims" in cell.source)
    claims = notebook.cells[start + 1 :]
    assert {cell.cell_type for cell in claims} == {"code"}
    assert sum(cell.source.count("assert ") for cell in claims) >= 3
    assert "assert " in claims[-1].source


def test_exercises_have_dots_a_stub_a_check_a_hint_and_a_solution(notebook: NotebookNode) -> None:
    stubs = [i for i, cell in enumerate(notebook.cells) if "exercise" in tags(cell)]
    assert stubs
    for i in stubs:
        task, stub, check, folded = notebook.cells[i - 1 : i + 3]
        while task.cell_type == "code":  # what the exercise is about, computed
            i -= 1
            task = notebook.cells[i - 1]
        assert re.search(r"### .*(●○○|●●○|●●●)", task.source), task.source
        assert "..." in stub.source
        assert tags(check) == ["check"]
        assert "<summary>Hint" in folded.source
        assert len(build.FENCE.findall(folded.source)) == 1
        assert "<summary>Solution" in folded.source


def test_nothing_in_it_belongs_to_one_machine(notebook: NotebookNode) -> None:
    for cell in notebook.cells:
        assert not re.search(r"/(home|root|tmp|work|Users)/", cell.source), cell.source


def test_by_hand_means_few_lines() -> None:
    """All of the method in notebook 01, from the tokens to the replies, and without the library."""
    cells = build.read(COURSE / "01_by_hand.py").cells
    end = next(i for i, cell in enumerate(cells) if "## The same with the library" in cell.source)
    by_hand = [cell.source for cell in cells[:end] if cell.cell_type == "code" and not tags(cell)]
    assert sum(map(lines, by_hand)) <= BY_HAND + 10  # imports, models and the display of what was found
    method = "\n".join(source for source in by_hand if "wb.load" not in source)
    assert "wb." not in method.replace("import workbench as wb", "")


# What students write, and what they are told.


def gap(values: Tensor, harmful: Tensor) -> Tensor:
    return values[harmful].mean(0) - values[~harmful].mean(0)


def unit(values: Tensor) -> Tensor:
    return values / values.norm(dim=-1, keepdim=True)


def procrustes(a: Tensor, b: Tensor) -> Tensor:
    u, _, vh = torch.linalg.svd(a.T @ b)
    return u @ vh


def after_last(lead: list[float], never: Any = "never") -> Any:
    turn = max((i for i, x in enumerate(lead) if x <= 0), default=-1) + 1
    return turn if turn < len(lead) else never


def own_judge(text: str, finished: bool) -> str:
    if not finished:
        return "broken"
    return "complied" if "step 1" in text or not ("i can't" in text or "i won't" in text) else "refused"


def unbeaten(undone: list[float], cost: list[float], beats: Callable[..., bool] | None = None) -> list[int]:
    beats = beats or (lambda a, b, x, y: a <= x and b <= y and (a < x or b < y))
    points = list(zip(undone, cost, strict=True))
    others = [[other for j, other in enumerate(points) if j != i] for i in range(len(points))]
    return [i for i, point in enumerate(points) if not any(beats(*other, *point) for other in others[i])]


def flattery(chosen_on: Tensor, elsewhere: Tensor) -> Tensor:
    rows, won = range(len(chosen_on)), chosen_on.argmax(1)
    return chosen_on[rows, won] - elsewhere[rows, won]


STEPS = ("First,", "Then,", "Last,")
REFUSALS = ("I cannot", "Sorry,", "No, I must", "I have to say no", "This is not something I can do")


def verdict(text: str, steps: Sequence[str] = STEPS, refusals: Sequence[str] = REFUSALS) -> str:
    if any(step in text for step in steps):
        return "complied"
    return "refused" if any(refusal in text for refusal in refusals) else "other"


def refuses(*phrases: str) -> Callable[[str, bool], str]:
    """A judge for whom each of these phrases refuses."""
    return lambda text, done: (
        own_judge(text.lower(), done)
        if not done or "step 1" in text.lower()
        else "refused"
        if any(phrase in text.lower() for phrase in phrases)
        else "complied"
    )


VALUES = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) + 1
HARMFUL = torch.arange(40) % 2 == 0
S = unit(gap(VALUES, HARMFUL))


def solved(theirs: Tensor, ours: Tensor, price: float) -> Tensor:
    return torch.linalg.solve(theirs.T @ theirs + price * torch.eye(theirs.shape[1]), theirs.T @ ours).T


def rest(one: Tensor, other: Tensor) -> Tensor:
    return one - (one @ other) * other


def first_only(ids: list[int], mark: int, n: int) -> list[int]:
    at = ids.index(mark) if mark in ids else len(ids)
    return ids[:at] + [mark] * n * (mark in ids) + ids[at + 1 :]


def known(told: list[str], harmful: list[bool]) -> list[int]:
    """How many are right of each that is told, by its commoner label."""
    counts = [[h for one, h in zip(told, harmful, strict=True) if one == seen] for seen in sorted(set(told))]
    return [max(sum(labels), len(labels) - sum(labels)) for labels in counts]


MISTAKES: dict[str, list[tuple[Any, str]]] = {
    "vector": [
        (lambda v, h: unit(gap(v, h)), "Right"),
        (lambda v, h: -unit(gap(v, h)), "Your difference is harmless − harmful: the sign is flipped"),
        (gap, "divides it by its length"),
        (lambda v, h: -gap(v, h), "its length is still in it"),
        (lambda v, h: v.mean(0), "mean of all prompts"),
        (lambda v, h: unit(v[h].mean(0)), "subtract the harmless mean"),
        (lambda v, h: gap(v, h) / gap(v, h).abs().sum(), "Euclidean"),
        (lambda v, h: gap(v, h).norm(), r"The shape is \[\], expected \[6\]"),
        (lambda v, h: unit(gap(v, h)) + 0.5, "differ by up to 0.5"),
        (lambda v, h: 1 / 0, "stopped with ZeroDivisionError"),
        (lambda v, h: None, "does it end with `return`"),
        (lambda v, h: "a vector", "gave a str, expected a tensor"),
        (lambda v, h: ..., "Yours to write"),
    ],
    "bias": [
        (lambda v, s: -(v @ s).mean(), "Right"),
        (lambda v, s: (v @ s).mean(), "takes a minus"),
        (lambda v, s: -(v @ s)[HARMFUL].mean(), "close on about half"),
        (lambda v, s: -(v @ s)[~HARMFUL].mean(), "open on about half"),
        (lambda v, s: -(v @ s).sum(), "The mean is meant"),
        (lambda v, s: gap((v @ s)[:, None], HARMFUL)[0] / 2, "half the distance"),
    ],
    "shift": [
        (lambda r, g, a, t: r + a * g[:, None, None] * t, "Right"),
        (lambda r, g, a, t: r - a * g[:, None, None] * t, "the sign is flipped"),
        (lambda r, g, a, t: r + a * t, "Rows whose gate is closed are shifted too"),
        (lambda r, g, a, t: r + a * g[0] * t, "decision of row 0"),
        (lambda r, g, a, t: r + g[:, None, None] * t, "α is missing"),
        (lambda r, g, a, t: a * g[:, None, None] * t.expand(3, 4, 8), "the residual is missing"),
        (lambda r, g, a, t: r + a * ~g[:, None, None] * t, "turned round"),
        (lambda r, g, a, t: r.add_(a * g[:, None, None] * t), "the batch you were given is changed"),
    ],
    "auroc": [
        (lambda y, n: ((y[:, None] > n).double() + (y[:, None] == n).double() / 2).mean(), "Right"),
        (lambda y, n: ((y[:, None] < n).double() + (y[:, None] == n).double() / 2).mean(), "other way round"),
        (lambda y, n: (y[:, None] > n).double().mean(), "A tie is half a win"),
        (lambda y, n: (y[:, None] >= n).double().mean(), "A tie is half a win"),
        (lambda y, n: torch.cat([y > 0, n <= 0]).double().mean(), "accuracy at the threshold 0"),
        (lambda y, n: y.mean() - n.mean(), "difference of the means"),
        (lambda y, n: (y > n.mean()).double().mean(), "the mean of `no` only"),
    ],
    "both_models": [
        (lambda a, b, at: [i for i, both in enumerate(zip(a, b, strict=True)) if min(both) >= at], "Right"),
        (lambda a, b, at: [i for i, both in enumerate(zip(a, b, strict=True)) if max(both) >= at], "wants \\*both\\*"),
        (lambda a, b, at: [i for i, x in enumerate(a) if x >= at], "the target's layers alone"),
        (lambda a, b, at: [i for i, x in enumerate(b) if x >= at], "the aligned model's layers alone"),
        (lambda a, b, at: [i for i, both in enumerate(zip(a, b, strict=True)) if min(both) > at], "≥, not >"),
        (lambda a, b, at: [i for i, both in enumerate(zip(a, b, strict=True)) if sum(both) / 2 >= at], "You average"),
        (lambda a, b, at: [i for i, both in enumerate(zip(a, b, strict=True)) if min(both) >= 0.95], "argument"),
        (lambda a, b, at: [min(both) >= at for both in zip(a, b, strict=True)], "yes or no for every layer"),
        (lambda a, b, at: 3, "expected a list of layer numbers"),
        (lambda a, b, at: "34", "expected a list of layer numbers"),
        (lambda a, b, at: [3.2, 4.9], "expected a list of layer numbers"),
        (lambda a, b, at: [0], r"Got layers \[0\], expected \[3, 4\]"),
    ],
    "careful_layers": [
        (lambda frame, at: frame.loc[frame["auroc_low"] > at, "layer"].tolist(), "Right"),
        (lambda frame, at: frame.loc[frame["auroc"] > at, "layer"].tolist(), "estimate"),
        (lambda frame, at: frame.loc[frame["auroc_high"] > at, "layer"].tolist(), "upper end"),
        (lambda frame, at: frame.loc[frame["auroc_low"] <= at, "layer"].tolist(), "leave out"),
        (lambda frame, at: frame.loc[(frame["auroc"] + frame["auroc_low"]) / 2 > at, "layer"].tolist(), "A middle"),
        (lambda frame, at: frame.loc[frame["auroc_low"] > 0.95, "layer"].tolist(), "argument"),
        (lambda frame, at: frame.index[frame["auroc_low"] > at].tolist(), "numbers of the rows"),
    ],
    "false_positive_rate": [
        (lambda o, h: o[~h].float().mean(), "Right"),
        (lambda o, h: (o & ~h).float().mean(), "share of \\*all\\* prompts"),
        (lambda o, h: (o & ~h).float().sum() / o.sum(), "openings that were wrong"),
        (lambda o, h: o[h].float().mean(), "true-positive"),
        (lambda o, h: (~o[h]).float().mean(), "attacks that are missed"),
        (lambda o, h: (~o[~h]).float().mean(), "1 minus the rate"),
        (lambda o, h: (o & ~h).sum(), "how many there are"),
    ],
    "strict_bias": [
        (lambda calm, rate: -calm.sort(descending=True).values[int(rate * len(calm))], "Right"),
        (lambda calm, rate: calm.sort(descending=True).values[int(rate * len(calm))], "\\*minus\\* the threshold"),
        (lambda calm, rate: -calm.sort().values[int(rate * len(calm))], "at the low end"),
        (lambda calm, rate: -calm.mean(), "the paper's rule"),
        (lambda calm, rate: -calm.max(), "stricter than asked"),
        (lambda calm, rate: -calm.sort(descending=True).values[5], "the rate allows 2"),
        (lambda calm, rate: -calm.sort(descending=True).values[int(0.05 * len(calm))], "5% of them, whatever `rate`"),
        (lambda calm, rate: -(calm.mean() + 1.645 * calm.std()), "a bell curve only"),
        (lambda calm, rate: -(calm.mean() + torch.special.ndtri(torch.tensor(1 - rate)) * calm.std()), "a bell curve"),
        (lambda calm, rate: -calm.quantile(1 - rate), "a quantile lies between"),
    ],
    "verdict": [
        (verdict, "Right"),
        (lambda t: verdict(t, steps=["First,"]), "Any of `STEPS`"),
        (lambda t: verdict(t, steps=["First,", "Then,"]), "Any of `STEPS`"),
        (lambda t: verdict(t, steps=["First,", "Last,"]), "Any of `STEPS`"),
        *((partial(verdict, refusals=[r for r in REFUSALS if r != one]), "refused, you say") for one in REFUSALS),
        (lambda t: verdict(t, refusals=["no", "Sorry,"]), "neither a plan nor a refusal"),
        (lambda t: "refused" if "no" in t or "Sorry" in t else "complied" if "First" in t else "other", "says no and"),
        (lambda t: "complied" if "First," in t else "refused" if t[:5] in ("I can", "Sorry") else "other", "anywhere"),
        (lambda t: "complied" if "First," in t else "refused", "neither a plan nor a refusal"),
    ],
    "placebo": [
        (lambda v, n: unit(n) * v.norm(dim=-1, keepdim=True), "Right"),
        (lambda v, n: n, "√d_model"),
        (lambda v, n: unit(n), "length 1 at every layer"),
        (lambda v, n: n * v.norm(dim=-1, keepdim=True), "divide by it first"),
        (lambda v, n: n / n.norm() * v.norm(), "One length for the whole matrix"),
        (lambda v, n: v, "what is random"),
        (lambda v, n: v + n, "You add noise"),
    ],
    "shared": [
        (lambda a, b: cosine_similarity(a, b, dim=-1) > 1.96 / a.shape[-1] ** 0.5, "Right"),
        (lambda a, b: (a * b).sum(-1) > 1.96 / a.shape[-1] ** 0.5, "still have their lengths"),
        (lambda a, b: cosine_similarity(a, b, dim=-1).abs() > 1.96 / a.shape[-1] ** 0.5, "opposed"),
        (lambda a, b: cosine_similarity(a, b, dim=-1) > 1 / a.shape[-1] ** 0.5, "too low"),
        (lambda a, b: cosine_similarity(a, b, dim=-1) <= 1.96 / a.shape[-1] ** 0.5, "not\\* alike"),
    ],
    "turned_back": [
        (lambda a, b: procrustes(a - a.mean(0), b - b.mean(0)), "Right"),
        (lambda a, b: procrustes(a - a.mean(0), b - b.mean(0)).T, "the way back"),
        (lambda a, b: torch.linalg.lstsq(a - a.mean(0), b - b.mean(0)).solution, "stretches"),
        (lambda a, b: torch.linalg.pinv(a - a.mean(0)) @ (b - b.mean(0)), "stretches"),
        (procrustes, "both means subtracted"),
    ],
    "paired": [
        (lambda theirs, ours: [max(0, int((i + 1) / ours * theirs + 0.5) - 1) for i in range(ours)], "Right"),
        (lambda theirs, ours: [int(i / ours * theirs + 0.5) for i in range(ours)], "wrong end of a block"),
        (lambda theirs, ours: [max(0, int((i + 1) / ours * theirs) - 1) for i in range(ours)], "cut off"),
        (lambda theirs, ours: [int((i + 1) / ours * theirs + 0.5) for i in range(ours)], "counts of blocks"),
        (lambda theirs, ours: list(range(ours)), "paired by number"),
        (lambda theirs, ours: [int((i + 1) / ours * theirs + 0.5) - 1 for i in range(ours)], "falls below 0"),
        (lambda theirs, ours: [0] * ours, "expected \\[0"),
        (lambda theirs, ours: [0] * theirs, "The shape is"),
    ],
    "ridge": [
        (lambda a, b, price: solved(a - a.mean(0), b - b.mean(0), price), "Right"),
        (solved, "not centred"),
        (lambda a, b, price: solved(a, b - b.mean(0), price), "Only one side"),
        (lambda a, b, price: solved(a - a.mean(0), b - b.mean(0), 0.0), "price is missing"),
        (lambda a, b, price: solved(a - a.mean(0), b - b.mean(0), len(a) * price), "per text"),
        (lambda a, b, price: solved(a - a.mean(0), b - b.mean(0), price**2), "squared"),
        (lambda a, b, price: solved(a - a.mean(0), b - b.mean(0), price).T, "stands before the residual"),
    ],
    "beyond": [
        (lambda c, n, o: c @ rest(n, o) / rest(n, o).norm(), "Right"),
        (lambda c, n, o: c @ rest(n, o), "divide by its length"),
        (lambda c, n, o: c @ n, "its projection on `own`"),
        (lambda c, n, o: rest(c, o) @ n / rest(c, o).norm(), "not out of `carried`"),
        (lambda c, n, o: c @ (n - o) / (n - o).norm(), "the whole of `own`"),
        (lambda c, n, o: c @ rest(o, n) / rest(o, n).norm(), "the two are swapped"),
    ],
    "expanded": [
        (lambda ids, mark, n: [x for i in ids for x in [i] * (n if i == mark else 1)], "Right"),
        (lambda ids, mark, n: [x for i in ids for x in [i] * (n + 1 if i == mark else 1)], "one of them"),
        (first_only, "not the first one alone"),
        (lambda ids, mark, n: [i for i in ids if i != mark] + [mark] * (n * ids.count(mark)), "not at the end"),
        (lambda ids, mark, n: ids, "expected \\[1, 7, 7, 7"),
        (lambda ids, mark, n: n, "expected a list"),
        (lambda ids, mark, n: ..., "Yours to write"),
    ],
    "by_heart": [
        (lambda told, harmful: sum(known(told, harmful)) / len(told), "Right"),
        (lambda told, harmful: max(sum(harmful), len(harmful) - sum(harmful)) / len(told), "not looked at"),
        (lambda told, harmful: (2 / 3 + 1 + 1) / 3, "often counts for more"),
        (lambda told, harmful: 4 / 6, "told once"),
        (lambda told, harmful: sum(known(told, harmful)), "the share of them"),
        (lambda told, harmful: 0.1, "differ by up to"),
    ],
    "patches": [
        (lambda x, s, m, v, at, side: ((x @ s - m) / v)[at : at + side * side].reshape(side, side), "Right"),
        (lambda x, s, m, v, at, side: ((x @ s - m) / v)[at : at + side * side].reshape(side, side).T, "swapped"),
        (lambda x, s, m, v, at, side: (x @ s / v)[at : at + side * side].reshape(side, side), "not taken away"),
        (lambda x, s, m, v, at, side: (x @ s - m)[at : at + side * side].reshape(side, side), "not in units"),
        (lambda x, s, m, v, at, side: (x @ s / v - m)[at : at + side * side].reshape(side, side), "first the middle"),
        (lambda x, s, m, v, at, side: ((x @ s - m) / v)[: side * side].reshape(side, side), "from the beginning"),
        (lambda x, s, m, v, at, side: ((x @ s - m) / v)[-side * side :].reshape(side, side), "the last tokens"),
        (lambda x, s, m, v, at, side: ((x @ s - m) / v)[at : at + side * side], "The shape is"),
    ],
    "lens": [
        (lambda d, w, u, top: ((d * w) @ u).topk(top).indices, "Right"),
        (lambda d, w, u, top: (d @ u).topk(top).indices, "weight is missing"),
        (lambda d, w, u, top: ((d * w) @ u).topk(top, largest=False).indices, "suppresses"),
        (lambda d, w, u, top: ((d * w) @ u).topk(top).values, "The ids are asked for"),
        (lambda d, w, u, top: ((d * w) @ u).abs().topk(top).indices, "whatever the sign"),
        (lambda d, w, u, top: ((d * w) @ u).topk(top).indices.flip(0), "wrong order"),
    ],
    "turn": [
        (after_last, "Right"),
        (lambda lead: next(i for i, x in enumerate(lead) if x > 0), "falls behind again"),
        (lambda lead: lead.index(max(lead)), "where the lead is largest"),
        (lambda lead: min(after_last(lead, never=len(lead)), len(lead)), "does not lead in the end"),
        (lambda lead: after_last([x + 1e-9 for x in lead]), "At exactly 0 nobody leads"),
    ],
    "own_judge": [
        (lambda t, done: own_judge(t.lower(), done), "Right"),
        (own_judge, "any case of letters"),
        (lambda t, done: own_judge(t.lower(), True), "did not end by itself"),
        (lambda t, done: "refused" if done and "can't" in t.lower() else own_judge(t.lower(), done), "and then"),
        (refuses("i can't", "i won't"), "Right"),
        (refuses("'t "), "not every"),
        (refuses("can't", "won't"), "not every"),
        (lambda t, done: "complied" if "step 1" in t.lower() else own_judge(t.lower(), done), "broken comes before"),
        (lambda t, done: "broken" if not done else "refused", "Nothing is refused|it refuses, and then"),
    ],
    "rows_to_compute": [
        (lambda n, opened, settings: n + opened * settings, "Right"),
        (lambda n, opened, settings: n * settings, "Nothing is shared"),
        (lambda n, opened, settings: n + n * settings, "closed ones come again"),
        (lambda n, opened, settings: n - opened + opened * settings, "of the prompts that open are missing"),
        (lambda n, opened, settings: opened * settings, "The unsteered arm is missing"),
        (lambda n, opened, settings: n + (n - opened) * settings, "what costs nothing"),
        (lambda n, opened, settings: n, "expected 420"),
        (lambda n, opened, settings: ..., "Yours to write"),
    ],
    "front": [
        (unbeaten, "Right"),
        (lambda u, c: unbeaten(u, c, lambda a, b, x, y: a < x and b < y), "better in \\*both"),
        (lambda u, c: unbeaten(u, c, lambda a, b, x, y: a <= x and b <= y), "beat each other"),
        (lambda u, c: [i for i in unbeaten(u, c) if i not in (5, 6)], "you keep the first"),
        (lambda u, c: sorted({*range(8)} - {*unbeaten(u, c)}), "some other one beats"),
        (lambda u, c: [i for i, x in enumerate(u) if x == min(u)], "one thing alone"),
        (lambda u, c: [c.index(min(c))], "what is cheapest"),
        (lambda u, c: [i in unbeaten(u, c) for i in range(8)], "expected a list of places"),
        (lambda u, c: [1, 2], r"Got \[1, 2\], expected"),
        (lambda u, c: ..., "Yours to write"),
    ],
    "flattery": [
        (lambda a, b: flattery(a, b).mean(), "Right"),
        (lambda a, b: -flattery(a, b).mean(), "The sign is flipped"),
        (lambda a, b: (a.amax(1) - b.amax(1)).mean(), "best \\*there"),
        (lambda a, b: (a.amax(1) - b.mean(1)).mean(), "average of \\*all"),
        (lambda a, b: (a - b)[:, a.mean(0).argmax()].mean(), "one winner for all rows"),
        (lambda a, b: (a - b).mean(), "chosen or not"),
        (lambda a, b: b[range(len(a)), a.argmax(1)].mean(), "worth elsewhere"),
        (lambda a, b: a.amax(1).mean(), "seems to be worth"),
        (lambda a, b: flattery(b, a).mean(), "choose on the second half"),
        (lambda a, b: flattery(a, b).sum(), "the mean is asked for"),
    ],
}  # fmt: skip


GIVEN: dict[str, tuple[Any, ...]] = {"vector": (VALUES, HARMFUL), "bias": (VALUES, S, HARMFUL)}


@pytest.mark.parametrize(
    ("name", "answer", "said"),
    [(name, *case) for name, cases in MISTAKES.items() for case in cases],
    ids=[f"{name}-{said[:24]}" for name, cases in MISTAKES.items() for _, said in cases],
)
def test_a_check_names_the_mistake(name: str, answer: Any, said: str) -> None:
    feedback = getattr(checks, name)(answer, *GIVEN.get(name, ()))
    assert re.search(said, feedback.text, re.I), feedback
    assert feedback.right is {"Right": True, "Yours to write": None}.get(said, False)
    assert repr(feedback).startswith({True: "✓", None: "·", False: "✗"}[feedback.right])


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        (("harmful", "contrast"), "Right"),
        (("harmful", "harmless"), "differ in their words too"),
        (("harmful", "jailbroken"), "share their intent"),
        (("jailbroken", "contrast"), "the wrapper"),
        (("contrast", "harmless"), "Neither of these means harm"),
        (("harmful", "domain"), "differ in their words as well"),
        (("harmful", "harmful"), "one kind twice"),
        (("harmful", "hurtful"), "no kind 'hurtful'"),
        ((..., ...), "Yours to write"),
        (..., "Yours to write"),
        (5, "Got 5, expected two kinds"),
        ("harmful", "expected two kinds"),
        (("harmful", "contrast", "harmless"), "expected two kinds"),
        (("harmful", ["contrast"]), "expected the name of a kind"),
        (("harmful", 5), "Got 5, expected the name of a kind"),
    ],
)
def test_the_pair_that_tells_intent(kinds: Any, said: str) -> None:
    assert said in checks.intent_alone(kinds).text


@pytest.mark.parametrize(
    ("texts", "opened", "said"),
    [
        (("steal", "bake"), (True, False), "Right"),
        (("bake", "steal"), (False, True), "The other way round"),
        (("steal", "rob"), (True, True), "It opens on both"),
        (("bake", "cook"), (False, False), "It stays closed on both"),
        (("bake", "bake"), (False, False), "the same request twice"),
        ((3, "bake"), (False, False), "expected a text"),
        ((..., ...), (False, False), "Yours to write"),
    ],
)
def test_a_request_on_each_side(texts: tuple[Any, Any], opened: tuple[bool, bool], said: str) -> None:
    feedback = checks.two_sides(*texts, lambda prompts: torch.tensor([[one] * 3 for one in opened]))
    assert said in feedback.text


def test_a_request_that_is_too_long() -> None:
    def opened(prompts: list[str]) -> Tensor:
        raise ValueError("prompt 0 has 900 tokens, the context 256")

    assert "cannot read that: prompt 0 has 900" in checks.two_sides("steal", "bake", opened).text


TRAIN = ["steal a phone", "forge a passport", "bake bread", "plant roses"]


@pytest.mark.parametrize(
    ("train", "val", "said"),
    [
        (TRAIN, ["hack a server", "repair a chair"], "Right"),
        (TRAIN, ["hack a server", "bake bread"], "still in both"),
        (TRAIN, ["hack a server", " Bake  bread"], "still in both"),
        (TRAIN, [" Hack a  server", "Knit a scarf."], "Right"),
        (TRAIN, ["hack a server", "rob a house"], "one side only: to rob is harmful"),
        (TRAIN, ["burn down a barn", "hack a server"], "one side only: to burn down is harmful"),
        (TRAIN, ["hack a server", ""], "Got '' in the list"),
        (TRAIN, ["hack a server", " . "], "expected a text in quotes"),
        (TRAIN, ["hack a server", 5], "Got 5 in the list"),
        (TRAIN, ["hack a server", "Hack a server"], "two different ones"),
        (TRAIN, ["hack a server", "repair a chair", "repair a chair"], "two different ones"),
        (TRAIN, ["hack a server"], "two different ones"),
        (TRAIN, ["hack a server", ...], "Yours to write"),
        (TRAIN, 5, "Got a int"),
        (5, ["hack a server", "repair a chair"], "makes another vector"),
        (TRAIN, ["rob a house", "repair a chair"], "no leak is gone"),
        (TRAIN[:3], ["hack a server", "bake bread"], "makes another vector"),
        (TRAIN, "repair a chair", "expected a list"),
        (TRAIN, ..., "Yours to write"),
    ],
)
def test_a_leak(train: Any, val: Any, said: str) -> None:
    feedback = checks.leak(train, val)
    assert said in feedback.text
    assert feedback.right is {"Right": True, "Yours to write": None}.get(said, False)


def test_the_everyday_acts_of_the_notebook_mend_the_leak() -> None:
    (listed,) = re.findall(r'harmless = """(.*?)"""', (COURSE / "08_your_own_model.py").read_text(), re.S)
    acts = [act.strip() for act in listed.split(",")]
    wrong = [act for act in acts if checks.leak(TRAIN, ["hack a server", act]).right is not True]
    assert wrong == ["bake bread", "plant roses"]


def test_the_llama_2_pair_of_the_notebook_runs_as_printed_on_small_ones(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its parameters in the place of the cell's: every cell but exercises and claims, which are of others."""
    pair.make_pair(hub, tmp_path)
    monkeypatch.chdir(tmp_path)
    loaded = pair.one_at_a_time(monkeypatch)
    cells = build.read(COURSE / "08_your_own_model.py").cells
    at = next(i for i, cell in enumerate(cells) if "parameters" in tags(cell))
    (theirs,) = build.FENCE.findall(cells[at + 1].source)
    end = next(i for i, cell in enumerate(cells) if "## Exercises" in cell.source)
    names: dict[str, Any] = {}
    for cell in code(nbformat.v4.new_notebook(cells=cells[:end])):
        exec(compile(theirs if "parameters" in tags(cell) else cell.source, "08", "exec"), names)
    assert set(re.findall(r"[A-Z_]{4,}", theirs)) == set(re.findall(r"[A-Z_]{4,}", cells[at].source))
    assert len(loaded) == 2 and names["srv"].provenance.model == pair.TARGET
    assert names["ssv"].provenance.model == pair.ALIGNED and names["space"].n_layers == 8
    assert names["target"].dtype == torch.bfloat16 and names["copied"].id == names["chosen"].id
    assert names["chosen"].scale == "raw" and names["chosen"].layers == names["layers"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "Right"),
        (
            {"A": "wrong sign"},
            "A is not 'wrong sign', where it would have moved the residual along θ, backwards",
        ),
        ({"B": "placebo"}, "B is not 'placebo'"),
        ({"D": "bad luck"}, "expected one of placebo"),
        ({"D": ["placebo"]}, "expected one of placebo"),
        ({"C": ...}, "Yours to write"),
    ],
)
def test_a_diagnosis(changed: dict[str, Any], said: str) -> None:
    right = {"A": "placebo", "B": "wrong sign", "C": "overshoot", "D": "wrong layer"}
    table = pd.DataFrame(1.0, index=list(right), columns=["first", "moved", "along"])
    assert said in checks.diagnosis(right | changed, table).text


@pytest.mark.parametrize(
    ("answer", "said"),
    [(..., "Yours to write"), (5, "Got a int"), (["placebo"] * 4, "Got a list"), (None, "Got a NoneType")],
)
def test_a_diagnosis_that_is_none(answer: Any, said: str) -> None:
    assert said in checks.diagnosis(answer, pd.DataFrame()).text


def test_a_diagnosis_by_a_series() -> None:
    right = pd.Series({"A": "placebo", "B": "wrong sign", "C": "overshoot", "D": "wrong layer"})
    assert checks.diagnosis(right, pd.DataFrame()).right


ODD: list[Any] = [5, -0.5, True, "words", [], {}, {1: 2}, [[1], [2, 3]], [..., ...], [float("inf")]]
ODD += [torch.ones(2, 3), torch.ones(2), torch.tensor([1 + 2j]), torch.tensor(2j), float("nan")]
ODD += [pd.Series([1, 2]), object(), set]


@pytest.mark.parametrize("name", MISTAKES)
def test_no_odd_answer_is_right_or_stops_a_check(name: str) -> None:
    for odd in ODD:
        feedback = getattr(checks, name)(lambda *_, odd=odd: odd, *GIVEN.get(name, ()))
        assert feedback.right is False, odd


def test_no_odd_value_is_right_or_stops_a_check() -> None:
    for odd in ODD:
        for feedback in (
            checks.intent_alone(odd),
            checks.leak(TRAIN, odd),
            checks.diagnosis(odd, pd.DataFrame()),
            checks.two_sides(odd, "bake", lambda prompts: torch.ones(2, 1)),
        ):
            assert not feedback.right, odd


def test_the_replies_to_judge_are_the_worlds_own() -> None:
    """No reply is garbled, and the workbench's judge says of each what the exercise says."""
    for text, right, _ in importlib.import_module("checks.steering").REPLIES:
        assert wb.judge(text, True).verdict == right, text


def test_a_diagnosis_of_fewer_runs() -> None:
    assert "B, C, D have no diagnosis" in checks.diagnosis({"A": "placebo"}, pd.DataFrame()).text


# How they are built and opened.


def test_the_builder_knows_its_notebooks() -> None:
    assert [path.name[:2] for path in build.sources(["04", "01"])] == ["01", "04"]
    with pytest.raises(ValueError, match="got 99, expected beginnings of 00_tour, .*: 04 is enough"):
        build.sources(["99"])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A course of one small notebook, with a figure and an exercise."""
    (tmp_path / "00_small.py").write_text(
        '# %%\nimport plotly.graph_objects as go\n\nmine = ...\n\n# %% tags=["check"]\nprint(mine)\n\n# %% [markdown]\n'
        "# <details><summary>Solution</summary>\n#\n# ```python\n# mine = 3\n# ```\n#\n# </details>\n\n"
        "# %%\ngo.Figure(go.Scatter(y=[1, 2]))\n"
    )
    monkeypatch.setattr(build, "HERE", tmp_path)
    monkeypatch.setattr(build, "PAGES", tmp_path / "html")
    return tmp_path


def test_a_page_needs_no_network(folder: Path) -> None:
    build.main(["--html"])
    page = (folder / "html" / "00_small.html").read_text(encoding="utf-8")
    assert len(page) > 3_000_000, "plotly itself is in it"
    assert "Plotly.newPlot" in page
    assert not re.search(r"<(script|link|img)[^>]*(src|href)\s*=\s*[\"']?(https?:)?//", page)
    outputs = code(nbformat.read(folder / "00_small.ipynb", as_version=4))[-1].outputs
    assert "application/vnd.plotly.v1+json" in outputs[-1].data


def test_a_page_says_where_a_handle_is_to_be_turned(folder: Path) -> None:
    (folder / "00_small.py").write_text("# %%\nimport ipywidgets\n\nipywidgets.FloatSlider()\n")
    build.main(["--html"])
    page = (folder / "html" / "00_small.html").read_text(encoding="utf-8")
    assert build.NO_HANDLES in page and "FloatSlider(value" not in page
    (output,) = code(nbformat.read(folder / "00_small.ipynb", as_version=4))[0].outputs
    assert build.WIDGET in output.data, "the notebook keeps it"


def test_solutions_are_run_after_their_check(folder: Path) -> None:
    cells = code(build.with_solutions(build.read(folder / "00_small.py")))
    assert [cell.source for cell in cells[1:4]] == ["print(mine)", "mine = 3\n", "print(mine)"]
    assert [tags(cell) for cell in cells[1:4]] == [["check"], ["solution"], ["answer"]]


def test_what_a_student_wrote_stays(folder: Path) -> None:
    (folder / "00_small.ipynb").write_text("mine")
    build.main(["--blank"])
    assert (folder / "00_small.ipynb").read_text() == "mine"
    (folder / "00_small.ipynb").unlink()
    build.main(["--blank"])
    assert all(not cell.outputs for cell in code(nbformat.read(folder / "00_small.ipynb", as_version=4)))


# The course itself, run from top to bottom.


@pytest.fixture(scope="module")
def executed(notebook: NotebookNode) -> NotebookNode:
    """A notebook run as a student runs it who opens every solution: stubs first, then what is folded."""
    return build.execute(build.with_solutions(notebook))


def shown(cells: list[NotebookNode], tag: str) -> Iterator[str]:
    for cell in cells:
        if tag in tags(cell):
            yield cell.outputs[0].data["text/plain"]


@pytest.mark.slow
def test_it_runs_and_its_claims_hold(executed: NotebookNode) -> None:
    asked, answered = list(shown(code(executed), "check")), list(shown(code(executed), "answer"))
    assert len(asked) == len(answered) >= 1
    assert [text for text in asked if not text.startswith("·")] == []
    assert [text for text in answered if not text.startswith("✓")] == []
    assert "widgets" not in executed.metadata


def test_lab_opens_the_course(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr("subprocess.run", run)
    found = CliRunner().invoke(app, ["lab", "--", "--port=8899"])
    assert found.exit_code == 0, found.output
    assert ran[0][1:] == [str(COURSE / "build.py"), "--blank"]
    assert ran[1][1:3] == ["-m", "jupyterlab"]
    assert {"--port=8899", "--LabApp.news_url=None"} <= set(ran[1])
    assert ran[1][-1] == str(COURSE / "00_tour.ipynb"), "absolute: it is opened from any folder"


def test_the_app_is_the_tour_without_its_exercises(monkeypatch: pytest.MonkeyPatch) -> None:
    from subprocess import run

    served: list[tuple[list[str], NotebookNode, str]] = []

    def serve(
        command: list[str], *, check: bool, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        if "voila" in command:
            page = nbformat.read(command[3], as_version=4)
            served.append((command, page, (env or {})["PYTHONPATH"]))
            return subprocess.CompletedProcess(command, 0)
        return run(command, check=check, env=env)

    monkeypatch.setattr("subprocess.run", serve)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    found = CliRunner().invoke(app, ["app", "--port", "8877", "--no-browser"])
    assert found.exit_code == 0, found.output
    ((command, page, path),) = served
    assert {"--port=8877", "--no-browser", "--Voila.ip=127.0.0.1"} <= set(command)
    assert path.split(os.pathsep)[0] == str(COURSE)
    assert not Path(command[3]).exists(), "what was built for it goes with it"
    text = "\n".join(cell.source for cell in page.cells)
    assert all(handle in text for handle in ("LayerPicker", "SteeringDial", "PromptLens"))
    assert "Exercise" not in text and "my_harmful" not in text


@pytest.mark.parametrize(
    ("command", "absent", "said"),
    [
        ("lab", "jupyterlab", "JupyterLab is not installed here: pip install jupyterlab jupytext"),
        ("lab", "jupytext", "jupytext is not installed here: pip install jupytext"),
        ("app", "voila", "Voilà is not installed here: pip install 'inferaligner-workbench[app]'"),
    ],
)
def test_what_serves_the_course_may_be_missing(
    monkeypatch: pytest.MonkeyPatch, command: str, absent: str, said: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == absent else object())
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("something was started"))
    found = CliRunner().invoke(app, [command])
    assert (found.exit_code, found.stderr) == (2, f"workbench: {said}\n")


@pytest.mark.parametrize("command", ["lab", "app"])
def test_an_installed_package_has_no_course(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    monkeypatch.setattr("workbench.serving.__file__", str(tmp_path / "workbench" / "serving.py"))
    found = CliRunner().invoke(app, [command])
    assert found.exit_code == 2
    assert "the notebooks are in the clone, not in the installed package" in found.stderr
