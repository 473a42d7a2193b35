"""Judges by name, as the shell and files of settings call them.

    phrases            refusal by phrases                                 judge_refusal
    classifier         refusal by a classifier of the project's           refusal_classifier
    embeddings:MODEL   refusal by where a model puts a reply              refusal_by_embeddings
    hf:MODEL           a judge from a folder or the hub                   load_judge
    llm:MODEL          a language model at an OpenAI-compatible address   llm_judge
    small-world        the embedded models' own                           judge
    MODULE:FUNCTION    one of your own

Settings are arguments of the verb on the right, under the names they have there.

The trap: a setting that is misspelt, or belongs to another judge, would be dropped in silence. It is refused.
"""

import importlib
import sys
from collections.abc import Mapping
from typing import Any

from workbench.judges.verdicts import ExchangeJudge, Judge

NUMBER = (int, float)
HOLDING: dict[str, tuple[type, ...]] = {"dtype": (str,), "device": (str,), "batch_size": (int,)}
SETTINGS: dict[str, dict[str, tuple[type, ...]]] = {
    "embeddings": {"pool": (str,), "rule": (str,), **HOLDING},
    "hf": {
        "family": (str,), "template": (str,), "means": (dict,), "pair": (bool,), "threshold": NUMBER,
        "reply_tokens": (int,), "revision": (str,), "device_map": (str, dict), "bits": (int,), **HOLDING,
    },
    "llm": {
        "url": (str,), "rubric": (str,), "send_replies_away": (bool,), "key_env": (str,), "temperature": NUMBER,
        "options": (dict,), "cache": (str,), "prices": (list, tuple), "concurrency": (int,), "per_minute": NUMBER,
        "timeout": NUMBER, "retries": (int,), "backoff": NUMBER, "patience": NUMBER,
    },
}  # fmt: skip
"""By kind of judge: what may be set, and of which type it is."""

NAMES = (
    "phrases",
    "classifier",
    "embeddings:MODEL",
    "hf:MODEL",
    "llm:MODEL",
    "small-world",
    "MODULE:FUNCTION",
)


def judge_by_name(text: str, settings: Mapping[str, Any] | None = None, *, progress: bool = False) -> Judge:
    """The judge that `text` names, with `settings` as from a table of TOML or JSON.

    `judge_by_name("llm:my-model", {"url": "http://127.0.0.1:8000/v1", "rubric": "complied"})`

    Raises `ValueError` for an unknown name, and for a setting that is unknown there or of another type.
    """
    kind, _, of = text.partition(":")
    told = _checked(text, kind, dict(settings or {}))
    if text in ("phrases", "small-world", "classifier"):
        return _without_model(text)
    if kind in SETTINGS:
        if not of:
            raise ValueError(f"got the judge {text!r}, expected {kind}:MODEL")
        return _with_model(kind, of, told, progress=progress)
    if not of:
        raise ValueError(f"got the judge {text!r}, expected one of {', '.join(NAMES)}")
    return _your_own(kind, of)


def _checked(text: str, kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, each known to the kind and of its type; a dtype as torch's."""
    known = SETTINGS.get(kind, {})
    for name, value in settings.items():
        if name not in known:
            raise ValueError(
                f"got the setting {name} for the judge {text!r}, which has {', '.join(known) or 'none'}: leave it out, "
                "or spell it so"
            )
        right = isinstance(value, known[name]) and (not isinstance(value, bool) or bool in known[name])
        if not right:
            expected = " or ".join(kind.__name__ for kind in known[name])
            raise ValueError(f"the judge {text!r}: got {name} = {value!r}, expected {expected}")
    if "dtype" in settings:
        import torch

        from workbench.loading.holding import DTYPES

        names = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}
        if settings["dtype"] not in names:
            raise ValueError(
                f"the judge {text!r}: got dtype = {settings['dtype']!r}, expected one of {', '.join(names)}"
            )
        found: torch.dtype = names[settings["dtype"]]
        settings["dtype"] = found
    return settings


def _without_model(text: str) -> Judge:
    if text == "classifier":
        from workbench.judges.learned import refusal_classifier

        return refusal_classifier()
    from workbench.judges import refusals, small_world

    return refusals.judge_refusal if text == "phrases" else small_world.judge


def _with_model(kind: str, of: str, told: dict[str, Any], *, progress: bool) -> Judge:
    # Rooms that take seconds to import, each for those who name it.
    if kind == "llm":
        from workbench.judges.llm import llm_judge

        if "url" not in told:
            raise ValueError(
                f"got no url for the judge llm:{of}, expected the address that serves it: url, in the shell "
                "--send-replies-to URL"
            )
        if "prices" in told:
            told["prices"] = _pair(told["prices"])
        return llm_judge(of, told.pop("url"), progress=progress, **told)
    if kind == "hf":
        from workbench.judges.guards import load_judge

        return load_judge(of, **told)
    from workbench.judges.embedding import load_embedder
    from workbench.judges.learned import refusal_by_embeddings

    rule = {"rule": told.pop("rule")} if "rule" in told else {}
    return refusal_by_embeddings(load_embedder(of, **told), **rule)


def _pair(prices: Any) -> tuple[float, float]:
    if len(prices) != 2 or not all(isinstance(price, NUMBER) and price >= 0 for price in prices):
        raise ValueError(f"got prices = {prices!r}, expected two numbers: for a million tokens in, and out")
    return float(prices[0]), float(prices[1])


def _your_own(module: str, member: str) -> Judge:
    sys.path.insert(0, "")  # a judge of one's own lies in the folder that the command is run in
    try:
        found: Any = getattr(importlib.import_module(module), member, None)
    finally:
        sys.path.remove("")
    if not isinstance(found, ExchangeJudge) and not callable(found):
        raise ValueError(
            f"{module} has no function {member}: a judge takes a text and whether it ended by itself, or is an object "
            "with an id and a method judge(exchanges)"
        )
    return found  # type: ignore[no-any-return]
