"""Questions and instructions that anyone may ask, and dialogues: who publishes them, and how they are read.

The trap: nobody has looked through fifty thousand instructions. Alpaca, Dolly and UltraChat are harmless as a whole,
not each of them.
"""

from collections.abc import Sequence
from itertools import cycle
from typing import Any

from workbench.prompts import Prompt
from workbench.published.cells import first_turn, numbered, plain, said, shared
from workbench.published.registry import Layout, Part, PublishedSet
from workbench.published.tables import Fields


def _instruction(row: Fields, about: object, reply: object) -> Prompt:
    """An instruction and what it is about, an empty line between them."""
    text = said(row, "instruction")
    return Prompt.user(
        f"{text}\n\n{about.strip()}" if isinstance(about, str) and about.strip() else text,
        label="harmless",
        source=numbered(row),
        cluster=shared(row, {"category": "category"}),
        answer=str(reply) if reply else None,
    )


def _alpaca(row: Fields) -> Prompt:
    return _instruction(row, row.get("input"), row.get("output"))


def _dolly(row: Fields) -> Prompt:
    return _instruction(row, row.get("context"), row.get("response"))


def _self_instruct(row: Fields) -> Prompt:
    instances = row.get("instances")
    if not isinstance(instances, list) or not instances or not isinstance(instances[0], dict):
        raise ValueError(f"got instances {instances!r}, expected a list of inputs and outputs")
    return _instruction(row, instances[0].get("input"), instances[0].get("output"))


def _messages(row: Fields) -> Prompt:
    return _dialogue(row, [(said(turn, "role"), turn.get("content")) for turn in _listed(row, "messages")])


def _turns(row: Fields) -> Prompt:
    return _dialogue(row, list(zip(cycle(("user", "assistant")), _listed(row, "data"), strict=False)))


def _listed(row: Fields, column: str) -> list[Any]:
    value = row.get(column)
    if not isinstance(value, list) or not value:
        raise ValueError(f"got {column} {value!r}, expected a list of turns")
    return value


def _dialogue(row: Fields, turns: Sequence[tuple[str, Any]]) -> Prompt:
    """Everything up to the last question; the answer is what follows it. Some published turns are empty."""
    for _, text in turns:
        if not isinstance(text, str):
            raise ValueError(f"got a turn {text!r}, expected a text")
    messages = [(role, text.strip()) for role, text in turns]
    asked = [place for place, (role, text) in enumerate(messages) if role == "user" and text]
    if not asked:
        raise ValueError("got no turn of the user's, expected one")
    end = asked[-1] + 1
    return Prompt(
        tuple(messages[:end]),
        label="harmless",
        source=numbered(row, "prompt_id" if "prompt_id" in row else "id"),
        answer=(messages[end][1] or None) if len(messages) > end else None,
    )


_TRUTHFUL = {"category": "Category", "type": "Type"}
_MT_BENCH = Layout(
    ("question_id", "category", "turns"), first_turn("turns", "harmless", number="question_id")
)

HARMLESS = (
    PublishedSet(
        name="truthfulqa", kind="harmless", form="csv",
        about="Questions that people answer wrongly, the paper's harmless set.",
        labels="harmless", clusters=("category", "type"), answers="the best answer", licence="Apache-2.0",
        home="github.com/sylinrl/TruthfulQA: TruthfulQA.csv",
        parts=(Part("all", ("*truthful*qa*",), 817, ("truthfulqa/truthful_qa", "generation", "validation")),),
        layouts=(Layout(("Question", "Category", "Best Answer"),
                        plain("Question", "harmless", clusters=_TRUTHFUL, answer="Best Answer")),
                 Layout(("question", "category", "best_answer"),
                        plain("question", "harmless", clusters={"category": "category", "type": "type"},
                              answer="best_answer"))),
    ),
    PublishedSet(
        name="alpaca", kind="harmless", form="JSON, a list",
        about="Instructions written by a model, some with an input.",
        labels="harmless", clusters=(), answers="the reply", licence="CC BY-NC 4.0",
        home="github.com/tatsu-lab/stanford_alpaca: alpaca_data.json",
        parts=(Part("all", ("*alpaca*",), 52002, ("tatsu-lab/alpaca", None, "train")),),
        layouts=(Layout(("instruction", "input", "output"), _alpaca),),
    ),
    PublishedSet(
        name="dolly", kind="harmless", form="JSON lines",
        about="Instructions written by people, some with a context.",
        labels="harmless", clusters=("category",), answers="the reply", licence="CC BY-SA 3.0",
        home="the hub: databricks/databricks-dolly-15k, databricks-dolly-15k.jsonl",
        parts=(Part("all", ("*dolly*",), 15011, ("databricks/databricks-dolly-15k", None, "train")),),
        layouts=(Layout(("instruction", "context", "response"), _dolly),),
    ),
    PublishedSet(
        name="self-instruct", kind="harmless", form="JSON lines",
        about="Seed tasks written by people; the first instance of each.",
        labels="harmless", clusters=(), answers="the first instance's output", licence="Apache-2.0",
        home="github.com/yizhongw/self-instruct: data/seed_tasks.jsonl",
        parts=(Part("all", ("*seed_tasks.jsonl",), 175),),
        layouts=(Layout(("instruction", "instances"), _self_instruct),),
    ),
    PublishedSet(
        name="mt-bench", kind="harmless", form="JSON lines",
        about="Open questions in eight categories; the first of two turns.",
        labels="harmless", clusters=("category",), answers="a reference, where there is one", licence="Apache-2.0",
        home="github.com/lm-sys/FastChat: fastchat/llm_judge/data/mt_bench/question.jsonl",
        parts=(Part("all", ("*mt*bench*",), 80, ("HuggingFaceH4/mt_bench_prompts", None, "train")),),
        layouts=(_MT_BENCH,
                 Layout(("prompt", "category", "reference"), first_turn("prompt", "harmless", number="prompt_id"))),
    ),
    PublishedSet(
        name="vicuna", kind="harmless", form="JSON lines",
        about="Open questions in nine categories, MT-Bench's forerunner.",
        labels="harmless", clusters=("category",), answers="none", licence="Apache-2.0",
        home="github.com/lm-sys/FastChat: fastchat/llm_judge/data/vicuna_bench/question.jsonl",
        parts=(Part("all", ("*vicuna*question.jsonl",), 80),),
        layouts=(_MT_BENCH,),
    ),
    PublishedSet(
        name="ultrachat", kind="dialogues", form="parquet or JSON lines",
        about="Dialogues of several turns, or any file with their columns: up to the last question.",
        labels="harmless", clusters=(), answers="the reply to the last question", licence="MIT",
        home="the hub: HuggingFaceH4/ultrachat_200k; the original is stingning/ultrachat",
        parts=(Part("train", ("*train_sft*", "*ultrachat*"), 207865,
                    ("HuggingFaceH4/ultrachat_200k", None, "train_sft")),
               Part("test", ("*test_sft*",), 23110, ("HuggingFaceH4/ultrachat_200k", None, "test_sft"))),
        layouts=(Layout(("messages",), _messages), Layout(("data",), _turns)),
    ),
)  # fmt: skip
"""Questions, instructions and dialogues."""
