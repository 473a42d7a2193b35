"""A run as one HTML page that asks nothing of any network.

    finding > pictures > tables > choices > every verdict > what repeats the run

The page is its file: style, script and data are in it, and a content security policy lets it load nothing else. It
can be read without its script, all but the list of verdicts; printed, it is a report.

The trap: prompts and replies are hostile text. Templates escape all they are given; what is data for the script lies in
a tag that is never run, with every sign escaped that could end it.
"""

import hashlib
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from workbench.prompts import ATTACKS
from workbench.provenance import write_safely
from workbench.records import RunRecord
from workbench.report.pictures import MUCH_BROKEN, compositions, planes, rates
from workbench.report.tables import SURE, WIDE, compared, legend, measured
from workbench.report.verdicts import CALM, CUTS, SIDES, Shown, as_data, composition, shown, verdicts_of
from workbench.report.words import baseline_of, conditions_of, finding, targets_of
from workbench.style import COLOURS

TEMPLATES = Path(__file__).parent / "templates"
_CONTROLS = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n\r"} | {127: "␡"}


@dataclass(frozen=True)
class SavedReport:
    """A page on disk: where, how many bytes, and how many replies were left out of it."""

    path: Path
    size: int
    left_out: int
    private: bool


def save_report(record: RunRecord, path: str | Path, *, include_harmful_text: bool = False) -> SavedReport:
    """Write `record` as one HTML page to `path`, whole or not at all.

    Replies of models that are not embedded ones, to prompts that are not harmless, contrast or domain prompts, are left
    out of the file with the judge's reasons, which quote them. `include_harmful_text` puts them in, and makes the file
    its owner's alone.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"got {path.name!r}, expected a name that ends in .html: a report is a page")
    rows = shown(record, include_harmful_text=include_harmful_text)
    content = _page(record, rows).encode("utf-8", "replace")  # half a surrogate is no character
    private = include_harmful_text and not record.embedded
    write_safely(path, content, private=private)
    return SavedReport(path, len(content), rows.left_out, private)


def report_page(record: RunRecord, *, include_harmful_text: bool = False) -> str:
    """The page of `save_report` as text. It holds what it holds: mind where it goes."""
    return _page(record, shown(record, include_harmful_text=include_harmful_text))


def _page(record: RunRecord, rows: Shown) -> str:
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=_visible,
    )  # fmt: skip
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8").replace("/* colours */", _colours())
    script = (TEMPLATES / "verdicts.js").read_text(encoding="utf-8")
    grids, (comparisons, uncompared) = measured(record), compared(record)
    return templates.get_template("page.html").render(
        record=record,
        rows=rows,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        finding=finding(record),
        titles=conditions_of(record),
        targets=targets_of(record),
        baseline=baseline_of(record),
        planes=planes(record),
        rates=rates(record),
        compositions=compositions(record, rows),
        much_broken=MUCH_BROKEN,
        grids=grids,
        legend=list(legend([*grids, *comparisons])),
        wide=WIDE,
        sure=SURE,
        comparisons=comparisons,
        uncompared=uncompared,
        counts=list(_counts(record, rows)),
        sides=SIDES,
        verdicts=verdicts_of(rows),
        cuts=CUTS,
        calm=CALM,
        attacks=ATTACKS,
        data=Markup(as_data(record, rows)),
    )


def _counts(record: RunRecord, rows: Shown) -> Iterator[tuple[str, str, list[int]]]:
    """How many replies had which verdict, on attacks and on others, a line per target and condition."""
    frame = composition(record, rows)
    n = frame.set_index(["target", "condition", "side", "verdict"])["n"].to_dict()
    there = set(zip(frame["target"], frame["condition"], strict=True))
    for target in targets_of(record):
        for key, title in conditions_of(record).items():
            if (target, key) in there:
                yield target, title, [n.get((target, key, s, v), 0) for s in SIDES for v in verdicts_of(rows)]


def _hash(text: str) -> str:
    return "sha256-" + b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _colours() -> str:
    return "\n".join(f"  --{name}: {colour};" for name, colour in COLOURS.items())


def _visible(value: Any) -> Any:
    """Control characters as signs that are seen, so that HTML can hold them; what is markup already stays."""
    return value.translate(_CONTROLS) if isinstance(value, str) and not isinstance(value, Markup) else value
