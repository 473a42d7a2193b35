"""The page of a run: its numbers are the record's, its filters count what pandas counts, and it keeps what it must."""

import html
import json
import re
import stat
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browsing import ABSENT, Sight, looking
from typer.testing import CliRunner

import workbench as wb
from workbench.cli import app
from workbench.evaluation.metrics import METRICS, change, estimates
from workbench.records import Choice, RunRecord, UsedModel
from workbench.report.tables import compared, measured
from workbench.report.verdicts import CUTS, shown
from workbench.report.words import finding, is_defence

TITLES = {"none": "nothing", "inferaligner": "InferAligner (ours)", "random": "ten random directions"}
SHARES = {"none": (85, 5, 0, 10), "inferaligner": (10, 10, 5, 75), "random": (75, 10, 10, 5)}
"""Of complied, other, broken and refused, in per cent."""
HOSTILE = (
    "</script><script>document.title = 'owned'</script>",
    "<img src=https://example.org/x onerror=alert(1)> & <!-- <script>",
    "\u202egnp.exe \u0634\u0643\u0631\u0627 \u05e9\u05dc\u05d5\u05dd",
    "nul\x00 esc\x1b bell\x07 line\u2028end",
    "\"quotes\" 'single' {{ 7 * 7 }} {% raw %}",
    "👩‍👩‍👧‍👦 💥" * 3,
    "x" * 100_000,
)
SECRET = "SECRET-REPLY"


def replies(targets: tuple[str, ...] = ("finance",), n: int = 24, seed: int = 0) -> pd.DataFrame:
    """Verdicts of three conditions on `n` prompts of each kind; a few have none."""
    rng, rows = np.random.default_rng(seed), []
    for target in targets:
        for condition, shares in SHARES.items():
            for number in range(3 * n):
                label = ("harmful", "jailbroken", "domain")[number % 3]
                verdict = rng.choice(["complied", "other", "broken", "refused"], p=np.array(shares) / 100)
                if label == "domain":
                    verdict = "other"
                elif rng.random() < 0.05:
                    verdict = None
                rows.append(
                    dict(
                        target=target, condition=condition, prompt=number, plan=0, label=label, source=f"s:{number}",
                        text=f"prompt {number}, about looting" if number % 5 == 0 else f"prompt {number}",
                        reply=f"{SECRET} {condition} {number}", finished=number % 7 > 0, verdict=verdict,
                        reason=f"it says {SECRET} {number}",
                        correct=float(number % 4 > 0) if label == "domain" else None,
                        open=bool(condition != "none" and label != "domain"), cluster_verb=f"verb {number % 4}",
                    )
                )  # fmt: skip
    return pd.DataFrame(rows)


def record_of(verdicts: pd.DataFrame, *, embedded: bool = True, **changes: object) -> RunRecord:
    table = estimates(verdicts, ("target", "condition"))
    table["title"] = table["condition"].map(TITLES)
    has = (table["condition"] != "random") & (table["metric"] == "asr_not_refused")
    table["paper"] = np.where(has, 0.384, np.nan)
    compared_rows = []
    for target, part in verdicts.groupby("target", sort=False):
        arms = dict(iter(part.groupby("condition", sort=False)))
        for condition in [c for c in arms if c != "none" and "none" in arms]:
            for metric in METRICS:
                if (moved := change(arms[condition], arms["none"], metric)) is not None:
                    ids = dict(target=target, condition=condition, against="none", metric=metric)
                    compared_rows.append(
                        {**ids, **vars(moved), "p_holm": 0.0004321 if moved.high < 0 else 1.0}
                    )
    facts: dict[str, object] = dict(
        kind="table1", title="The paper's table", command="workbench reproduce table1 t.toml --out 'runs/a b'",
        config="a = 1  # <b>\n", created="2026-01-01T00:00:00Z", judge="small-world: forms",
        models=(UsedModel("target", "organism:finance" if embedded else "my/model", "ab12", embedded),),
        prompts=({"name": "p", "hash": "cd34", "labels": {"harmful": 24}},),
        choices=(Choice("layers", "3, 4", "validation", "AUROC", True),), notes=("a note",), seeds=(0,),
        versions={"torch": "2.13"}, table=table, comparisons=pd.DataFrame(compared_rows), verdicts=verdicts,
    )  # fmt: skip
    return RunRecord(**{**facts, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def record() -> RunRecord:
    return record_of(replies(("finance", "medicine")))


def saved(record: RunRecord, folder: Path, **options: bool) -> str:
    return wb.save_report(record, folder / "report.html", **options).path.read_text(encoding="utf-8")


class Cells(HTMLParser):
    """What a page's grids say: (kind, target, condition, metric) to the numbers of the cell."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[tuple[str, ...], list[float]] = {}
        self.place: list[str] = ["", "", "", ""]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "table":
            self.place = [given.get("data-kind", ""), given.get("data-target", ""), "", ""]
        elif tag == "tr":
            self.place[2] = given.get("data-condition", "")
        elif tag == "td":
            self.place[3] = given.get("data-metric", "")
        elif self.place[0] and self.place[3] and tag in ("data", "span"):
            numbers = [given[name] for name in ("value", "data-low", "data-high") if name in given]
            self.found.setdefault(tuple(self.place), []).extend(map(float, numbers))


def test_the_numbers_are_the_records_to_the_digit(record: RunRecord, tmp_path: Path) -> None:
    cells = Cells()
    cells.feed(saved(record, tmp_path))
    expected = {}
    for row in record.table.to_dict("records"):
        numbers = [row["mean"], row["low"], row["high"], *([] if np.isnan(row["paper"]) else [row["paper"]])]
        expected["measured", row["target"], row["condition"], row["metric"]] = numbers
    for row in record.comparisons.to_dict("records"):
        key = "compared", row["target"], row["condition"], row["metric"]
        expected[key] = [row["mean"], row["low"], row["high"], row["p_holm"]]
    assert cells.found == expected


def test_what_is_read_is_rounded_from_them(record: RunRecord) -> None:
    for grid in measured(record):
        for _, _, row in grid.rows:
            for cell in filter(None, row):
                assert abs(float(cell.said) - 100 * cell.value) <= 0.05 + 1e-9
                assert cell.wide == (cell.high - cell.low > 0.2)
    (grid, _), _ = compared(record)
    first = grid.rows[0][2][0]
    assert first is not None and first.said.startswith("−")
    assert {cell.sure for cell in grid.cells} == {True, False}
    assert all(cell.sure == (cell.p == 0.0004321) for cell in grid.cells)


def test_the_title_is_the_finding(record: RunRecord, tmp_path: Path) -> None:
    means = record.table.set_index(["target", "condition", "metric"])["mean"]
    ours, without = (
        sorted(100 * means[target, condition, "asr_not_refused"] for target in ("finance", "medicine"))
        for condition in ("inferaligner", "none")
    )
    told = finding(record).replace("\u00a0", " ")
    assert told.startswith(
        f"InferAligner (ours): {ours[0]:.0f} to {ours[1]:.0f} % of harmful requests not refused instead of "
        f"{without[0]:.0f} to {without[1]:.0f} %; domain accuracy 75 %, as without it"
    )
    assert f"<h1>{finding(record)}</h1>" in saved(record, tmp_path)
    assert finding(record_of(replies().query("condition == 'random'"))) == "The paper's table"


def test_slipped_and_changed_are_what_they_say(record: RunRecord) -> None:
    frame = shown(record).frame
    merged = frame.merge(frame[frame["condition"] == "none"], on=["target", "prompt"], suffixes=("", "_none"))
    assert (merged["changed"] == (merged["verdict"] != merged["verdict_none"])).all() and frame[
        "changed"
    ].any()
    slipped = frame[frame["slipped"]]
    assert set(slipped["condition"]) == {"inferaligner"}, (
        "neither the model as it is nor a control is a defence"
    )
    assert set(slipped["verdict"]) == {"complied", "other"} and set(slipped["label"]) == {
        "harmful",
        "jailbroken",
    }
    assert not is_defence("own_srv_subtracted") and is_defence("self_reminder")
    assert shown(record).unscored == record.verdicts["verdict"].isna().sum() > 0


@pytest.mark.parametrize("label", ["harmful", "jailbroken", "unlabelled", "own"])
def test_replies_of_real_models_to_attacks_are_not_in_the_file(label: str, tmp_path: Path) -> None:
    verdicts = replies().query("label != 'domain'").assign(label=label)
    record = replace(record_of(replies(), embedded=False), verdicts=verdicts)
    page = saved(record, tmp_path)
    assert SECRET not in page, "neither the replies nor the reasons that quote them"
    assert "prompt 0, about looting" in page and f"{len(verdicts)} replies are not in this file" in page
    assert stat.S_IMODE((tmp_path / "report.html").stat().st_mode) & 0o044 == 0o044
    whole = wb.save_report(record, tmp_path / "report.html", include_harmful_text=True)
    assert SECRET in whole.path.read_text() and whole.private and whole.left_out == 0
    assert stat.S_IMODE(whole.path.stat().st_mode) == 0o600, "for its owner alone, where it was not before"


def test_replies_of_embedded_models_and_to_calm_prompts_are_in_it(tmp_path: Path) -> None:
    assert SECRET in saved(record_of(replies()), tmp_path)
    page = saved(record_of(replies(), embedded=False), tmp_path)
    assert f"{SECRET} none 2" in page and f"{SECRET} none 0" not in page


def data_of(page: str) -> dict[str, object]:
    return json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[0])


def hostile_record() -> RunRecord:
    verdicts = replies()
    texts = [HOSTILE[i % len(HOSTILE)] for i in range(len(verdicts))]
    tricky = HOSTILE[0]
    return record_of(
        verdicts.assign(reply=texts, text=texts[::-1], reason=texts, cluster_verb=texts),
        command=f"{tricky} \ud800", config=tricky, judge=tricky, notes=HOSTILE, title=tricky,
        choices=(Choice(*HOSTILE[:4]),), versions={tricky: tricky},
        prompts=({"name": tricky, "hash": tricky, "labels": {tricky: 1}},),
        models=(UsedModel(tricky, tricky, tricky, True),),
    )  # fmt: skip


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    page = saved(hostile_record(), tmp_path)
    assert page.count("</script>") == 2, "its own two"
    assert "<img" not in page and "\x00" not in page and "7 * 7" in page
    data = data_of(page)
    texts = data["columns"]["reply"]["levels"]
    whole = [text[: CUTS["reply"]] for text in HOSTILE]
    assert sorted(texts) == sorted(whole)
    assert list(data["columns"]["reply"]["lengths"].values()) == [100_000]
    assert len(page) < 600_000, "a long line is cut, not carried"


def test_a_record_of_hostile_text_survives_the_disk(tmp_path: Path) -> None:
    record = replace(
        hostile_record(), command=HOSTILE[0]
    )  # a path may hold half a surrogate, a file of text none
    read = wb.load_record(wb.save_record(record, tmp_path / "run"))
    assert saved(read, tmp_path) == saved(record, tmp_path)


def test_a_run_of_one_condition_compares_nothing_and_says_so(tmp_path: Path) -> None:
    record = record_of(replies().query("condition == 'none' and label == 'harmful'"))
    assert record.comparisons.empty
    page = saved(wb.load_record(wb.save_record(record, tmp_path / "run")), tmp_path)
    assert "This run compares nothing" in page and "No picture of safety against use" in page
    odd = replace(record_of(replies()), comparisons=pd.DataFrame({"p": [0.5]}))
    assert (
        "comparisons.csv has no condition, against, metric, low, high, change: its 1 rows are not shown"
        in saved(odd, tmp_path)
    )


def test_a_metric_without_words_is_a_plain_number(tmp_path: Path) -> None:
    record = record_of(replies())
    seconds = record.table.iloc[[0]].assign(metric="seconds_per_1000", mean=94.2, low=93.0, high=95.5)
    page = saved(replace(record, table=pd.concat([record.table, seconds])), tmp_path)
    assert "<dt>seconds per 1000</dt><dd>bootstrap by verb" in page, (
        "how its interval was told, as it is no rate"
    )
    assert '<th scope="col">seconds per 1000</th>' in page and '<data value="94.2">94.2</data>' in page


def test_a_run_that_no_judge_read_draws_no_verdicts(tmp_path: Path) -> None:
    record = record_of(replies())
    page = saved(replace(record, verdicts=record.verdicts.assign(verdict=None, reason=None)), tmp_path)
    assert "What became of attacks" not in page and "216 replies have no verdict" in page


def test_bad_input_is_one_sentence(tmp_path: Path) -> None:
    shell = CliRunner()
    record = record_of(replies())
    found = shell.invoke(app, ["report", str(tmp_path / "none")])
    assert found.exit_code == 2 and "expected the folder of a finished run" in found.stderr
    folder = wb.save_record(record, tmp_path / "run")
    found = shell.invoke(app, ["report", str(folder), "--out", str(tmp_path / "page.pdf")])
    assert found.exit_code == 2
    assert "got 'page.pdf', expected a name that ends in .html: a report is a page" in found.stderr
    (folder / "verdicts.jsonl").write_text('{"target": "fin')
    found = shell.invoke(app, ["report", str(folder)])
    assert found.exit_code == 2 and "holds no readable record" in found.stderr
    assert not (folder / "report.html").exists()


def test_the_command_tells_what_it_left_out(tmp_path: Path) -> None:
    shell = CliRunner()
    folder = wb.save_record(record_of(replies(), embedded=False), tmp_path / "run")
    told = " ".join(shell.invoke(app, ["report", str(folder)]).stdout.split())
    assert "report.html" in told and "144 replies of real models are not in it" in told
    told = shell.invoke(app, ["report", str(folder), "--include-harmful-text"]).stdout
    assert "can be read by you alone" in told and SECRET in (folder / "report.html").read_text()


def test_headings_are_in_order_and_tables_have_scopes(record: RunRecord, tmp_path: Path) -> None:
    page = saved(record, tmp_path)
    levels = [int(level) for level in re.findall(r"<h([1-6])", page)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert "<th>" not in page and re.findall(r"<th(?! scope)", page.replace("<thead", "")) == []
    assert 'aria-live="polite"' in page and not re.search(r"(src|href)=\"(?!#)", page)


@pytest.fixture
def sight() -> Iterator[Sight]:
    with looking(width=1100) as sight:
        yield sight


def opened(sight: Sight, record: RunRecord, folder: Path) -> None:
    """The page from the disk, with its verdicts drawn; that it asked for nothing is for `require_quiet`."""
    path = wb.save_report(record, folder / "report.html").path
    sight.page.unroute("**/*")
    sight.page.on("request", lambda request: request.url == path.as_uri() or sight.left.append(request.url))
    sight.page.on("console", lambda message: sight.errors.append(message.text))
    sight.page.goto(path.as_uri())
    sight.page.locator("#browser").scroll_into_view_if_needed()
    sight.page.locator("article").first.wait_for()


def counted(sight: Sight) -> int:
    return int(sight.page.locator("#count").inner_text().split(" of ")[0].replace(",", ""))


@pytest.mark.skipif(bool(ABSENT), reason=ABSENT)
def test_filters_count_what_pandas_counts(sight: Sight, record: RunRecord, tmp_path: Path) -> None:
    opened(sight, record, tmp_path)
    page, frame = sight.page, shown(record).frame
    assert counted(sight) == len(frame)
    wanted = {
        "target": ("medicine", frame["target"] == "medicine"),
        "condition": (TITLES["inferaligner"], frame["condition"] == "inferaligner"),
        "label": ("jailbroken", frame["label"] == "jailbroken"),
        "verdict": ("unscored", frame["verdict"] == "unscored"),
        "gate": ("open", frame["open"]),
        "cluster": ("verb 2", frame["cluster_verb"] == "verb 2"),
    }
    for name, (option, rows) in wanted.items():
        page.select_option(f"#by-{name}", label=option)
        assert counted(sight) == rows.sum() > 0, name
        page.select_option(f"#by-{name}", label="any")
    for name in ("slipped", "changed"):
        page.click(f"#{name}")
        assert counted(sight) == frame[name].sum() > 0, name
        page.select_option("#by-label", label="harmful")
        assert counted(sight) == (frame[name] & (frame["label"] == "harmful")).sum(), name
        page.click("#reset")
        assert counted(sight) == len(frame)
    page.fill("#words", "LOOTING")
    sight.wait(lambda: counted(sight) == frame["text"].str.contains("looting").sum(), "the words in prompts")
    page.fill("#words", f"{SECRET.lower()} random 7")
    found = frame["reply"].str.contains(f"{SECRET} random 7")
    sight.wait(lambda: counted(sight) == found.sum(), "the words in replies")
    page.fill("#words", "no such words")
    sight.wait(lambda: counted(sight) == 0, "nothing")
    assert page.locator("#page").inner_text() == "page 1 of 1" and page.locator("#after").is_disabled()
    sight.require_quiet()


@pytest.mark.skipif(bool(ABSENT), reason=ABSENT)
def test_folded_replies_pages_and_all_conditions_by_keyboard(
    sight: Sight, record: RunRecord, tmp_path: Path
) -> None:
    opened(sight, record, tmp_path)
    page = sight.page
    first = page.locator("article").first
    assert "harmful" in first.inner_text() and SECRET not in first.inner_text(), "folded, with its reason"
    first.locator("summary").focus()
    page.keyboard.press("Enter")
    assert first.inner_text().count(SECRET) == 2
    first.locator("button").focus()
    page.keyboard.press("Enter")
    dialog = page.locator("#beside")
    assert dialog.is_visible() and dialog.locator(".verdict-row").count() == 3
    assert [TITLES[key] in dialog.inner_text() for key in TITLES] == [True] * 3
    assert SECRET not in dialog.inner_text()
    dialog.locator("#unfold").click()
    assert dialog.inner_text().count(SECRET) == 6
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    page.locator("#after").focus()
    page.keyboard.press("Enter")
    assert page.locator("#page").inner_text() == f"page 2 of {-(-len(record.verdicts) // 40)}"
    assert page.locator("article").first.get_attribute("data-row") == "40"
    page.locator("#copy").click()
    sight.wait(lambda: page.locator("#copy").inner_text() == "Copied", "the command copied")
    sight.require_quiet()


@pytest.mark.skipif(bool(ABSENT), reason=ABSENT)
def test_hostile_text_runs_nothing_and_asks_for_nothing(sight: Sight, tmp_path: Path) -> None:
    record = hostile_record()
    opened(sight, record, tmp_path)
    page = sight.page
    for summary in page.locator("summary").all():
        summary.click()
    assert page.title() == html.unescape(finding(record)) != "owned"
    assert page.locator("img").count() == 0
    assert "onerror=alert(1)" in page.locator("#rows").inner_text()
    assert "600 of 100,000 characters" in page.locator("#rows").inner_text()
    sight.require_quiet()


@pytest.mark.skipif(bool(ABSENT), reason=ABSENT)
@pytest.mark.parametrize("width", [360, 800, 1600])
def test_nothing_hangs_over_the_edge(sight: Sight, record: RunRecord, tmp_path: Path, width: int) -> None:
    sight.page.set_viewport_size({"width": width, "height": 900})
    opened(sight, record, tmp_path)
    assert sight.page.evaluate("() => document.documentElement.scrollWidth") <= width
    sight.page.emulate_media(media="print")
    assert not sight.page.locator("#browser").is_visible()
    sight.page.set_viewport_size({"width": 1031, "height": 720})  # A4 across, less its margins
    wide = "all => all.filter((one) => one.scrollWidth > one.parentElement.clientWidth + 1).length"
    assert sight.page.locator("table").evaluate_all(wide) == 0, "tables that a printed page would clip"


@pytest.mark.skipif(bool(ABSENT), reason=ABSENT)
def test_it_reads_without_javascript(record: RunRecord, tmp_path: Path) -> None:
    with looking() as sight:
        page = sight.page.context.browser.new_context(java_script_enabled=False).new_page()
        page.goto(wb.save_report(record, tmp_path / "report.html").path.as_uri())
        assert page.locator("table.grid-table").count() == 4 and page.locator("noscript").is_visible()
        assert not page.locator("#browser").is_visible() and not page.locator("#copy").is_visible()
