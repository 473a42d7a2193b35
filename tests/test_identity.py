"""What tells a judge from every other."""

import shutil
from functools import partial

import pytest

import workbench as wb
from workbench.judges import identity
from workbench.judges.identity import judge_id
from workbench.shipped import shipped_path


@pytest.mark.parametrize(
    ("judge", "file"), [(wb.judge_refusal, "refusals/fr.toml"), (wb.judge, "world/words.toml")]
)
def test_a_judge_is_another_once_the_words_change_that_it_reads(monkeypatch, tmp_path, judge, file):
    before = judge_id(judge)
    for folder in ("refusals", "world"):
        shutil.copytree(shipped_path(folder), tmp_path / folder)
    monkeypatch.setattr(identity, "shipped_path", tmp_path.joinpath)
    assert judge_id(judge) == before
    with open(tmp_path / file, "a") as words:
        words.write("# another word\n")
    assert judge_id(judge) != before
    others = {wb.judge_refusal: wb.judge, wb.judge: wb.judge_refusal}
    assert judge_id(others[judge]) == judge_id(others[judge]) != before


def test_a_judge_without_a_name_has_no_id():
    word = "no"
    assert judge_id(partial(wb.judge_refusal)) is None
    assert judge_id(lambda text, finished: wb.Score("other", text)) is None
    assert judge_id(lambda text, finished: wb.Score("other", word)) is None
