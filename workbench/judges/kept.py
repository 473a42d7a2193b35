"""Answers that were paid for, on disk as soon as they came: what was asked once is not asked again.

    key = hash(rubric, model, settings, exchange)      the answer, and the tokens that it took

One file of SQLite, which its owner alone can read: answers may quote replies. What was asked is not in it.

The trap: a failure is no answer. Only what a model said is kept; a time-out is tried again next time.
"""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from workbench.judges.calls import Answer

APPLICATION = 0x1AF3A10C
VERSION = 1
CHUNK = 500
"""Keys asked for at once: SQLite takes a limited number of them."""

_TABLE = """
CREATE TABLE answers (
    key TEXT PRIMARY KEY, answer TEXT, why TEXT NOT NULL, tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL
);
"""


class KeptError(OSError):
    """A file of answers that cannot be read or written, and what to do about it."""


class Kept:
    """An open file of answers. Use `open_kept`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def answers(self, keys: Sequence[str]) -> dict[str, Answer]:
        """What is there under `keys`."""
        found: dict[str, Answer] = {}
        for start in range(0, len(keys), CHUNK):
            part = keys[start : start + CHUNK]
            rows = self._connection.execute(
                f"SELECT * FROM answers WHERE key IN ({','.join('?' * len(part))})", part
            )
            found |= {key: Answer(*told) for key, *told in rows}
        return found

    def keep(self, key: str, answer: Answer) -> None:
        """Write one answer; it is on the disk when this returns."""
        values = (key, answer.text, answer.why, answer.tokens_in, answer.tokens_out)
        with self._connection:
            self._connection.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?)", values)


@contextmanager
def open_kept(path: str | Path | None) -> Iterator[Kept]:
    """The answers at `path`, made if there are none; without a path they are kept while the context lasts.

    Raises `KeptError` for a file that is something else, is damaged, or cannot be written.
    """
    try:
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            # Made before SQLite opens it, since what it puts beside the file takes after it.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        with closing(sqlite3.connect(path or ":memory:", timeout=60)) as connection:
            _prepare(connection, path)
            yield Kept(connection)
    except sqlite3.Error as error:
        raise KeptError(
            f"could not use the kept answers {path} ({error}): what was written is safe; make room or name another "
            "file, and move a damaged one away"
        ) from error


def _prepare(connection: sqlite3.Connection, path: str | Path | None) -> None:
    tables, application, version = (
        connection.execute(asked).fetchone()[0]
        for asked in ("SELECT count(*) FROM sqlite_master", "PRAGMA application_id", "PRAGMA user_version")
    )
    if tables and (application, version) != (APPLICATION, VERSION):
        raise KeptError(
            f"{path} is a file of SQLite, but not of kept answers of this version: name another, nothing was changed"
        )
    if path is not None:
        os.chmod(path, 0o600)  # a copy may have come with other rights
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    if not tables:
        connection.executescript(
            f"BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION}; {_TABLE} COMMIT;"
        )
