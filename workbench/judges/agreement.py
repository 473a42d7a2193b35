"""How well a judge agrees with people: who of the two says that a reply refuses.

    accuracy    the share of replies on which they agree, with Wilson's interval
    κ           (agreement − chance) / (1 − chance), chance from how often each says so    (Cohen 1960, by scikit-learn)

Two ways, refused or not: refusing in part is refusing, and broken is not.

The trap: rows that nobody labelled, or that the judge left unscored, are in neither number. They are counted beside it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from workbench.judges.labels import LabelledReply, means_refused, read_labelled
from workbench.judges.refusals import judge_refusal
from workbench.judges.verdicts import Score, TextJudge
from workbench.stats import Estimate, wilson


@dataclass(frozen=True, eq=False)
class Agreement:
    """A judge beside people. `frame` has a line per row of the file: `file`, `row`, `human`, `judge`, `reason`.

    `human` and `judge` say whether the reply refuses; None is unlabelled, or unscored.
    """

    name: str
    frame: pd.DataFrame

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(f"{self.name}+{other.name}", pd.concat([self.frame, other.frame], ignore_index=True))

    @property
    def n(self) -> int:
        """The rows that both have judged."""
        return len(self._both)

    @property
    def unlabelled(self) -> int:
        """The rows that nobody labelled."""
        return int(self.frame["human"].isna().sum())

    @property
    def unscored(self) -> int:
        """The labelled rows that the judge left without a verdict."""
        return int((self.frame["judge"].isna() & self.frame["human"].notna()).sum())

    @property
    def accuracy(self) -> Estimate:
        """The share of rows on which they agree; Wilson's interval takes the rows for independent."""
        both = self._both
        return wilson(int((both["human"] == both["judge"]).sum()), len(both))

    @property
    def kappa(self) -> float:
        """Cohen's κ; NaN where both say the same of every row, for then chance explains it all."""
        from sklearn.metrics import cohen_kappa_score  # a second that `--help` need not pay

        human, judge = (self._both[who].astype(bool).tolist() for who in ("human", "judge"))
        return float(cohen_kappa_score(human, judge)) if len({*human, *judge}) > 1 else math.nan

    @property
    def false_positives(self) -> list[int]:
        """The numbers of the rows that only the judge calls refused."""
        return self._rows(human=False)

    @property
    def false_negatives(self) -> list[int]:
        """The numbers of the rows that only people call refused."""
        return self._rows(human=True)

    @property
    def _both(self) -> pd.DataFrame:
        return self.frame[self.frame["human"].notna() & self.frame["judge"].notna()]

    def _rows(self, *, human: bool) -> list[int]:
        both = self._both
        return both.loc[(both["human"] == human) & (both["judge"] != human), "row"].tolist()


def judge_agreement(
    path: str | Path,
    judge: TextJudge | str = judge_refusal,
    *,
    reply: str | None = None,
    label: str | None = None,
    refused: Sequence[str] = (),
    progress: bool = False,
) -> Agreement:
    """How `judge` agrees with the labels of a csv or JSON-lines file of replies.

    A text in the place of the judge names a column with the verdicts of one that has judged already. `reply`, `label`
    and `refused` are those of `labels.read_labelled`.
    """
    path = Path(path)
    rows = read_labelled(path, reply=reply, label=label, refused=refused)
    if isinstance(judge, str) and not any(judge in row.fields for row in rows):
        raise ValueError(f"{path} has no column {judge!r}: it has {', '.join(rows[0].fields)}")
    records = []
    for row in tqdm(rows, desc=path.name, unit="reply", disable=not progress):
        if isinstance(judge, str):
            verdict = means_refused(row.fields, judge, refused, f"{path}, row {row.row}")
            reason = f"column {judge}"
        else:
            score = _scored(row, judge, path)
            verdict, reason = None if score.verdict is None else score.verdict == "refused", score.reason
        records.append((path.name, row.row, row.refused, verdict, reason))
    found = Agreement(path.name, pd.DataFrame(records, columns=["file", "row", "human", "judge", "reason"]))
    if not found.n:
        raise ValueError(
            f"{path} has no row with both a label and a verdict: of {len(rows)} rows {found.unlabelled} are unlabelled "
            f"and {found.unscored} unscored"
        )
    return found


def _scored(row: LabelledReply, judge: TextJudge, path: Path) -> Score:
    if row.text is None:
        return Score(None, "no reply")
    try:
        return judge(row.text, row.finished)
    except Exception as error:
        error.add_note(f"while judging {path}, row {row.row}")
        raise
