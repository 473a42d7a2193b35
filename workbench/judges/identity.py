"""What tells a judge from every other: by this a ledger that keeps no texts knows whose verdicts it holds.

    a function            its name, the file that defines it, and the shipped data that it reads
    one with an `id`      that

The trap: what a judge says lies in its words as much as in its code. An edited form is another judge.
"""

import inspect
from pathlib import Path
from types import FunctionType

from workbench.judges import phrases, refusals, small_world
from workbench.judges.verdicts import ExchangeJudge, Judge
from workbench.provenance import content_hash
from workbench.shipped import shipped_path

_READS = {
    refusals.__name__: (phrases.__file__, ("refusals", "*.toml")),
    small_world.__name__: (small_world.__file__, ("world", "words.toml")),
}
"""By module: the other file of code that speaks in its verdicts, and the shipped files."""


def judge_id(judge: Judge) -> str | None:
    """A hash that changes with what is said of any exchange; None for a function without a name of its own.

    All of the file that defines a function counts, since its words and helpers may stand anywhere in there. One that
    carries a state has neither name nor file.
    """
    if isinstance(judge, ExchangeJudge):
        return judge.id
    judge = inspect.unwrap(judge)
    if not isinstance(judge, FunctionType) or "<" in judge.__qualname__ or judge.__closure__:
        return None
    text = _source(judge)
    return (
        content_hash(judge.__module__, judge.__qualname__, text, _read_by(judge.__module__)) if text else None
    )


def _read_by(module: str) -> list[bytes]:
    """What a judge of the project's own reads beside its own file."""
    if module not in _READS:
        return []
    code, (folder, names) = _READS[module]
    return [path.read_bytes() for path in (Path(code), *sorted(shipped_path(folder).glob(names)))]


def _source(judge: FunctionType) -> str:
    """The text of the file that defines it, or of its cell; empty where nobody has it any more."""
    file = Path(inspect.getsourcefile(judge) or "")
    try:
        return file.read_text(encoding="utf-8") if file.is_file() else inspect.getsource(judge)
    except OSError:
        return ""
