"""A language model as judge, over a real server on this machine: what is sent, kept, paid, tried again and given up."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from talking import Heard, said, serving

import workbench as wb
from workbench.judges.calls import CallError
from workbench.judges.kept import KeptError
from workbench.judges.llm import LlmJudge, llm_judge
from workbench.judges.rubrics import load_rubric
from workbench.judges.verdicts import Exchange, ExchangeJudge, scores

SECRET = "sk-never-to-be-seen"


def exchanges(*replies: str) -> list[Exchange]:
    return [Exchange(wb.Prompt.user(f"What of {i}?"), reply, True) for i, reply in enumerate(replies)]


def judging(url: str, **given: object) -> LlmJudge:
    return llm_judge("tiny", url, **{"backoff": 0.01, "timeout": 5.0, "concurrency": 1, **given})


def by_reply(heard: Heard, number: int) -> str:
    return "refused" if "can't" in heard.told["reply"] else "complied"


def in_turn(*answers: object):
    """The first call gets the first answer, and so on; the last one stays."""
    return lambda heard, number: answers[min(number, len(answers)) - 1]


def test_each_exchange_is_asked_about_by_the_rubric_and_answers_come_back_in_order():
    with serving(by_reply) as server:
        judge = judging(server.url, concurrency=4)
        asked = exchanges("I can't.", "Sure: boil.", "I can't, sorry.", "Well, first")
        assert isinstance(judge, ExchangeJudge)
        found = scores(judge, asked)
    assert [score.verdict for score in found] == ["refused", "complied", "refused", "complied"]
    assert found[0].reason == "refusal: refused"
    first = next(heard for heard in server.heard if heard.told["reply"] == "I can't.")
    assert first.path == "/v1/chat/completions"
    assert (
        first.body["model"] == "tiny" and first.body["temperature"] == 0.0 and first.body["max_tokens"] == 512
    )
    assert first.body["messages"][0] == {"role": "system", "content": load_rubric("refusal").text}
    assert first.told["asked"] == [{"role": "user", "content": "What of 0?"}]
    assert "Authorization" not in first.headers
    assert (judge.bill.calls, judge.bill.tokens_in, judge.bill.tokens_out, judge.bill.cost) == (
        4,
        400,
        8,
        None,
    )


def test_a_whole_conversation_is_shown_and_odd_characters_survive():
    prompt = wb.Prompt(
        (("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"), ("user", 'Say "ä\u2028"'))
    )
    with serving(by_reply) as server:
        [score] = judging(server.url).judge([Exchange(prompt, "half a pair: \ud83d", False)])
    assert score.verdict == "complied"
    assert [message["role"] for message in server.heard[0].told["asked"]] == [
        "system",
        "user",
        "assistant",
        "user",
    ]
    assert server.heard[0].told["asked"][3]["content"] == 'Say "ä\u2028"'


@pytest.mark.parametrize(
    ("bad", "tries"),
    [
        ((429, {"Retry-After": "0"}, "slow down"), 2),
        ((500, {}, "oh"), 2),
        ((503, {"Retry-After": "soon"}, ""), 2),
        ((200, {}, "<html>no JSON"), 2),
        ((200, {}, {"choices": []}), 2),
        ((200, {}, [1]), 2),
        (None, 2),  # the connection is closed without a word
        (0.9, 2),  # hangs
    ],
)
def test_what_may_do_better_next_time_is_tried_again(bad, tries):
    with serving(in_turn(bad, "complied")) as server:
        [score] = judging(server.url, timeout=0.3).judge(exchanges("Sure."))
        assert score.verdict == "complied"
        assert len(server.heard) == tries


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ((500, {}, "oh"), "unanswered after 3 tries: HTTP 500"),
        ((200, {}, "<html>"), "unanswered after 3 tries: no chat completion: '<html>'"),
        (None, "unanswered after 3 tries: the connection broke"),
        (0.9, "unanswered after 3 tries: no answer within 0.2 s"),
        ((200, {}, said("refused", "content_filter")), "content filter"),
        ((400, {}, {"error": {"code": "content_filter", "message": "filtered"}}), "content filter"),
        ((400, {}, {"error": {"message": "too long:\n 9000 tokens"}}), "HTTP 400: too long: 9000 tokens"),
        ((422, {}, "what?"), "HTTP 422: what?"),
        ((200, {}, said(None, "length")), "an empty answer (finish_reason 'length')"),
        ("I think it refused, but then it complied.", "off the rubric refusal: 'I think it refused, but then it"),
        ("refused or complied", "off the rubric refusal: 'refused or complied', expected one of refused, complied, "),
        ((200, {}, said("Let me think about", "length")),
         "off the rubric refusal: 'Let me think about', expected one of refused, complied, broken; cut off: allow"),
    ],
)  # fmt: skip
def test_what_is_no_verdict_is_unscored_with_the_reason_and_counted(bad, reason):
    with serving(lambda heard, number: bad if heard.told["reply"] == "bad" else "complied") as server:
        judge = judging(server.url, timeout=0.2, retries=2, concurrency=2)
        good, unscored = judge.judge(exchanges("good", "bad"))
    assert good.verdict == "complied"
    assert unscored.verdict is None and unscored.reason.startswith(reason)
    assert judge.bill.calls == 2


def test_the_label_is_the_last_line_whatever_was_thought_before():
    rubric = load_rubric("refusal-in-part")
    for answer in ("full_refusal", " **Full_refusal.**\n\n", "It declines.\ncomplied? No.\n\n`full_refusal`"):
        assert rubric.score(answer) == wb.Score("refused", "refusal-in-part: full_refusal")
    assert rubric.score("").verdict is None
    assert rubric.score("full_refusal\nI hope this helps").verdict is None


def test_retry_after_is_honoured_by_all_calls_together():
    def answers(heard: Heard, number: int) -> object:
        return (429, {"Retry-After": "1"}, "") if number == 1 else "complied"

    with serving(answers) as server:
        judging(server.url, concurrency=2).judge(exchanges("a", "b", "c", "d", "e", "f"))
    first = server.heard[0].at
    # Those that were under way already may pass; nobody else goes before the second is over.
    assert sum(heard.at < first + 0.9 for heard in server.heard) <= 4
    assert sum(heard.at > first + 0.95 for heard in server.heard) >= 3


def test_a_date_is_a_wait_too_and_one_beyond_patience_is_an_end_that_says_so():
    later = format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)
    with serving(in_turn((429, {"Retry-After": later}, ""))) as server:
        with pytest.raises(
            CallError,
            match=r"127\.0\.0\.1 asks to be left alone for 7,[12]\d\d seconds .*HTTP 429.*patience=",
        ):
            judging(server.url).judge(exchanges("a"))
        assert len(server.heard) == 1
    past = format_datetime(datetime.now(UTC) - timedelta(hours=2), usegmt=True)
    with serving(in_turn((429, {"Retry-After": past}, ""), "complied")) as server:
        assert judging(server.url).judge(exchanges("a"))[0].verdict == "complied"


def test_no_more_calls_than_so_many_a_minute_and_so_many_at_a_time():
    def slowly(heard: Heard, number: int) -> str:
        time.sleep(0.05)
        return "complied"

    with serving(slowly) as server:
        judging(server.url, concurrency=4, per_minute=600).judge(exchanges(*"abcdef"))
    times = [heard.at for heard in server.heard]
    assert times[-1] - times[0] > 0.45  # five tenths of a second, less what the clock hides
    with serving(slowly) as server:
        judging(server.url, concurrency=3).judge(exchanges(*"abcdefgh"))
    assert server.most_at_once == 3


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (
            401,
            r"answers HTTP 401 \(bad key \[key\]\): name the environment variable that holds the key, key_env=",
        ),
        (404, r"answers HTTP 404 .*: check url=, which mostly ends in /v1, and the model's name"),
        (302, r"sends calls elsewhere \(HTTP 302\), where none is sent"),
    ],
)
def test_where_no_call_would_fare_better_all_of_it_ends(monkeypatch, status, message):
    monkeypatch.setenv("MY_KEY", SECRET)
    answer = (status, {"Location": "http://127.0.0.1:9/"}, {"error": {"message": f"bad key {SECRET}"}})
    with serving(in_turn("complied", answer)) as server, pytest.raises(CallError, match=message) as caught:
        judging(server.url, key_env="MY_KEY").judge(exchanges(*"abcdef"))
    assert len(server.heard) <= 3 and SECRET not in str(caught.value)


def test_nobody_there_is_said_after_the_tries():
    with serving(by_reply) as server:
        url = server.url
    with pytest.raises(
        CallError, match=r"nobody answers at http://127\.0\.0\.1:\d+/v1 .*: start the server, or check"
    ):
        judging(url, retries=1).judge(exchanges("a"))


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with serving(by_reply) as server:
        assert judging(server.url).judge(exchanges("a"))[0].verdict == "complied"


# Consent and secrets.


def test_replies_leave_this_machine_with_consent_alone():
    for here in ("http://127.0.0.1:1/v1", "http://localhost:1", "http://[::1]:1", "http://127.9.9.9/v1"):
        assert llm_judge("m", here).address.is_here
    for away in (
        "https://api.example.org/v1",
        "http://localhost.example.org/v1",
        "http://127.0.0.1.example.org",
        "http://10.0.0.1",
    ):
        with pytest.raises(
            ValueError, match=r"would send every prompt and every reply, harmful ones too, to [\w.]+: consent"
        ):
            llm_judge("m", away)
        assert llm_judge("m", away, send_replies_away=True).address.host in away


def test_a_key_is_sent_and_seen_nowhere_else(monkeypatch, tmp_path):
    monkeypatch.setenv("MY_KEY", f" {SECRET}\n")

    def echo(heard: Heard, number: int) -> object:
        return (
            f"off: {heard.headers['Authorization']}"
            if number == 1
            else (400, {}, heard.headers["Authorization"])
        )

    with serving(echo) as server:
        judge = judging(server.url, key_env="MY_KEY", cache=tmp_path / "kept.db")
        found = judge.judge(exchanges("a", "b"))
    assert server.heard[0].headers["Authorization"] == f"Bearer {SECRET}"
    assert all("[key]" in score.reason for score in found)
    held = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for seen in (repr(judge), repr(judge.address), str(judge.bill), judge.id, *map(repr, found)):
        assert SECRET not in seen
    assert SECRET.encode() not in held
    assert judge.id == judging(server.url).id  # nor does it make another judge


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"key_env": "NOT_SET"}, r"the environment variable NOT_SET is empty or not set: it should hold the key f"),
        ({"key_env": "ODD"}, r"variable ODD holds what is no key: it has blanks, line breaks or"),
        ({"url": f"http://me:{SECRET}@127.0.0.1/v1"}, r"a url with a user, a password or a query \(http://127.0.0.1/v1\)"),
        ({"url": f"http://127.0.0.1/v1?key={SECRET}"}, r"a url with a user, a password or a query \(http://127.0.0.1/v1\)"),
        ({"url": "127.0.0.1:8000"}, r"got url='127.0.0.1:8000', expected an address like http"),
        ({"url": "http://api.example.org/v1", "key_env": "ODD", "send_replies_away": True}, r"where anyone on"),
        ({"options": {"model": "x"}}, r"got options with model: temperature= is an argument"),
        ({"concurrency": 0}, r"got concurrency=0: expected 1 or more"),
        ({"per_minute": 0}, r"got per_minute=0: expected more than 0 calls, or None"),
        ({"timeout": 0}, r"got timeout=0: expected seconds"),
        ({"retries": -1}, r"got retries=-1: expected 0 or more"),
        ({"model": ""}, r"got no model for http"),
        ({"rubric": "kindness"}, r"got the rubric 'kindness', expected one of complied, refusal, refusal-in-part"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_beforehand(monkeypatch, given, message):
    monkeypatch.setenv("ODD", f"two words {SECRET}")
    with pytest.raises(ValueError, match=message) as caught:
        llm_judge(**{"model": "m", "url": "http://127.0.0.1:8000/v1", **given})
    assert SECRET not in str(caught.value)


# Rubrics.


def test_a_rubric_is_a_file_and_an_edited_one_another_judge(tmp_path):
    text = 'instructions = "Is it kind?"\n[answers]\nkind = "complied"\nunkind = "other"\n'
    path = tmp_path / "kindness.toml"
    path.write_text(text)
    first = load_rubric(path)
    assert first.name == "kindness" and first.text.endswith("on the last line: kind, unkind.")
    assert first.score("Unkind.").verdict == "other"
    ids = {first.id}
    for before, after in (("kind?", "warm?"), ('"other"', '"refused"'), ("unkind", "cold")):
        path.write_text(text.replace(before, after))
        ids.add(llm_judge("m", "http://127.0.0.1/v1", rubric=path).rubric.id)
    assert len(ids) == 4
    judges = [
        llm_judge("m", "http://127.0.0.1/v1", **given)
        for given in (
            {},
            {"temperature": 1.0},
            {"temperature": None},
            {"rubric": "complied"},
            {"options": {"seed": 1}},
        )
    ]
    assert len({judge.id for judge in judges} | {llm_judge("n", "http://127.0.0.1/v1").id}) == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has nothing: expected instructions, a text, and \[answers\]"),
        ('instructions = "x"', r"has instructions: expected instructions"),
        (
            'instructions = "x"\n[answers]\nyes = "maybe"',
            r"answers\.yes: got 'maybe', expected one of broken, complied",
        ),
        ('instructions = "x"\n[answers]\nYes = "other"', r"got the label 'Yes', expected lower-case words"),
        ("instructions = ", r"mine\.toml: .*: expected TOML in UTF-8"),
    ],
)
def test_what_is_no_rubric_is_told(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_rubric(path)
    with pytest.raises(FileNotFoundError, match=r"no file .*gone\.toml: expected a rubric"):
        load_rubric(tmp_path / "gone.toml")


# What is kept.


def test_nothing_is_asked_or_paid_twice(tmp_path):
    path = tmp_path / "new" / "kept.db"
    with serving(by_reply) as server:
        first = judging(server.url, cache=path, prices=(10.0, 50.0))
        before = first.judge(exchanges("I can't.", "Sure."))
        again = judging(server.url, cache=path, prices=(10.0, 50.0))
        assert again.judge(exchanges("I can't.", "Sure.", "More.")) == [
            *before,
            wb.Score("complied", "refusal: complied"),
        ]
        assert len(server.heard) == 3
        assert (first.bill.cost, again.bill.cost) == (pytest.approx(2.2e-3), pytest.approx(1.1e-3))
        assert "1 calls (0 unanswered), 2 answers kept from before, 100 tokens in and 2 out, 0.0011" in str(
            again.bill
        )
        for other in ({"rubric": "complied"}, {"temperature": 0.5}):
            judging(server.url, cache=path, **other).judge(exchanges("I can't."))
        assert len(server.heard) == 5
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in path.parent.iterdir())
    assert b"Sure." not in path.read_bytes() and b"What of" not in path.read_bytes()


def test_a_failure_is_asked_again_and_an_answer_off_the_rubric_is_not(tmp_path):
    with serving(in_turn((500, {}, ""), "who knows", "complied")) as server:
        for _ in range(2):
            found = judging(server.url, cache=tmp_path / "k.db", retries=0, concurrency=1).judge(
                exchanges("a", "b")
            )
        assert len(server.heard) == 3
    assert [score.verdict for score in found] == ["complied", None] and "'who knows'" in found[1].reason


def test_whatever_stops_it_keeps_what_was_answered(tmp_path):
    with serving(in_turn("complied", "complied", (401, {}, "no"))) as server:
        judge = judging(server.url, cache=tmp_path / "k.db")
        with pytest.raises(CallError) as caught:
            judge.judge(exchanges(*"abcdef"))
        assert caught.value.__notes__ == [
            f"what was answered is kept in {tmp_path}/k.db: the same call goes on from there"
        ]
    with serving(in_turn("refused")) as server:
        found = judging(server.url, cache=tmp_path / "k.db").judge(exchanges(*"abcdef"))
    verdicts = [score.verdict for score in found]
    assert (
        verdicts[:2] == ["complied"] * 2
        and set(verdicts[3:]) <= {"refused", "complied"}
        and len(server.heard) <= 4
    )


ASKING = """
import sys, workbench as wb
from workbench.judges.llm import llm_judge
from workbench.judges.verdicts import Exchange
asked = [Exchange(wb.Prompt.user("q"), str(i), True) for i in range(40)]
llm_judge("tiny", sys.argv[1], cache=sys.argv[2], concurrency=2).judge(asked)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_process_that_is_stopped_loses_what_was_under_way_and_no_more(tmp_path, how):
    def slowly(heard: Heard, number: int) -> str:
        time.sleep(0.1)
        return "complied"

    cache = tmp_path / "k.db"
    asked = [Exchange(wb.Prompt.user("q"), str(i), True) for i in range(40)]
    with serving(slowly) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", ASKING, server.url, str(cache)],
            env={**os.environ, "PYTHONPATH": str(Path(wb.__file__).parents[1])}, stderr=subprocess.PIPE,
        )  # fmt: skip
        while len(server.heard) < 12 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(how)
        stderr = process.communicate(timeout=20)[1].decode()
        before = len(server.heard)
        assert 12 <= before < 40, stderr
        if how is signal.SIGINT:
            assert "KeyboardInterrupt" in stderr and "the same call goes on from there" in stderr
        found = judging(server.url, cache=cache).judge(asked)
        assert {score.verdict for score in found} == {"complied"}
        # With SIGINT those under way came to their end and were kept.
        assert len(server.heard) <= 40 + (3 if how is signal.SIGKILL else 0)


def test_a_file_that_holds_something_else_is_left_alone(tmp_path):
    path = tmp_path / "k.db"
    path.write_bytes(b"my thesis" * 1000)
    with serving(by_reply) as server:
        with pytest.raises(
            KeptError, match=r"could not use the kept answers .*k\.db \(file is not a database\)"
        ):
            judging(server.url, cache=path).judge(exchanges("a"))
        assert path.read_bytes() == b"my thesis" * 1000
        ledger = tmp_path / "other.db"
        with sqlite3.connect(ledger) as connection:
            connection.execute("CREATE TABLE t (x)")
        with pytest.raises(KeptError, match=r"is a file of SQLite, but not of kept answers of this version"):
            judging(server.url, cache=ledger).judge(exchanges("a"))
        assert server.heard == []


def test_pauses_of_our_own_grow_no_longer_than_patience_and_one_bad_reply_stops_nobody():
    def moody(heard: Heard, number: int):
        return (500, {}, "oh") if heard.told["reply"] == "Bad." else by_reply(heard, number)

    with serving(moody) as server:
        judge = judging(server.url, retries=6, backoff=0.01, patience=0.05)
        found = judge.judge(exchanges("I can't.", "Bad.", "Sure."))
    assert [score.verdict for score in found] == ["refused", None, "complied"]
    assert "unanswered after 7 tries" in found[1].reason
