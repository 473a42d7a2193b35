"""Checks of 09: what has to be computed, a front, and what choosing flatters."""

from typing import Any

import torch

from checks.feedback import Answer, Feedback, ask, compare, correct, mistaken, same, tensor


def rows_to_compute(answer: Answer) -> Feedback:
    """09: the unsteered prompts once, and the opened ones at every setting."""
    for n, opened, settings in ((100, 40, 8), (7, 7, 3), (50, 0, 20)):
        mine = ask(answer, n, opened, settings)
        if isinstance(mine, Feedback):
            return mine
        if same(mine, n + opened * settings):
            continue
        asked = f"of {n} prompts, {opened} opened, {settings} settings"
        mistakes = {
            "Nothing is shared with you: a closed prompt is the unsteered one at every setting.": n * settings,
            "You ask every prompt at every setting, and once unsteered: closed ones come again and again.":
                n + n * settings,
            "The unsteered answers of the prompts that open are missing: the unsteered arm is always in.":
                n - opened + opened * settings,
            "The unsteered arm is missing: closed prompts take their answers from it.": opened * settings,
            "These are the prompts that stay closed at every setting: they are what costs nothing.":
                n + (n - opened) * settings,
        }  # fmt: skip
        for text, wrong in mistakes.items():
            if same(mine, wrong):
                return mistaken(f"Got {mine} {asked}. {text}")
        return mistaken(f"Got {mine!r} {asked}, expected {n + opened * settings}.")
    return correct("What no shift reaches is computed once, however many settings ask for it.")


def front(answer: Answer) -> Feedback:
    """09: the settings that no other beats, ties among them."""
    undone = [0.9, 0.4, 0.4, 0.1, 0.6, 0.1, 0.4, 0.2]
    cost = [0.0, 0.1, 0.3, 0.5, 0.2, 0.5, 0.1, 0.4]
    points = list(zip(undone, cost, strict=True))

    def unbeaten(strict: bool) -> list[int]:
        """Unbeaten where to beat means better in both, or no worse in both, itself left out."""
        beats = (lambda a, b, x, y: a < x and b < y) if strict else (lambda a, b, x, y: a <= x and b <= y)
        return [
            i
            for i, (x, y) in enumerate(points)
            if not any(beats(a, b, x, y) for j, (a, b) in enumerate(points) if j != i)
        ]

    right = [0, 1, 3, 5, 6, 7]
    mistakes = {
        "To beat, one need not be better in *both*: setting 2 undoes no more than setting 1 and costs more.":
            unbeaten(strict=True),
        "Settings that do equally well beat each other with you, and both are gone: ask for better in *one*.":
            unbeaten(strict=False),
        "Of settings that do equally well you keep the first. Neither beats the other: both stay.": [0, 1, 3, 7],
        "These are the settings that some other one beats.": [2, 4],
        "You take what is smallest in one thing alone: a front also has what lies between.": [3, 5],
        "You take what is cheapest: it leaves nearly everything undone.": [0],
    }  # fmt: skip
    mine = ask(answer, list(undone), list(cost))
    if isinstance(mine, Feedback):
        return mine
    found = _places(mine)
    if found is None:
        return mistaken(f"Your function gave {mine!r}, expected a list of places such as [0, 2].")
    if found == right:
        return correct("Nobody on it can be bettered without giving something up.")
    for text, wrong in mistakes.items():
        if found == wrong:
            return mistaken(text)
    return mistaken(f"Got {found}, expected {right}.")


def flattery(answer: Answer) -> Feedback:
    """09: how much better the winner looks where it was chosen than it is elsewhere."""
    draw = torch.Generator().manual_seed(0)
    chosen_on, elsewhere = (torch.rand(60, 5, generator=draw, dtype=torch.float64) for _ in range(2))
    rows, won = torch.arange(60), chosen_on.argmax(1)
    best = chosen_on.amax(1)
    mistakes = {
        "You compare the best here with the best *there*: the winner is one setting, in both halves.":
            (best - elsewhere.amax(1)).mean(),
        "The sign is flipped: flattered means that it looks better where it was chosen.":
            (elsewhere[rows, won] - best).mean(),
        "You compare the winner with the average of *all* settings elsewhere: its own value is asked for.":
            (best - elsewhere.mean(1)).mean(),
        "You choose one winner for all rows: in each row another half decides.":
            (chosen_on - elsewhere).mean(0)[chosen_on.mean(0).argmax()],
        "These are all settings, chosen or not: nobody was picked.": (chosen_on - elsewhere).mean(),
        "That is what the winner is worth elsewhere: how much *less* is it than where it was chosen?":
            elsewhere[rows, won].mean(),
        "That is what the winner seems to be worth: how much of it is left elsewhere?": best.mean(),
        "You choose on the second half and look at the first: it was the other way round.":
            (elsewhere.amax(1) - chosen_on[rows, elsewhere.argmax(1)]).mean(),
        "That is the sum over all ways to halve: the mean is asked for.": (best - elsewhere[rows, won]).sum(),
    }  # fmt: skip
    mine = tensor(ask(answer, chosen_on.clone(), elsewhere.clone()), (), "one number")
    return compare(
        mine,
        (best - elsewhere[rows, won]).mean(),
        mistakes,
        "So much of a winner is luck: nobody told it apart.",
    )


def _places(mine: Any) -> list[int] | None:
    """The answer as sorted places; None where it is no list of them."""
    if isinstance(mine, str):
        return None
    try:
        given = [place.item() if hasattr(place, "item") else place for place in mine]
        if any(isinstance(place, bool) for place in given):
            return None
        found = sorted(int(place) for place in given)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
    return found if found == sorted(given) else None
