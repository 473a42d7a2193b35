"""The ledger: what is written is kept, what is kept is not computed again, and what is no ledger is left alone."""

import importlib
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from measuring import by_length, labelled_prompts, plan_for, relative_of

import workbench as wb
from workbench.decoding.replies import Reply
from workbench.judges.verdicts import Score
from workbench.loading import Model
from workbench.sweep.executors import InProcess, Terms
from workbench.sweep.ledger import Entry, LedgerError, open_ledger

ASKED = dict(judge=by_length, max_new_tokens=5, placebo=2, batch_size=8)


class Counting:
    """An executor that remembers what it was asked to compute; it stops after so many batches, if it is told to."""

    def __init__(
        self, model: Model, stop_after: int | None = None, stop: BaseException | None = None
    ) -> None:
        self.inside, self.stop_after, self.stop = InProcess(model), stop_after, stop
        self.rows: list[wb.Row] = []
        self.batches = 0

    def weights_hash(self) -> str:
        return self.inside.weights_hash()

    def find_budget(self, width: int, n_rows: int) -> int:
        return self.inside.find_budget(width, n_rows)

    def write(self, batches: Sequence[Sequence[wb.Row]], terms: Terms) -> Iterator[tuple[int, list[Reply]]]:
        for number, replies in self.inside.write(batches, terms):
            if self.batches == self.stop_after:
                raise self.stop
            self.batches += 1
            self.rows += batches[number]
            yield number, replies


def sweep(model: Model, path: Path | None = None, **given: object) -> tuple[wb.SweepResult, int]:
    """A small sweep, and how many rows it computed."""
    counting = given.pop("executor", None) or Counting(model)
    asked = ASKED | dict(alpha=[0.1, 0.3]) | given
    plan = asked.pop("plan", None) or plan_for(model)
    prompts = asked.pop("prompts", None) or labelled_prompts()
    return wb.run_sweep(model, prompts, plan, ledger=path, executor=counting, **asked), len(counting.rows)


def content(path: Path) -> dict[str, tuple[object, ...]]:
    """Every entry of a ledger, byte for byte, seen from outside."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return {row[0]: row for row in connection.execute("SELECT * FROM replies")}


def files_of(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}*"))


@pytest.fixture(scope="module")
def whole(plain: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ledger of a sweep that came to its end."""
    path = tmp_path_factory.mktemp("whole") / "sweep.db"
    sweep(plain, path)
    return path


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    copy = tmp_path / "sweep.db"
    copy.write_bytes(whole.read_bytes())
    return copy


# Resuming -----------------------------------------------------------------------------------------


def test_a_sweep_that_is_done_computes_nothing_again(plain, path):
    class Refusing(Counting):
        def write(self, batches, terms):
            raise AssertionError("something is computed again")

    again, _ = sweep(plain, path, executor=Refusing(plain))
    fresh, n = sweep(plain)
    assert again.frame.equals(fresh.frame)
    assert again.sharing.known == again.sharing.rows == n == len(content(path))
    assert "of them from the ledger, 0 computed" in str(again.sharing)


def test_one_strength_more_computes_its_rows_alone(plain, path):
    before = content(path)
    counting, strengths = Counting(plain), plan_for(plain).with_alpha(0.5).strengths
    more, n = sweep(plain, path, alpha=[0.1, 0.3, 0.5], executor=counting)
    assert all(torch.allclose(row.plan.strengths.abs(), strengths, rtol=1e-4) for row in counting.rows)
    alone, all_of_them = sweep(plain, alpha=[0.1, 0.3, 0.5])
    assert n == all_of_them - len(before) == len(content(path)) - len(before) > 0
    assert more.frame.drop(columns="near_ties").equals(alone.frame.drop(columns="near_ties"))
    assert before.items() <= content(path).items()


def test_budget_is_found_once(plain, tmp_path):
    class Finding(Counting):
        found = 0

        def find_budget(self, width, n_rows):
            type(self).found += 1
            return 7 * width

    first, second = Finding(plain), Finding(plain)
    sweep(plain, tmp_path / "l.db", batch_size=None, executor=first)
    sweep(plain, tmp_path / "l.db", batch_size=None, executor=second, alpha=[0.1, 0.3, 0.5])
    assert Finding.found == 1 and first.batches > 1


def test_many_rows_find_a_budget_of_their_own(plain, tmp_path, monkeypatch):
    """What few rows could not fill is no measure for many."""
    monkeypatch.setattr("workbench.sweep.packing.SIZES", (2,))
    asked = []

    class Finding(Counting):
        def find_budget(self, width, n_rows):
            asked.append(n_rows)
            return 4 * width

    few = wb.PromptSet("few", labelled_prompts().prompts[:3])
    for prompts in (few, few, labelled_prompts(), labelled_prompts()):
        sweep(plain, tmp_path / "l.db", prompts=prompts, batch_size=None, executor=Finding(plain))
    assert len(asked) == 2 and asked[0] < 16 <= asked[1]


def test_what_resumes_is_packed_as_it_was(plain, tmp_path):
    """Batches come from the whole grid: those that are left are the old ones, less what is known of them."""

    class Recording(Counting):
        given: Sequence[Sequence[wb.Row]] = ()

        def write(self, batches, terms):
            self.given = batches
            yield from super().write(batches, terms)

    undisturbed = Recording(plain)
    sweep(plain, executor=undisturbed)
    whole = [[row.key for row in batch] for batch in undisturbed.given]
    path = tmp_path / "l.db"
    sweep(plain, path, prompts=wb.PromptSet("some", labelled_prompts().prompts[::3]))
    known = len(content(path))
    resumed = Recording(plain)
    sweep(plain, path, executor=resumed)
    left = [[row.key for row in batch] for batch in resumed.given]
    assert 0 < known == sum(map(len, whole)) - sum(map(len, left))
    there = {key for batch in left for key in batch}
    assert left == [kept for batch in whole if (kept := [key for key in batch if key in there])]
    assert any(0 < len(kept) < len(batch) for batch in whole for kept in [there & set(batch)])


def test_every_commit_is_on_the_disk_before_it_counts(tmp_path):
    with open_ledger(tmp_path / "l.db") as ledger:
        asked = {
            name: ledger._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("synchronous", "journal_mode")
        }
    assert asked == {"synchronous": 2, "journal_mode": "wal"}  # 2 is FULL


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), RuntimeError("the machine is on fire")])
def test_what_stops_a_sweep_leaves_a_note_and_what_was_done(plain, tmp_path, stop):
    path = tmp_path / "l.db"
    stopped = Counting(plain, 2, stop)
    with pytest.raises(type(stop)) as raised:
        sweep(plain, path, executor=stopped)
    kept, (fresh, n) = content(path), sweep(plain)
    assert len(kept) == len(stopped.rows) > 10
    assert raised.value.__notes__ == [
        f"{len(kept)} replies are kept in {path}, of {n} rows that this sweep needs: the same call goes on from there"
    ]
    resumed, more = sweep(plain, path)
    assert more == n - len(kept) and resumed.frame.equals(fresh.frame)
    assert kept.items() <= content(path).items()


def test_what_stops_a_sweep_without_a_ledger_says_that_nothing_is_kept(plain):
    with pytest.raises(KeyboardInterrupt) as raised:
        sweep(plain, executor=Counting(plain, 2, KeyboardInterrupt()))
    assert raised.value.__notes__ == [
        "nothing of this sweep is kept: run_sweep(..., ledger=PATH) keeps what is done"
    ]


@pytest.fixture
def interruptible():
    """Python's own handler: a shell that starts tests in the background has the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_in_the_middle_keeps_what_was_committed(plain, tmp_path, interruptible):
    """A real signal, at no particular place of the code."""
    path = tmp_path / "l.db"

    def press() -> None:
        while not path.exists() or not _replies(path):
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt) as raised:
        sweep(plain, path, batch_size=1, alpha=[0.1, 0.15, 0.2, 0.25, 0.3])
    thread.join()
    kept = content(path)
    assert raised.value.__notes__[0].startswith(f"{len(kept)} replies are kept in {path}, of ")
    sweep(plain, path, batch_size=1, alpha=[0.1, 0.15, 0.2, 0.25, 0.3])
    assert kept and kept.items() < content(path).items()


def _replies(path: Path) -> int:
    try:
        return len(content(path))
    except sqlite3.Error:
        return 0


# Keys ---------------------------------------------------------------------------------------------


def test_another_judge_or_label_needs_no_new_reply(plain, path):
    judged, n = sweep(plain, path, judge=lambda text, finished: Score("other", "always"))
    assert n == 0 and set(judged.frame["verdict"]) == {"other"}
    relabelled = tuple(replace(prompt, label="contrast", source="x") for prompt in labelled_prompts())
    found, n = sweep(plain, path, prompts=wb.PromptSet("mixed", relabelled))
    assert n == 0 and set(found.frame["label"]) == {"contrast"}


@pytest.mark.parametrize("what", ["weights", "vectors", "prompts", "length", "stop tokens"])
def test_another_reply_has_another_key(plain, path, what, monkeypatch):
    """Whatever a reply depends on: changed a little, nothing of the old sweep stands for the new one."""
    plan, n_old = plan_for(plain), len(content(path))
    if what == "weights":
        model, given = relative_of(plain, size=1e-6), {"plan": plan}
    elif what == "vectors":
        nudged = replace(plan.vectors, directions=plan.vectors.directions * (1 - 1e-6))
        model, given = plain, {"plan": replace(plan, vectors=nudged)}
    elif what == "prompts":
        texts = tuple(
            wb.Prompt.user(p.text + " please", label=p.label, answer=p.answer) for p in labelled_prompts()
        )
        model, given = plain, {"prompts": wb.PromptSet("mixed", texts)}
    elif what == "length":
        model, given = plain, {"max_new_tokens": 6}
    else:
        monkeypatch.setattr("workbench.sweep.answering.stop_tokens", lambda model: [1, 7])
        model, given = plain, {}
    result, n = sweep(model, path, **given)
    unsteered = len(labelled_prompts()) if what == "vectors" else 0  # these rows have no vector
    assert result.sharing.known <= 2 * unsteered and n == result.sharing.rows - result.sharing.known > 0
    assert len(content(path)) == n_old + n


# Without texts ------------------------------------------------------------------------------------


def test_without_texts_the_files_hold_neither_texts_nor_tokens(plain, path, tmp_path):
    quiet, n = sweep(plain, tmp_path / "quiet.db", keep_text=False)
    loud, _ = sweep(plain)
    texts = {text.strip() for text in loud.frame["reply"] if len(text.strip()) > 3}
    held = b"".join(file.read_bytes() for file in files_of(path))
    assert texts and any(text.encode() in held for text in texts), "the search would find nothing anywhere"
    silent = b"".join(file.read_bytes() for file in files_of(tmp_path / "quiet.db"))
    assert not any(text.encode() in silent for text in texts)
    rows = content(tmp_path / "quiet.db").values()
    assert len(rows) == n and all(text is None and tokens is None for _, text, tokens, *_ in rows)
    assert set(quiet.frame["reply"]) == {""}
    same = ["arm", "alpha", "prompt", "finished", "verdict", "correct", "open", "near_ties"]
    assert quiet.frame[same].equals(loud.frame[same])


def test_without_texts_while_it_runs_neither(plain, tmp_path):
    path, seen = tmp_path / "quiet.db", []

    class Looking(Counting):
        def write(self, batches, terms):
            for number, replies in super().write(batches, terms):
                yield number, replies
                told = [r.text.strip().encode() for r in replies if len(r.text.strip()) > 3]
                seen.extend(told)
                held = b"".join(file.read_bytes() for file in files_of(path))
                assert not any(text in held for text in seen)

    sweep(plain, path, keep_text=False, executor=Looking(plain))
    assert len(seen) > 10


def test_without_texts_verdicts_are_kept_for_their_judge_and_answer(plain, tmp_path):
    path = tmp_path / "quiet.db"
    first, n = sweep(plain, path, keep_text=False)
    again, none = sweep(plain, path, keep_text=False)
    assert none == 0 and again.frame["verdict"].equals(first.frame["verdict"])
    assert set(again.frame["reason"]) == {"its text was not kept"}
    _, anew = sweep(plain, path, keep_text=False, judge=wb.judge)
    assert anew == n
    with pytest.raises(
        ValueError, match="got a judge without a name of its own .*: define it as a function of"
    ):
        sweep(plain, path, keep_text=False, judge=lambda text, finished: Score("other", "x"))


JUDGE = """
from workbench.judges.verdicts import Score
REFUSALS = ("{word}",)

def judge(text, finished):
    return Score("refused" if is_refusal(text) else "other", "by a word")

def is_refusal(text):
    return any(word in text for word in REFUSALS)
"""


def test_without_texts_a_judge_that_was_edited_anywhere_is_another(plain, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    known = {}
    for word in ("e", "zzz"):
        (tmp_path / "own_judge.py").write_text(JUDGE.format(word=word))
        sys.modules.pop("own_judge", None)
        importlib.invalidate_caches()
        for turn in range(2):
            found, n = sweep(
                plain, tmp_path / "l.db", judge=importlib.import_module("own_judge").judge, keep_text=False
            )
            known[word, turn] = n, (found.frame["verdict"] == "refused").any()
    assert known["e", 0][0] == known["zzz", 0][0] > 0
    assert known["e", 1] == (0, True) and known["zzz", 1] == (0, False)


def test_without_texts_a_judge_of_exchanges_gets_whole_batches_and_goes_by_its_id(plain, tmp_path):
    class Curious:
        def __init__(self, name: str) -> None:
            self.id, self.batches = name, []

        def judge(self, exchanges):
            self.batches.append(len(exchanges))
            return [Score("refused" if "e" in e.reply else "other", e.prompt.text) for e in exchanges]

    def swept(name: str) -> tuple[list[str], list[int], int]:
        judge = Curious(name)
        found, n = sweep(plain, tmp_path / "quiet.db", keep_text=False, judge=judge)
        return found.frame["verdict"].tolist(), judge.batches, n

    aloud = sweep(plain, judge=Curious("one"))[0].frame["verdict"].tolist()
    verdicts, batches, n = swept("one")
    assert verdicts == aloud and {"refused", "other"} == set(aloud)
    assert sum(batches) <= n and max(batches) > 4
    assert swept("one") == (verdicts, [], 0)
    assert swept("another")[1:] == (batches, n)


def test_without_texts_twins_with_other_answers_are_judged_apart(plain, tmp_path):
    """One text, two right answers: the reply is one, what it is worth is not."""
    text = wb.generate(plain, ["bake"], max_new_tokens=5)[0].text
    twins = [wb.Prompt.user("bake", label="domain", answer=answer) for answer in (text, "never")]
    prompts = wb.PromptSet("twins", (*twins, *labelled_prompts()))
    loud, _ = sweep(plain, prompts=prompts)
    quiet, _ = sweep(plain, tmp_path / "quiet.db", prompts=prompts, keep_text=False)
    assert quiet.frame["correct"].equals(loud.frame["correct"])


# Files --------------------------------------------------------------------------------------------


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def test_its_files_are_its_owner_s_alone(tmp_path):
    path = tmp_path / "l.db"
    with umask(0), open_ledger(path) as ledger:
        ledger.commit({"k": Entry(Reply("text", (1, 2), True, 0))})
        files = files_of(path)
        assert [file.name for file in files] == ["l.db", "l.db-shm", "l.db-wal", "l.db.lock"]
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_copy_with_other_rights_is_closed(path):
    path.chmod(0o644)
    with open_ledger(path) as ledger:
        ledger.keep_budget("b", 1)
        assert {stat.S_IMODE(file.stat().st_mode) for file in files_of(path)} == {0o600}


def garbled(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[4096:8192] = os.urandom(4096)
    path.write_bytes(raw)


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 5000)


def cut_short(path: Path) -> None:
    os.truncate(path, 60)


def no_database(path: Path) -> None:
    path.write_text("a shopping list: apples, pears\n" * 50)


def short_note(path: Path) -> None:
    path.write_text("milk")


@pytest.mark.parametrize("damage", [garbled, truncated, cut_short, no_database, short_note])
def test_a_damaged_file_is_refused_and_left_alone(plain, path, damage):
    damage(path)
    before = path.read_bytes()
    with pytest.raises(
        LedgerError,
        match=r"the ledger .*l?sweep\.db is damaged, or no ledger \(.*\): restore it from a copy, or",
    ):
        sweep(plain, path)
    assert path.read_bytes() == before


def test_a_reply_that_was_changed_is_not_taken_for_one(plain, path):
    """SQLite has no checksum of its own: one letter in the middle of a page, and quick_check says ok."""
    raw, text = path.read_bytes(), max((row[1] for row in content(path).values()), key=len)
    assert raw.count(text.encode()) >= 1
    path.write_bytes(raw.replace(text.encode(), text.encode()[:-1] + b"!"))
    with pytest.raises(
        LedgerError, match="is damaged, or no ledger .entry [0-9a-f]{16} is not what was written"
    ):
        sweep(plain, path)


def test_another_file_of_sqlite_is_left_alone(plain, tmp_path):
    path = tmp_path / "photos.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE photos (name TEXT)")
        connection.commit()
    path.chmod(0o640)
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="is a file of SQLite, but no ledger of a sweep: name another path"):
        sweep(plain, path)
    assert path.read_bytes() == before and stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("version", [0, 2, 99])
def test_another_format_is_refused(plain, path, version):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    with pytest.raises(
        LedgerError,
        match=rf"is a ledger of format {version}, this workbench writes 1: keep it for the version",
    ):
        sweep(plain, path)


def test_two_sweeps_do_not_write_one_ledger(plain, path, tmp_path):
    (tmp_path / "other name.db").symlink_to(path)
    for name in (path, tmp_path / "other name.db"):
        with (
            open_ledger(path),
            pytest.raises(LedgerError, match="another sweep is writing the ledger .*: wait"),
        ):
            sweep(plain, name)
    assert sweep(plain, path)[1] == 0


def test_a_lock_that_a_dead_process_left_does_not_block(plain, path):
    Path(f"{path}.lock").write_text("12345")
    assert sweep(plain, path)[1] == 0


@pytest.mark.parametrize("place", ["folder", "file/l.db", "sealed/l.db"])
def test_a_place_where_nothing_can_be_written(plain, tmp_path, place):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    if place.startswith("sealed"):
        if os.geteuid() == 0:
            pytest.skip("no folder is read-only for root")
        (tmp_path / "sealed").mkdir(0o500)
    with pytest.raises(
        LedgerError, match=r"cannot open the ledger .* \(.+\): nothing was run; name a file in a"
    ):
        sweep(plain, tmp_path / place)


def test_errors_of_others_stay_their_own(plain, tmp_path):
    """What fails beside the ledger is no fault of it."""
    for error in (
        PermissionError(13, "not yours"),
        OSError("the network is down"),
        sqlite3.DatabaseError("x"),
    ):
        with pytest.raises(type(error)) as raised:
            sweep(plain, tmp_path / "l.db", executor=Counting(plain, 0, error))
        assert raised.value is error


def test_a_ledger_that_is_taken_away_is_missed(plain, tmp_path):
    path = tmp_path / "l.db"

    class Taking(Counting):
        def write(self, batches, terms):
            for number, replies in super().write(batches, terms):
                if number == 2:
                    path.rename(tmp_path / "elsewhere.db")
                yield number, replies

    with pytest.raises(
        LedgerError, match="was moved or deleted while a sweep was writing it: put it back, then"
    ):
        sweep(plain, path, executor=Taking(plain))


WRITER = """
    import os, resource, sys
    import torch
    from workbench.decoding.replies import Reply
    from workbench.sweep.ledger import Entry, LedgerError, open_ledger

    path, end = sys.argv[1:]
    def batch(n):
        return {f"{n}:{i}": Entry(Reply(f"reply {n} {i} " * 20, (n, i), True, 0)) for i in range(20)}
    with open_ledger(path) as ledger:
        if end == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        try:
            for n in range(400):
                ledger.commit(batch(n))
                print(n, flush=True)
                if end == "killed" and n == 30:
                    os.kill(os.getpid(), 9)
        except LedgerError as error:
            print(error, flush=True)
"""


def write_until(path: Path, end: str) -> list[str]:
    """What another process says that commits batch by batch until it meets its end."""
    given = [sys.executable, "-c", textwrap.dedent(WRITER), str(path), end]
    return subprocess.run(given, capture_output=True, text=True, check=False).stdout.splitlines()


def batches_in(path: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    for key in content(path):
        counts[key.split(":")[0]] = counts.get(key.split(":")[0], 0) + 1
    return counts


def test_after_kill_9_the_wal_is_read(tmp_path):
    path = tmp_path / "l.db"
    assert write_until(path, "killed")[-1] == "30"
    assert Path(f"{path}-wal").stat().st_size > 0
    alone = tmp_path / "copied alone.db"
    alone.write_bytes(path.read_bytes())
    with open_ledger(path) as ledger:
        assert len(ledger) == 31 * 20
        assert len(ledger.entries([f"30:{i}" for i in range(20)])) == 20
    # A copy without its -wal is an older ledger, whole batches of it, and no damage.
    with open_ledger(alone) as ledger:
        assert len(ledger) < 31 * 20 and len(ledger) % 20 == 0


def test_a_disk_that_fills_up_loses_no_committed_batch(tmp_path):
    path = tmp_path / "l.db"
    *done, said = write_until(path, "full")
    assert 5 < len(done) < 400
    assert (
        said.startswith(f"could not write the ledger {path} (")
        and "every batch that was committed is kept" in said
    )
    with open_ledger(path) as ledger:
        assert len(ledger) >= 20 * len(done)
        ledger.commit({"more": Entry(Reply("", (), True, 0))})
    del (counts := batches_in(path))["more"]
    assert set(counts.values()) == {20} and counts.keys() >= set(done)


def test_what_was_read_is_what_was_written(tmp_path):
    entries = {
        "a": Entry(Reply("ein Würfel\n\0", (3, 1, 2), True, 2, torch.tensor([True, False, True]))),
        "b": Entry(Reply("", (), False, 0)),
        "c": Entry(Reply("", (), True, 1), ("refused", 1.0)),
        "d": Entry(Reply("", (), True, 1), (None, float("nan"))),
    }
    with open_ledger(tmp_path / "l.db") as ledger:
        ledger.commit(entries)
    with open_ledger(tmp_path / "l.db") as ledger:
        found = ledger.entries([*entries, "e"])
    assert list(found) == list(entries)
    for name, entry in entries.items():
        assert str(found[name]) == str(entry)
