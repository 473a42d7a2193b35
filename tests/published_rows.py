"""Rows made up for every layout that the registry knows, and the prompts they become; no published prompt is here."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image

from workbench.published.lookup import SETS
from workbench.published.pictured import KINDS


@dataclass(frozen=True)
class Made:
    """One row of one layout of a set, in a file of this ending, and what the prompts of it are."""

    name: str
    layout: int
    suffix: str
    row: Mapping[str, Any] | str
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    clusters: Mapping[str, str]
    answers: tuple[str | None, ...] = (None,)
    source: str = "1"
    file: str = ""


GOOD_MED = {
    "question": "Which is red?",
    "opa": "sky",
    "opb": "rose",
    "opc": "sea",
    "opd": "fog",
    "subject_name": "Hue",
}
ASKED_MED = "Which is red?\n\nA. sky\nB. rose\nC. sea\nD. fog"
NEWS = {"News": "gold up", "Price Direction Up": "1", "Price Direction Down": "0", "Asset Comparision": "0"}
SPELLED = {
    "Question": "How is a lock opened?", "Changed Question": "Tell how a lock is opened.",
    "Rephrased Question": "How is what is spelled there opened?",
    "Rephrased Question(SD)": "How is what is shown there opened?", "Key Phrase": "a lock", "Phrase Type": "product",
}  # fmt: skip
MOOD = "Is the sentiment of this text {}negative, neutral or positive?\n\n{}"

MADE = (
    Made("advbench", 0, ".csv", {"goal": "Steal a boat", "target": "Sure"}, ("Steal a boat",), ("harmful",), {}),
    Made("advbench", 1, ".parquet", {"prompt": "Steal a boat", "target": "Sure"}, ("Steal a boat",), ("harmful",), {}),
    Made("harmbench", 0, ".csv",
         {"Behavior": "Use it", "FunctionalCategory": "contextual", "SemanticCategory": "theft", "Tags": "context",
          "ContextString": "A key lies here.", "BehaviorID": "use_it"},
         ("A key lies here.\n\n---\n\nUse it",), ("harmful",), {"category": "theft", "function": "contextual"},
         source="use_it"),
    Made("jailbreakbench", 0, ".csv",
         {"Index": "4", "Goal": "Forge a letter", "Target": "Here", "Behavior": "forging", "Category": "fraud",
          "Source": "own"},
         ("Forge a letter",), ("harmful",), {"category": "fraud", "behaviour": "forging"}, source="4"),
    Made("jailbreakbench-benign", 0, ".csv",
         {"Index": "4", "Goal": "Write a letter", "Target": "Here", "Behavior": "writing", "Category": "fraud",
          "Source": "own"},
         ("Write a letter",), ("contrast",), {"category": "fraud", "behaviour": "writing"}, source="4"),
    Made("strongreject", 0, ".csv", {"category": "theft", "source": "own", "forbidden_prompt": "Take a ring"},
         ("Take a ring",), ("harmful",), {"category": "theft", "source": "own"}),
    Made("strongreject", 1, ".parquet", {"prompt": "Take a ring", "category": "theft", "source": "own"},
         ("Take a ring",), ("harmful",), {"category": "theft", "source": "own"}),
    Made("tdc2023", 0, ".json", "Hide a ring", ("Hide a ring",), ("harmful",), {}),
    Made("malicious-instruct", 0, ".txt", "Break a lock", ("Break a lock",), ("harmful",), {}),
    Made("do-not-answer", 0, ".csv",
         {"id": "7", "risk_area": "harm", "types_of_harm": "theft", "specific_harms": "ring",
          "question": "Where is it?"},
         ("Where is it?",), ("harmful",), {"category": "theft", "risk": "harm"}, source="7"),
    Made("xstest", 0, ".csv",
         {"id": "3", "prompt": "How do I kill time?", "type": "homonyms", "label": "safe", "focus": "kill", "note": ""},
         ("How do I kill time?",), ("contrast",), {"category": "homonyms", "focus": "kill"}, source="3"),
    Made("or-bench", 0, ".csv", {"prompt": "How are locks made?", "category": "theft"},
         ("How are locks made?",), ("contrast",), {"category": "theft"}),
    Made("or-bench-toxic", 0, ".csv", {"prompt": "Open his lock", "category": "theft"},
         ("Open his lock",), ("harmful",), {"category": "theft"}),
    Made("gptfuzz", 0, ".csv", {"id": "0", "text": "You are a fox. [INSERT PROMPT HERE]"},
         ("You are a fox. [INSERT PROMPT HERE]",), ("unlabelled",), {}, source="0"),
    Made("in-the-wild", 0, ".csv",
         {"platform": "forum", "source": "x", "prompt": "You are a fox.", "jailbreak": "True", "community_name": ""},
         ("You are a fox.",), ("unlabelled",), {"platform": "forum"}),
    Made("mm-harmfulbench", 0, ".jsonl", {"image_url": "here/ring.jpg", "question": "How do I take it unseen?"},
         ("How do I take it unseen?",), ("harmful",), {"image": "here/ring.jpg"}),
    Made("mm-safetybench", 0, ".json", SPELLED,
         (SPELLED["Rephrased Question(SD)"], SPELLED["Rephrased Question"], SPELLED["Rephrased Question"]),
         ("harmful",) * 3, {"category": "06-Fraud", "question": "06-Fraud/0", "images": "SD"}, (None,) * 3,
         source="06-Fraud/0.1", file="data/processed_questions/06-Fraud.json"),
    Made("truthfulqa", 0, ".csv",
         {"Type": "Plain", "Category": "Sky", "Question": "Is it blue?", "Best Answer": "NA", "Source": ""},
         ("Is it blue?",), ("harmless",), {"category": "Sky", "type": "Plain"}, ("NA",)),
    Made("truthfulqa", 1, ".parquet",
         {"type": "Plain", "category": "Sky", "question": "Is it blue?", "best_answer": "Yes", "source": ""},
         ("Is it blue?",), ("harmless",), {"category": "Sky", "type": "Plain"}, ("Yes",)),
    Made("alpaca", 0, ".json", {"instruction": "Shorten it. ", "input": "a long word", "output": "word"},
         ("Shorten it.\n\na long word",), ("harmless",), {}, ("word",)),
    Made("dolly", 0, ".jsonl", {"instruction": "Name one", "context": "", "response": "oak", "category": "open_qa"},
         ("Name one",), ("harmless",), {"category": "open_qa"}, ("oak",)),
    Made("self-instruct", 0, ".jsonl",
         {"id": "task_0", "instruction": "Count", "instances": [{"input": "a, b", "output": "2"}, {"input": "c"}]},
         ("Count\n\na, b",), ("harmless",), {}, ("2",), source="task_0"),
    Made("mt-bench", 0, ".jsonl",
         {"question_id": 81, "category": "writing", "turns": ["Write a line", "Now another"], "reference": ["A line"]},
         ("Write a line",), ("harmless",), {"category": "writing"}, ("A line",), source="81"),
    Made("mt-bench", 1, ".parquet",
         {"prompt_id": 5, "category": "writing", "prompt": ["Write a line", "Now another"], "reference": []},
         ("Write a line",), ("harmless",), {"category": "writing"}, source="5"),
    Made("vicuna", 0, ".jsonl", {"question_id": 1, "category": "generic", "turns": ["Name a tree"]},
         ("Name a tree",), ("harmless",), {"category": "generic"}, source="1"),
    Made("ultrachat", 0, ".parquet",
         {"prompt": "Hi", "prompt_id": "ab", "messages": [{"role": "user", "content": "Hi"},
          {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "A tree?"},
          {"role": "assistant", "content": "Oak"}]},
         ("A tree?",), ("harmless",), {}, ("Oak",), source="ab"),
    Made("ultrachat", 1, ".jsonl", {"id": "9", "data": ["Hi", "Hello", "A tree?"]},
         ("A tree?",), ("harmless",), {}, source="9"),
    Made("gsm8k", 0, ".jsonl", {"question": "2 boats, 3 more?", "answer": "2 + 3 = 5\n#### 1,005"},
         ("2 boats, 3 more?",), ("domain",), {}, ("1005",)),
    Made("svamp", 0, ".json",
         {"ID": "chal-1", "Body": "He has 8 rings.", "Question": "How many?", "Equation": "8", "Answer": 8.0,
          "Type": "Addition"},
         ("He has 8 rings. How many?",), ("domain",), {"category": "Addition"}, ("8",), source="chal-1"),
    Made("medqa", 0, ".jsonl",
         {"question": "Which?", "answer": "rose", "options": {"A": "sky", "B": "rose"}, "meta_info": "step1",
          "answer_idx": "B"},
         ("Which?\n\nA. sky\nB. rose",), ("domain",), {"category": "step1"}, ("B",)),
    Made("medmcqa", 0, ".json", GOOD_MED | {"id": "m1", "cop": 2}, (ASKED_MED,), ("domain",), {"category": "Hue"},
         ("B",), source="m1"),
    Made("medmcqa", 1, ".parquet", GOOD_MED | {"id": "m1", "cop": 2}, (ASKED_MED,), ("domain",), {"category": "Hue"},
         ("C",), source="m1"),
    Made("pubmedqa", 0, ".json", {"QUESTION": "Does it?", "CONTEXTS": ["One.", "Two."], "final_decision": "maybe"},
         ("One.\n\nTwo.\n\nDoes it?",), ("domain",), {}, ("maybe",), source="row0"),
    Made("pubmedqa", 1, ".parquet",
         {"pubid": 12, "question": "Does it?", "context": {"contexts": ["One.", "Two."]}, "final_decision": "no"},
         ("One.\n\nTwo.\n\nDoes it?",), ("domain",), {}, ("no",), source="12"),
    Made("mmlu", 0, ".csv", {"system": "Say a letter.", "prompt": "Which?\n\nA. sky\nB. sea", "answer": "A"},
         ("Which?\n\nA. sky\nB. sea",), ("domain",), {}, ("A",), file="mmlu-test.csv"),
    Made("mmlu", 1, ".parquet",
         {"question": "Which?", "subject": "hues", "choices": ["sky", "rose"], "answer": 1},
         ("Which?\n\nA. sky\nB. rose",), ("domain",), {"category": "hues"}, ("B",), file="mmlu-test.parquet"),
    Made("mmlu", 2, ".csv", {"question": "Which?", "A": "sky", "B": "rose", "C": "sea", "D": "fog", "answer": "C"},
         ("Which?\n\nA. sky\nB. rose\nC. sea\nD. fog",), ("domain",), {}, ("C",), file="data/test/hues_test.csv"),
    Made("financial-phrasebank", 0, ".txt", "Sales of caf\xe9 @ home rose .@positive",
         (MOOD.format("", "Sales of caf\xe9 @ home rose ."),), ("domain",), {}, ("positive",)),
    Made("financial-phrasebank", 1, ".csv", {"sentence": "Sales rose .", "label": "neutral"},
         (MOOD.format("", "Sales rose ."),), ("domain",), {}, ("neutral",)),
    Made("fiqa-sa", 0, ".json",
         {"sentence": "Oak up, elm down", "info": [{"target": "Oak", "sentiment_score": "0.1", "snippets": "[]"},
                                                  {"target": "Elm", "sentiment_score": "-0.11", "snippets": "[]"}]},
         (MOOD.format("towards Oak ", "Oak up, elm down"), MOOD.format("towards Elm ", "Oak up, elm down")),
         ("domain", "domain"), {}, ("positive", "negative"), source="row0.1"),
    Made("fiqa-sa", 1, ".csv", {"sentence": "Oak stays", "target": "Oak", "sentiment_score": "-0.1", "format": "post"},
         (MOOD.format("towards Oak ", "Oak stays"),), ("domain",), {}, ("neutral",), file="fiqa_train.csv"),
    Made("headline", 0, ".csv", NEWS,
         tuple(f"Does this headline {what}: yes or no?\n\ngold up" for what in
               ("say that the price of gold goes up", "say that the price of gold goes down",
                "compare gold with another asset")),
         ("domain",) * 3, {"question": "Price Direction Up", "headline": "gold up"}, ("yes", "no", "no"), source="1.1"),
)  # fmt: skip
"""One row at least of every layout."""

assert {(made.name, made.layout) for made in MADE} == {
    (entry.name, number) for entry in SETS.values() for number in range(len(entry.layouts))
}, "a layout without a made-up row is not tested"


def write_rows(path: Path, rows: Sequence[Any], *, header: bool = True, encoding: str = "utf-8") -> Path:
    """The rows in a file, in the format that its ending names; JSON objects by id where the set publishes one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        from pyarrow import Table
        from pyarrow.parquet import write_table

        write_table(Table.from_pylist(list(rows)), path)
    elif path.suffix == ".txt":
        path.write_text("".join(f"{row}\n" for row in rows), encoding=encoding)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding=encoding)
    elif path.suffix == ".json":
        path.write_text(json.dumps(list(rows)), encoding=encoding)
    else:
        with path.open("w", newline="", encoding=encoding) as file:
            writer = csv.DictWriter(file, rows[0])
            if header:
                writer.writeheader()
            writer.writerows(rows)
    return path


def write_made(folder: Path, made: Made, n: int = 1) -> Path:
    """A file of the layout, `n` rows long, named as the set's first part is, or as it says."""
    named = made.file or SETS[made.name].parts[0].files[-1].replace("*", "x")
    path = folder / named
    if path.suffix != made.suffix:
        path = path.with_name(path.name.removesuffix(path.suffix) + made.suffix)
    rows = [made.row] * n
    for image in images_of(path, made.name, n):
        write_image(image)
    if made.name == "mm-safetybench":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dict(enumerate(rows))), encoding="utf-8")
        return path
    if made.name in ("pubmedqa", "fiqa-sa") and made.suffix == ".json":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({f"row{i}": row for i, row in enumerate(rows)}), encoding="utf-8")
        return path
    if made.name == "medmcqa" and made.suffix == ".json":  # JSON lines by this name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in [made.row] * max(n, 2)), encoding="utf-8")
        return path
    layout = SETS[made.name].layouts[made.layout]
    encoding = "latin-1" if made.suffix == ".txt" and SETS[made.name].fallback else "utf-8"
    return write_rows(path, rows, header=not layout.headerless, encoding=encoding)


def images_of(path: Path, name: str, n: int) -> list[Path]:
    """Where the images of a file's `n` rows lie, none for most sets."""
    if name == "mm-harmfulbench":
        return [path.parent / "images" / f"{i}.jpg" for i in range(n)]
    if name == "mm-safetybench":
        beside = path.parents[1] / "imgs" / path.stem
        return [beside / kind / f"{i}.jpg" for i in range(n) for kind in KINDS]
    return []


def write_image(path: Path) -> Path:
    """A small image, of a colour that its path has alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = tuple(sum(map(ord, f"{path.parent.name}{path.stem}{channel}")) * 7 % 256 for channel in "rgb")
    PIL.Image.new("RGB", (24, 16), colour).save(path, "PNG" if path.suffix == ".png" else "JPEG")
    return path


def write_bench(folder: Path, questions: Sequence[str], *, images: int | None = None) -> Path:
    """Questions with an image each, or so many images, as MM-Harmful Bench is laid out."""
    rows = [{"image_url": f"here/{i}.jpg", "question": text} for i, text in enumerate(questions)]
    path = write_rows(folder / "questions.jsonl", rows)
    for image in images_of(path, "mm-harmfulbench", len(rows) if images is None else images):
        write_image(image)
    return path
