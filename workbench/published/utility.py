"""Tasks with an answer that can be checked: mathematics, medicine, knowledge and finance.

Multiple choice is the question, an empty line and an option a line, `A. ...`; its answer is the letter. How a reply is
to be worded is left to whoever asks: give it as a system message.

The trap: MedMCQA counts its options from 1 on GitHub and from 0 on the hub. Its files end differently, and an index
that the other way alone could mean is refused.
"""

from collections.abc import Mapping
from typing import Any

from workbench.prompts import Prompt
from workbench.published.cells import number, numbered, said, shared
from workbench.published.registry import Layout, Part, PublishedSet, Read
from workbench.published.tables import TEXT, Fields

LETTERS = "ABCDEFGHIJ"
MOODS = ("negative", "neutral", "positive")
"""In the order in which the hub counts Financial PhraseBank's labels."""
NEUTRAL = 0.1
"""FiQA's scores reach from -1 to 1; below -0.1 is negative and from 0.1 on positive, FinGPT's convention."""
ASKED = {
    "Price or Not": "speak of the price of gold",
    "Price Direction Up": "say that the price of gold goes up", "Direction Up": "say that the price of gold goes up",
    "Price Direction Constant": "say that the price of gold stays as it is",
    "Direction Constant": "say that the price of gold stays as it is",
    "Price Direction Down": "say that the price of gold goes down",
    "Direction Down": "say that the price of gold goes down",
    "PastPrice": "speak of a price in the past", "FuturePrice": "speak of a price in the future",
    "Past Information": "speak of something in the past",
    "PastNews": "speak of an event in the past, other than a price",
    "Future Information": "speak of something in the future",
    "FutureNews": "speak of an event in the future, other than a price",
    "Asset Comparision": "compare gold with another asset",
}  # fmt: skip
"""What each column of the gold headlines asks, the published spelling included."""


def _gsm8k(row: Fields) -> Prompt:
    _, marked, answer = said(row, "answer").rpartition("####")
    if not marked:
        raise ValueError("got an answer without ####, expected the number after it")
    return Prompt.user(said(row, "question"), label="domain", answer=answer.strip().replace(",", ""))


def _svamp(row: Fields) -> Prompt:
    answer = number(row, "Answer")
    return Prompt.user(
        f"{said(row, 'Body')} {said(row, 'Question')}",
        label="domain",
        source=numbered(row, "ID"),
        cluster=shared(row, {"category": "Type"}),
        answer=str(int(answer)) if answer.is_integer() else str(answer),
    )


def _chosen(
    row: Fields, options: Mapping[str, Any], answer: str | None, clusters: Mapping[str, str]
) -> Prompt:
    if answer is not None and answer not in options:
        raise ValueError(f"got answer {answer!r}, expected one of {', '.join(options)}")
    lines = "\n".join(f"{letter}. {_option(option)}".rstrip() for letter, option in options.items())
    return Prompt.user(
        f"{said(row, 'question')}\n\n{lines}",
        label="domain",
        source=numbered(row),
        cluster=shared(row, clusters),
        answer=answer,
    )


def _option(value: Any) -> str:
    """An option as it is published; some are empty."""
    if value is not None and not isinstance(value, str | int | float):
        raise ValueError(f"got option {value!r}, expected a text")
    return "" if value is None else str(value).strip()


def _medqa(row: Fields) -> Prompt:
    options = row.get("options")
    if not isinstance(options, dict) or not options:
        raise ValueError(f"got options {options!r}, expected an object from letters to texts")
    return _chosen(row, options, said(row, "answer_idx"), {"category": "meta_info"})


def _medmcqa(first: int) -> Read:
    """A reader of the layout whose `cop` is `first` for option A; the test part has no `cop`, or -1."""

    def read(row: Fields) -> Prompt:
        options = {letter: row.get(f"op{letter.lower()}") for letter in "ABCD"}
        if row.get("cop") in (None, "", -1, "-1"):
            return _chosen(row, options, None, {"category": "subject_name"})
        return _chosen(row, options, _letter(row, "cop", 4, first), {"category": "subject_name"})

    return read


def _letter(row: Fields, column: str, n: int, first: int = 0) -> str:
    """The letter of the right option of `n`, whose place counts from `first`."""
    place = number(row, column) - first
    if place not in range(n):
        raise ValueError(
            f"got {column} {row[column]!r} for the right option, expected {first} to {first + n - 1}"
        )
    return LETTERS[int(place)]


def _mmlu(row: Fields) -> Prompt:
    options = row.get("choices")
    if not isinstance(options, list) or not options:
        raise ValueError(f"got choices {options!r}, expected a list of texts")
    lettered = dict(zip(LETTERS, options, strict=False))
    return _chosen(row, lettered, _letter(row, "answer", len(lettered)), {"category": "subject"})


def _mmlu_bare(row: Fields) -> Prompt:
    return _chosen(row, {letter: row.get(letter) for letter in "ABCD"}, said(row, "answer"), {})


def _mmlu_asked(row: Fields) -> Prompt:
    answer = said(row, "answer")
    if answer not in LETTERS:
        raise ValueError(f"got answer {answer!r}, expected a letter")
    asked = Prompt.user(said(row, "prompt"), label="domain", answer=answer)
    return asked.with_system(said(row, "system"))


def _pubmedqa(row: Fields) -> Prompt:
    # The hub's rows have the passages one level down.
    passages = row["CONTEXTS"] if "CONTEXTS" in row else (row.get("context") or {}).get("contexts")
    answer = said(row, "final_decision")
    if answer not in ("yes", "no", "maybe"):
        raise ValueError(f"got final_decision {answer!r}, expected yes, no or maybe")
    if not isinstance(passages, list) or not all(isinstance(passage, str) for passage in passages):
        raise ValueError(f"got passages {passages!r}, expected a list of texts")
    told = [passage.strip() for passage in passages if passage.strip()]
    return Prompt.user(
        "\n\n".join([*told, said(row, "QUESTION" if "QUESTION" in row else "question")]),
        label="domain",
        source=numbered(row, "pubid" if "pubid" in row else "id"),
        answer=answer,
    )


def _mood(text: str, answer: str, source: str = "", about: str = "") -> Prompt:
    of = f"towards {about} " if about else ""
    return Prompt.user(
        f"Is the sentiment of this text {of}negative, neutral or positive?\n\n{text}",
        label="domain",
        source=source,
        answer=answer,
    )


def _phrasebank(row: Fields) -> Prompt:
    sentence, marked, mood = said(row, TEXT).rpartition("@")
    if not marked or mood not in MOODS:
        raise ValueError(f"got a line without one of {', '.join(MOODS)} after its last @")
    return _mood(sentence.strip(), mood)


def _phrasebank_table(row: Fields) -> Prompt:
    named = dict(enumerate(MOODS)) | dict(zip(MOODS, MOODS, strict=True))
    if (mood := named.get(row.get("label", ""))) is None:
        raise ValueError(f"got label {row.get('label')!r}, expected {', '.join(MOODS)}, or 0 to 2 for them")
    return _mood(said(row, "sentence"), mood)


def _fiqa(row: Fields) -> Prompt:
    score = number(row, "sentiment_score")
    mood = MOODS[(score >= -NEUTRAL) + (score >= NEUTRAL)]
    return _mood(said(row, "sentence"), mood, numbered(row), str(row.get("target") or "").strip())


def _fiqa_published(row: Fields) -> tuple[Prompt, ...]:
    found = row.get("info")
    if not isinstance(found, list) or not found:
        raise ValueError(f"got info {found!r}, expected a list with a target and a score each")
    return tuple(_fiqa({**row, **info}) for info in found)


def _headline(row: Fields) -> tuple[Prompt, ...]:
    """A question for each column, to be answered yes or no."""
    news = said(row, "News")
    asked = {column: what for column, what in ASKED.items() if column in row}
    for column in asked:
        if str(row[column]) not in ("0", "1"):
            raise ValueError(f"got {column} {row[column]!r}, expected 0 or 1")
    return tuple(
        Prompt.user(
            f"Does this headline {what}: yes or no?\n\n{news}",
            label="domain",
            cluster=(("question", column), ("headline", news)),
            answer="yes" if str(row[column]) == "1" else "no",
        )
        for column, what in asked.items()
    )


_OPTIONS = ("question", "opa", "opb", "opc", "opd")
_AGREE = "*entences_{}gree*"

UTILITY = (
    PublishedSet(
        name="gsm8k", kind="utility", form="JSON lines",
        about="Word problems of grade school.",
        labels="domain", clusters=(), answers="the number after ####", licence="MIT",
        home="github.com/openai/grade-school-math: grade_school_math/data/test.jsonl",
        parts=(Part("test", ("*grade_school_math/data/test.jsonl", "*gsm8k*test*"), 1319,
                    ("openai/gsm8k", "main", "test")),
               Part("train", ("*grade_school_math/data/train.jsonl", "*gsm8k*train*"), 7473,
                    ("openai/gsm8k", "main", "train"))),
        layouts=(Layout(("question", "answer"), _gsm8k),),
    ),
    PublishedSet(
        name="svamp", kind="utility", form="JSON, a list",
        about="Word problems of one step, worded to mislead.",
        labels="domain", clusters=("category",), answers="the number", licence="MIT",
        home="github.com/arkilpatel/SVAMP: SVAMP.json",
        parts=(Part("all", ("SVAMP.json",), 1000),
               Part("test", ("*svamp*test*",), 300, ("ChilleD/SVAMP", None, "test")),
               Part("train", ("*svamp*train*",), 700, ("ChilleD/SVAMP", None, "train"))),
        layouts=(Layout(("Body", "Question", "Answer"), _svamp),),
    ),
    PublishedSet(
        name="medqa", kind="utility", form="JSON lines",
        about="Questions of the US medical licensing exam, four or five options.",
        labels="domain", clusters=("category",), answers="the letter", licence="MIT (its copy on the hub: CC BY 4.0)",
        home="github.com/jind11/MedQA: data_clean/questions/US/4_options/phrases_no_exclude_test.jsonl",
        parts=(Part("test", ("phrases_no_exclude_test.jsonl", "*medqa*test*"), 1273,
                    ("GBaker/MedQA-USMLE-4-options", None, "test")),
               Part("dev", ("phrases_no_exclude_dev.jsonl", "*medqa*dev*"), 1272),
               Part("train", ("phrases_no_exclude_train.jsonl", "*medqa*train*"), 10178,
                    ("GBaker/MedQA-USMLE-4-options", None, "train"))),
        layouts=(Layout(("question", "options", "answer_idx"), _medqa),),
    ),
    PublishedSet(
        name="medmcqa", kind="utility", form="JSON lines, named .json",
        about="Questions of Indian medical entrance exams, four options.",
        labels="domain", clusters=("category",), answers="the letter; none in the test part", licence="Apache-2.0",
        home="github.com/medmcqa/medmcqa: train.json, dev.json, test.json (JSON lines)",
        parts=(Part("dev", ("*medmcqa*dev*", "*medmcqa*validation*"), 4183,
                    ("openlifescienceai/medmcqa", None, "validation")),
               Part("train", ("*medmcqa*train*",), 182822, ("openlifescienceai/medmcqa", None, "train")),
               Part("test", ("*medmcqa*test*",), 6150, ("openlifescienceai/medmcqa", None, "test"))),
        layouts=(Layout(_OPTIONS, _medmcqa(1), suffixes=(".json",)), Layout(_OPTIONS, _medmcqa(0))),
    ),
    PublishedSet(
        name="pubmedqa", kind="utility", form="JSON, an object by id",
        about="Questions on abstracts of research, to be answered yes, no or maybe.",
        labels="domain", clusters=(), answers="yes, no or maybe", licence="MIT",
        home="github.com/pubmedqa/pubmedqa: data/ori_pqal.json",
        parts=(Part("labelled", ("*ori_pqal.json", "*pubmed*qa*"), 1000,
                    ("qiaojin/PubMedQA", "pqa_labeled", "train")),),
        layouts=(Layout(("QUESTION", "CONTEXTS", "final_decision"), _pubmedqa),
                 Layout(("question", "context", "final_decision"), _pubmedqa)),
    ),
    PublishedSet(
        name="mmlu", kind="utility", form="csv",
        about="Questions of 57 subjects, four options.",
        labels="domain", clusters=("category",), answers="the letter", licence="MIT",
        home="github.com/hendrycks/test: data/test/SUBJECT_test.csv; or a table with system, prompt and answer",
        parts=(Part("test", ("*mmlu*test*", "*data/test/*_test.csv"), 14042, ("cais/mmlu", "all", "test")),
               Part("1k", ("mmlu.csv",), 1000)),
        layouts=(Layout(("system", "prompt", "answer"), _mmlu_asked),
                 Layout(("question", "subject", "choices", "answer"), _mmlu),
                 Layout(("question", "A", "B", "C", "D", "answer"), _mmlu_bare, headerless=True)),
    ),
    PublishedSet(
        name="financial-phrasebank", kind="utility", form="text, `sentence@label` a line, Latin-1",
        about="Sentences of financial news and their sentiment.",
        labels="domain", clusters=(), answers="negative, neutral or positive", licence="CC BY-NC-SA 3.0",
        home="FinancialPhraseBank-v1.0.zip by Malo et al., linked from the hub's takala/financial_phrasebank",
        parts=(Part("50", (_AGREE.format("50A"),), 4846), Part("66", (_AGREE.format("66A"),), 4217),
               Part("75", (_AGREE.format("75A"),), 3453), Part("all", (_AGREE.format("AllA"),), 2264)),
        layouts=(Layout((TEXT,), _phrasebank, suffixes=(".txt",)), Layout(("sentence", "label"), _phrasebank_table)),
        fallback="latin-1",
    ),
    PublishedSet(
        name="fiqa-sa", kind="utility", form="JSON, an object by id; csv",
        about="Headlines and posts on finance, the sentiment towards each target.",
        labels="domain", clusters=(), answers="negative, neutral or positive, cut at -0.1 and 0.1",
        licence="none stated",
        home="FiQA 2018, task 1: task1_headline_ABSA_train.json, task1_post_ABSA_train.json",
        parts=(Part("headlines", ("*headline_ABSA_train.json",)), Part("posts", ("*post_ABSA_train.json",)),
               Part("test", ("*fiqa*test*",), None, ("pauri32/fiqa-2018", None, "test")),
               Part("train", ("*fiqa*train*",), None, ("pauri32/fiqa-2018", None, "train"))),
        layouts=(Layout(("sentence", "info"), _fiqa_published),
                 Layout(("sentence", "target", "sentiment_score"), _fiqa)),
    ),
    PublishedSet(
        name="headline", kind="utility", form="csv",
        about="Headlines on gold; each column of tags is a question, yes or no.",
        labels="domain", clusters=("question", "headline"), answers="yes or no", licence="CC BY-NC-ND 4.0",
        home="Kaggle: ankurzing/sentiment-analysis-in-commodity-market-gold",
        parts=(Part("all", ("*gold*.csv",), 10570),
               Part("test", ("*headline*test*",), 2114,
                    ("SaguaroCapital/sentiment-analysis-in-commodity-market-gold", None, "test"))),
        layouts=(Layout(("News", "Asset Comparision"), _headline),),
    ),
)  # fmt: skip
"""Tasks with an answer."""
