"""Records: what is saved is what is read, to its owner alone, and a damaged one says so."""

import stat

import pandas as pd
import pytest

import workbench as wb
from workbench.records import TABLE_COLUMNS, Choice, RunRecord, UsedModel

TARGET = UsedModel("target", "organism:finance", "ab", True)


def small_record(**changes: object) -> RunRecord:
    """Two replies of one condition, with texts that csv and JSON get wrong when they can."""
    table = pd.DataFrame(
        [["finance", "none", "nothing", "asr", 0.5, 0.1, 0.9, 2, 2, "Wilson", float("nan")]],
        columns=list(TABLE_COLUMNS),
    )
    verdicts = pd.DataFrame(
        {
            "target": "finance", "condition": "none", "prompt": [0, 1], "label": ["harmful", "domain"],
            "source": ["h:0", "d:0"], "text": ["how do I, \"well\",\nbreak it?", "2026-01-01"],
            "reply": ["Nein – niemals 💥\r\n", "007"], "finished": [True, False], "verdict": ["refused", None],
            "reason": ["declines", "no words"], "correct": [None, 1.0], "open": [True, False],
        }
    )  # fmt: skip
    facts: dict[str, object] = dict(
        kind="table1", title="A table", command="workbench reproduce table1 t.toml", config="a = 1\n",
        created="2026-01-01T00:00:00Z", judge="small-world", models=(TARGET,),
        prompts=({"name": "p", "hash": "cd", "labels": {"harmful": 1}},),
        choices=(Choice("layers", "3, 4", "validation", "AUROC", True),), notes=("one",), seeds=(0,),
        versions={"torch": "2"}, table=table, comparisons=pd.DataFrame({"p": [0.5]}), verdicts=verdicts,
    )  # fmt: skip
    return RunRecord(**{**facts, **changes})  # type: ignore[arg-type]


def test_a_record_comes_back_as_it_was(tmp_path) -> None:
    record = small_record()
    read = wb.load_record(wb.save_record(record, tmp_path / "run"))
    for name in ("kind", "config", "models", "choices", "prompts", "notes", "seeds", "versions"):
        assert getattr(read, name) == getattr(record, name), name
    assert read.verdicts["text"].tolist() == record.verdicts["text"].tolist()
    assert read.verdicts["reply"].tolist() == record.verdicts["reply"].tolist()
    assert read.verdicts["verdict"].isna().tolist() == [False, True]
    pd.testing.assert_frame_equal(read.table, record.table, check_dtype=False)


def test_verdicts_are_for_their_owner_alone(tmp_path) -> None:
    folder = wb.save_record(small_record(), tmp_path)
    assert stat.S_IMODE((folder / "verdicts.jsonl").stat().st_mode) == 0o600


def test_an_unfinished_or_damaged_record_is_told(tmp_path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no record.json in .*: expected the folder of a finished run"
    ):
        wb.load_record(tmp_path)
    folder = wb.save_record(small_record(), tmp_path)
    (folder / "record.json").write_text('{"format": 1, "kind": "ta')
    with pytest.raises(ValueError, match="holds no readable record"):
        wb.load_record(folder)
    with pytest.raises(ValueError, match="a record's table lacks paper"):
        small_record(table=small_record().table.drop(columns="paper"))


def test_a_target_may_be_called_7_or_na(tmp_path) -> None:
    record = small_record()
    for name in ("7", "NA"):
        changed = small_record(
            table=record.table.assign(target=name), verdicts=record.verdicts.assign(target=name)
        )
        read = wb.load_record(wb.save_record(changed, tmp_path / name))
        assert set(read.table["target"]) == set(read.verdicts["target"]) == {name}


@pytest.mark.parametrize("name", ["verdicts.jsonl", "table.csv", "comparisons.csv"])
def test_a_file_that_was_cut_or_is_of_another_run_is_told(tmp_path, name) -> None:
    folder = wb.save_record(small_record(), tmp_path)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="its files are not those that were written together"):
        wb.load_record(folder)


def test_a_record_of_one_real_model_is_no_embedded_one() -> None:
    assert small_record().embedded
    models = (TARGET, UsedModel("aligned", "some/model", "ef", False))
    assert not small_record(models=models).embedded
