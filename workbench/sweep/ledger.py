"""The ledger: every reply of a sweep, on disk as soon as its batch is done, so that a sweep that dies goes on.

    key = hash(weights, tokens, shift, length, stop tokens)      a reply is written once, under the key of its row

One file of SQLite, written by the sweep's own process alone, a transaction a batch, each on the disk before the next
batch counts. What is killed loses the batches that were being computed, and nothing that was committed.

The trap: a key has to name everything a reply depends on. Whatever it forgets to name, a change of it goes unnoticed,
and old replies stand for new ones.
"""

import json
import math
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock
import torch

from workbench.decoding.replies import Reply
from workbench.judges.verdicts import Verdict
from workbench.provenance import content_hash

VERSION = 1
APPLICATION = 0x1AF3A119
"""Tells a ledger from other files of SQLite, by this number in the header."""
APPLICATION_AT = 68
CHUNK = 500
"""Keys asked for at once: SQLite takes a limited number of them."""

# Not WITHOUT ROWID: keys are hashes, and rows that lay in their order would have every batch write most pages anew.
_TABLES = """
CREATE TABLE replies (
    key TEXT PRIMARY KEY, text TEXT, tokens TEXT, finished INTEGER NOT NULL, near_ties INTEGER NOT NULL, opened TEXT,
    verdict TEXT, correct REAL, seal TEXT NOT NULL
);
CREATE TABLE budgets (key TEXT PRIMARY KEY, tokens INTEGER NOT NULL);
"""

_COLUMNS = "key, text, tokens, finished, near_ties, opened, verdict, correct, seal"


@dataclass(frozen=True, eq=False)
class Entry:
    """A reply, and what was made of it where its text is not kept: the judge's verdict, and whether it is right."""

    reply: Reply
    judged: tuple[Verdict | None, float] | None = None


class LedgerError(OSError):
    """A ledger that cannot be read or written, and what to do about it."""


class Ledger:
    """An open ledger. Use `open_ledger`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path, self._connection = path, connection
        self._file = _file(path)

    def __len__(self) -> int:
        with self._spoken("read"):
            return int(self._connection.execute("SELECT count(*) FROM replies").fetchone()[0])

    def entries(self, keys: Sequence[str]) -> dict[str, Entry]:
        """What is there under `keys`."""
        found = {}
        for start in range(0, len(keys), CHUNK):
            part = keys[start : start + CHUNK]
            marks = ",".join("?" * len(part))
            with self._spoken("read"):
                rows = self._connection.execute(
                    f"SELECT {_COLUMNS} FROM replies WHERE key IN ({marks})", part
                ).fetchall()
            for *values, seal in rows:
                if content_hash(json.dumps(values)) != seal:
                    raise _damaged(self.path, f"entry {values[0]} is not what was written")
                key, text, tokens, finished, near_ties, opened, verdict, correct = values
                decisions = None if opened is None else torch.tensor([bit == "1" for bit in opened])
                reply = Reply(
                    text or "", tuple(json.loads(tokens or "[]")), bool(finished), near_ties, decisions
                )
                judged = None if text is not None else (verdict, math.nan if correct is None else correct)
                found[key] = Entry(reply, judged)
        return found

    def commit(self, entries: Mapping[str, Entry]) -> None:
        """Write one batch, all of it or nothing. Of an entry that is judged the text is left out."""
        if _file(self.path) != self._file:
            raise LedgerError(
                f"the ledger {self.path} was moved or deleted while a sweep was writing it: put it back, then start "
                "the same sweep again, which goes on with what it holds"
            )
        rows: list[tuple[str | int | float | None, ...]] = []
        for key, entry in entries.items():
            reply, kept = entry.reply, entry.judged is None
            verdict, correct = entry.judged or (None, None)
            opened = None if reply.opened is None else "".join("01"[bit] for bit in reply.opened.tolist())
            # NaN is no value of SQLite's, which would store it as none.
            right = None if correct is None or math.isnan(correct) else float(correct)
            values = (
                key, reply.text if kept else None, json.dumps(reply.tokens) if kept else None, int(reply.finished),
                reply.near_ties, opened, verdict, right,
            )  # fmt: skip
            rows.append((*values, content_hash(json.dumps(values))))
        with self._spoken("write"), self._connection:
            self._connection.executemany(
                f"INSERT OR IGNORE INTO replies ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows
            )

    def budget(self, key: str) -> int | None:
        """The token budget that was found before, so that batches are packed as they were."""
        with self._spoken("read"):
            row = self._connection.execute("SELECT tokens FROM budgets WHERE key = ?", (key,)).fetchone()
        return None if row is None else int(row[0])

    def keep_budget(self, key: str, tokens: int) -> None:
        """Write down a token budget that was found."""
        with self._spoken("write"), self._connection:
            self._connection.execute("INSERT OR IGNORE INTO budgets VALUES (?, ?)", (key, tokens))

    @contextmanager
    def _spoken(self, verb: str) -> Iterator[None]:
        """SQLite's errors as one sentence that says what is safe and what to do."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise LedgerError(
                f"could not {verb} the ledger {self.path} ({error}): every batch that was committed is kept; make room "
                "or mend its folder, then start the same sweep again, which goes on where it stopped"
            ) from error
        except sqlite3.DatabaseError as error:
            raise _damaged(self.path, error) from error


@contextmanager
def open_ledger(path: str | Path) -> Iterator[Ledger]:
    """The ledger at `path`, made if there is none, for this process alone while the context lasts.

    Readable and writable by its owner only: it holds replies to harmful prompts.

    Raises `LedgerError` for a file that is no ledger, is damaged, comes from a newer workbench, is in use by another
    sweep, or cannot be written.
    """
    given, path = path, Path(path).resolve()  # two names of one file are one ledger
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(filelock.FileLock(f"{path}.lock", timeout=0, mode=0o600))
            _make_or_close(path)
        except filelock.Timeout as error:
            raise LedgerError(
                f"another sweep is writing the ledger {given}: wait for it, or give this one a ledger of its own; what "
                "both need is then computed twice"
            ) from error
        except OSError as error:
            raise LedgerError(
                f"cannot open the ledger {given} ({error.strerror}): nothing was run; name a file in a folder that you "
                "can write to, on a disk with room"
            ) from error
        connection = stack.enter_context(closing(_connect(path)))
        yield Ledger(path, connection)


def _make_or_close(path: Path) -> None:
    """Make the file, or take from others the rights that a copy came with: what SQLite puts beside it takes after it.

    Read from the header, before SQLite opens anything: another file is to stay as it is.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if os.pread(descriptor, 4, APPLICATION_AT) == APPLICATION.to_bytes(4, "big"):
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def _file(path: Path) -> tuple[int, int] | None:
    """What tells a file from another that takes its name; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    # What is no text any more is found by its seal.
    connection.text_factory = lambda raw: raw.decode(errors="replace")
    try:
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if tables and application != APPLICATION:
            raise LedgerError(
                f"{path} is a file of SQLite, but no ledger of a sweep: name another path, nothing was changed"
            )
        if tables and version != VERSION:
            raise LedgerError(
                f"{path} is a ledger of format {version}, this workbench writes {VERSION}: keep it for the version "
                "that wrote it, and name another path"
            )
        if tables and (found := connection.execute("PRAGMA quick_check").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(found)
        os.chmod(
            path, 0o600
        )  # a copy may have come with other rights; what SQLite puts beside it takes after it
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        if not tables:
            connection.executescript(
                f"BEGIN; PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION}; {_TABLES} COMMIT;"
            )
    except sqlite3.DatabaseError as error:
        connection.close()
        if isinstance(error, sqlite3.OperationalError):
            raise LedgerError(
                f"could not open the ledger {path} ({error}): nothing was run; make room or choose another path"
            ) from error
        raise _damaged(path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _damaged(path: Path, error: Exception | str) -> LedgerError:
    return LedgerError(
        f"the ledger {path} is damaged, or no ledger ({error}): restore it from a copy, or move it away and start the "
        "same sweep again, which then computes everything anew"
    )
