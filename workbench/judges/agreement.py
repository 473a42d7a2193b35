"""How well a judge agrees with people: who of the two says that a reply refuses.

    accuracy    the share of replies on which they agree, with Wilson's interval
    κ           (agreement − chance) / (1 − chance), chance from how often each says so    (Cohen 1960, by scikit-learn)

Two ways, refused or not: refusing in part is refusing, and broken is not.

The trap: rows that nobody labelled, or that the judge left unscored, are in neither number. They are counted beside it.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from workbench.judges.labels import PROMPTS, LabelledReply, means_refused, read_labelled
from workbench.judges.refusals import judge_refusal
from workbench.judges.verdicts import Exchange, ExchangeJudge, Judge, Score, TextJudge, scores
from workbench.prompts import Prompt
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
    def unscored_by(self) -> dict[str, int]:
        """Why labelled rows have no verdict, commonest first, without what was answered."""
        left = self.frame[self.frame["judge"].isna() & self.frame["human"].notna()]
        return dict(Counter(map(brief_reason, left["reason"])).most_common())

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
    judge: Judge | str = judge_refusal,
    *,
    reply: str | None = None,
    label: str | None = None,
    prompt: str | None = None,
    refused: Sequence[str] = (),
    progress: bool = False,
) -> Agreement:
    """How `judge` agrees with the labels of a csv or JSON-lines file of replies.

    A text in the place of the judge names a column with the verdicts of one that has judged already. `reply`, `label`,
    `prompt` and `refused` are those of `labels.read_labelled`; a judge that reads what was asked needs the prompts.
    """
    path = Path(path)
    rows = read_labelled(path, reply=reply, label=label, prompt=prompt, refused=refused)
    if isinstance(judge, str):
        if not any(judge in row.fields for row in rows):
            raise ValueError(f"{path} has no column {judge!r}: it has {', '.join(rows[0].fields)}")
        # The labels that mean a refusal are people's; a judge's column may have words of its own.
        shared = {str(row.fields.get(judge)).strip() for row in rows} & set(refused)
        names = refused if shared else ()
        said = [
            (means_refused(row.fields, judge, names, f"{path}, row {row.row}"), f"column {judge}")
            for row in rows
        ]
    else:
        found = (
            _asked(rows, judge, path)
            if isinstance(judge, ExchangeJudge)
            else [
                _scored(row, judge, path)
                for row in tqdm(rows, desc=path.name, unit="reply", disable=not progress)
            ]
        )
        said = [(None if s.verdict is None else s.verdict == "refused", s.reason) for s in found]
    records = [(path.name, row.row, row.refused, *told) for row, told in zip(rows, said, strict=True)]
    agreement = Agreement(
        path.name, pd.DataFrame(records, columns=["file", "row", "human", "judge", "reason"])
    )
    if not agreement.n:
        unscored = next((reason for verdict, reason in said if verdict is None), "")
        raise ValueError(
            f"{path} has no row with both a label and a verdict: of {len(rows)} rows {agreement.unlabelled} are "
            f"unlabelled and {agreement.unscored} unscored"
            + (f", the first by: {brief_reason(unscored)}" if agreement.unscored else "")
        )
    return agreement


def brief_reason(reason: str) -> str:
    """A reason without what was answered, which may quote a reply."""
    return re.split(r": ['\"]|, answered|(?<=HTTP \d{3}):", reason)[0][:100]


def _asked(rows: Sequence[LabelledReply], judge: ExchangeJudge, path: Path) -> list[Score]:
    """The scores of a judge of exchanges, which takes all rows that it can judge at once."""
    reads = getattr(judge, "reads_prompt", True)
    if reads and not any(row.prompt is not None for row in rows):
        raise ValueError(
            f"{path} has no column of prompts that is known ({', '.join(PROMPTS)}), and the judge reads them: "
            f"name it, --prompt COLUMN; it has {', '.join(rows[0].fields)}"
        )
    exchanges = {
        place: Exchange(Prompt.user(row.prompt or ""), row.text, row.finished)
        for place, row in enumerate(rows)
        if row.text is not None and (row.prompt is not None or not reads)
    }
    try:
        found = dict(zip(exchanges, scores(judge, list(exchanges.values())), strict=True))
    except Exception as error:
        error.add_note(f"while judging {path}")
        raise
    missing = [Score(None, "no reply" if row.text is None else "no prompt") for row in rows]
    return [found.get(place, missing[place]) for place in range(len(rows))]


def _scored(row: LabelledReply, judge: TextJudge, path: Path) -> Score:
    if row.text is None:
        return Score(None, "no reply")
    try:
        return judge(row.text, row.finished)
    except Exception as error:
        error.add_note(f"while judging {path}, row {row.row}")
        raise
