"""What should be refused, what only looks so, and the templates of jailbreaks: who publishes it, and how it is read.

Licences, columns and numbers are those of the repositories and cards named, as of 2026.

The trap: the affirmative openings that AdvBench and JailbreakBench publish as targets are what an attack wants to hear.
They are no answers, and none is kept.
"""

from workbench.prompts import Prompt
from workbench.published.cells import numbered, plain, said, shared
from workbench.published.registry import Layout, Part, PublishedSet
from workbench.published.tables import TEXT, Fields


def _harmbench(row: Fields) -> Prompt:
    # Joined as HarmBench's own attacks join them.
    context = row.get("ContextString")
    behaviour = said(row, "Behavior")
    return Prompt.user(
        f"{context.strip()}\n\n---\n\n{behaviour}"
        if isinstance(context, str) and context.strip()
        else behaviour,
        label="harmful",
        source=numbered(row, "BehaviorID"),
        cluster=shared(row, {"category": "SemanticCategory", "function": "FunctionalCategory"}),
    )


def _xstest(row: Fields) -> Prompt:
    # Version 2 has no column of labels; its unsafe types are called contrast_ and the safe type's name.
    kind = said(row, "type")
    safe = {"safe": True, "unsafe": False}.get(str(row.get("label", "")))
    if row.get("label") and safe is None:
        raise ValueError(f"got label {row['label']!r}, expected safe or unsafe")
    safe = not kind.startswith("contrast_") if safe is None else safe
    return Prompt.user(
        said(row, "prompt"),
        label="contrast" if safe else "harmful",
        source=numbered(row),
        cluster=shared(row, {"category": "type", "focus": "focus"}),
    )


def _jailbreakbench(label: str) -> Layout:
    read = plain("Goal", label, clusters={"category": "Category", "behaviour": "Behavior"}, number="Index")
    return Layout(("Goal", "Behavior", "Category"), read)


def _or_bench(label: str) -> tuple[Layout, ...]:
    return (Layout(("prompt", "category"), plain("prompt", label, clusters={"category": "category"})),)


_CATEGORY = {"category": "category", "source": "source"}
_RISKS = {"category": "types_of_harm", "risk": "risk_area"}

HARMFUL = (
    PublishedSet(
        name="advbench", kind="harmful", form="csv",
        about="Instructions for harm of many kinds, the paper's harmful set.",
        labels="harmful", clusters=(), answers="none", licence="MIT",
        home="github.com/llm-attacks/llm-attacks: data/advbench/harmful_behaviors.csv",
        parts=(Part("all", ("harmful_behaviors.csv", "*advbench*"), 520, ("walledai/AdvBench", None, "train")),),
        layouts=(Layout(("goal", "target"), plain("goal", "harmful")),
                 Layout(("prompt", "target"), plain("prompt", "harmful"))),
        gated=True,
    ),
    PublishedSet(
        name="harmbench", kind="harmful", form="csv",
        about="Behaviours: standard, contextual (the context goes before the request) and copyright, as cluster "
        "`function`.",
        labels="harmful", clusters=("category", "function"), answers="none", licence="MIT",
        home="github.com/centerforaisafety/HarmBench: data/behavior_datasets/harmbench_behaviors_text_*.csv",
        parts=(Part("test", ("harmbench_behaviors_text_test.csv",), 320),
               Part("val", ("harmbench_behaviors_text_val.csv",), 80),
               Part("all", ("harmbench_behaviors_text_all.csv",), 400)),
        layouts=(Layout(("Behavior", "FunctionalCategory", "SemanticCategory", "ContextString"), _harmbench),),
    ),
    PublishedSet(
        name="jailbreakbench", kind="harmful", form="csv",
        about="A hundred behaviours in ten categories of misuse.",
        labels="harmful", clusters=("category", "behaviour"), answers="none", licence="MIT",
        home="github.com/JailbreakBench/jailbreakbench, and the hub: data/harmful-behaviors.csv",
        parts=(Part("all", ("harmful-behaviors.csv", "*jailbreakbench*harmful*"), 100,
                    ("JailbreakBench/JBB-Behaviors", "behaviors", "harmful")),),
        layouts=(_jailbreakbench("harmful"),),
    ),
    PublishedSet(
        name="jailbreakbench-benign", kind="over-refusal", form="csv",
        about="Harmless twins of JailbreakBench's behaviours.",
        labels="contrast", clusters=("category", "behaviour"), answers="none", licence="MIT",
        home="github.com/JailbreakBench/jailbreakbench, and the hub: data/benign-behaviors.csv",
        parts=(Part("all", ("benign-behaviors.csv", "*jailbreakbench*benign*"), 100,
                    ("JailbreakBench/JBB-Behaviors", "behaviors", "benign")),),
        layouts=(_jailbreakbench("contrast"),),
    ),
    PublishedSet(
        name="strongreject", kind="harmful", form="csv",
        about="Forbidden prompts that can be answered and graded.",
        labels="harmful", clusters=("category", "source"), answers="none", licence="MIT",
        home="github.com/alexandrasouly/strongreject: strongreject_dataset/strongreject_dataset.csv",
        parts=(Part("all", ("*strongreject*",), 313, ("walledai/StrongREJECT", None, "train")),),
        layouts=(Layout(("category", "source", "forbidden_prompt"),
                        plain("forbidden_prompt", "harmful", clusters=_CATEGORY)),
                 Layout(("category", "source", "prompt"), plain("prompt", "harmful", clusters=_CATEGORY))),
    ),
    PublishedSet(
        name="tdc2023", kind="harmful", form="JSON, a list of texts",
        about="Behaviours of the Trojan Detection Challenge's red-teaming track.",
        labels="harmful", clusters=(), answers="none", licence="MIT",
        home="github.com/centerforaisafety/tdc2023-starter-kit: red_teaming/data/{dev,test}/behaviors.json",
        parts=(Part("dev", ("*dev/behaviors.json", "*dev_behaviors.json"), 50),
               Part("test", ("*test/behaviors.json", "*test_behaviors.json"), 50)),
        layouts=(Layout((TEXT,), plain(TEXT, "harmful"), suffixes=(".json",)),),
    ),
    PublishedSet(
        name="malicious-instruct", kind="harmful", form="text, a prompt a line",
        about="A hundred malicious instructions, one a line.",
        labels="harmful", clusters=(), answers="none",
        licence="none stated (a copy on the hub says CC BY-SA 4.0)",
        home="github.com/Princeton-SysML/Jailbreak_LLM: data/MaliciousInstruct.txt",
        parts=(Part("all", ("*malicious*instruct*.txt",), 100),),
        layouts=(Layout((TEXT,), plain(TEXT, "harmful"), suffixes=(".txt",)),),
    ),
    PublishedSet(
        name="do-not-answer", kind="harmful", form="csv or parquet",
        about="Questions that a careful model does not answer, in five areas.",
        labels="harmful", clusters=("category", "risk"), answers="none", licence="CC BY-NC-SA 4.0",
        home="github.com/Libr-AI/do-not-answer",
        parts=(Part("all", ("*do*not*answer*",), 939, ("LibrAI/do-not-answer", None, "train")),),
        layouts=(Layout(("question", "risk_area", "types_of_harm"),
                        plain("question", "harmful", clusters=_RISKS)),),
    ),
    PublishedSet(
        name="xstest", kind="over-refusal", form="csv",
        about="250 safe prompts that sound unsafe, and 200 unsafe ones.",
        labels="contrast (safe), harmful (unsafe)", clusters=("category", "focus"), answers="none",
        licence="CC BY 4.0", home="github.com/paul-rottger/xstest: xstest_prompts.csv",
        parts=(Part("all", ("*xstest*prompts.csv", "*xstest*"), 450, ("walledai/XSTest", None, "test")),),
        layouts=(Layout(("prompt", "type", "focus"), _xstest),),
        gated=True,
    ),
    PublishedSet(
        name="or-bench", kind="over-refusal", form="csv",
        about="Prompts that seem toxic and are not, in ten categories.",
        labels="contrast", clusters=("category",), answers="none", licence="CC BY 4.0",
        home="the hub: bench-llm/or-bench",
        parts=(Part("hard-1k", ("or-bench-hard-1k.csv",), 1319, ("bench-llm/or-bench", "or-bench-hard-1k", "train")),
               Part("80k", ("or-bench-80k.csv",), 80359, ("bench-llm/or-bench", "or-bench-80k", "train"))),
        layouts=_or_bench("contrast"),
    ),
    PublishedSet(
        name="or-bench-toxic", kind="harmful", form="csv",
        about="The toxic prompts that OR-Bench sets beside its harmless ones.",
        labels="harmful", clusters=("category",), answers="none", licence="CC BY 4.0",
        home="the hub: bench-llm/or-bench",
        parts=(Part("all", ("or-bench-toxic.csv",), 655, ("bench-llm/or-bench", "or-bench-toxic", "train")),),
        layouts=_or_bench("harmful"),
    ),
    PublishedSet(
        name="gptfuzz", kind="jailbreaks", form="csv",
        about="Jailbreak templates with the placeholder [INSERT PROMPT HERE].",
        labels="unlabelled: wrap a request in them", clusters=(), answers="none", licence="MIT",
        home="github.com/sherdencooper/GPTFuzz: datasets/prompts/GPTFuzzer.csv",
        parts=(Part("all", ("GPTFuzzer.csv", "*gptfuzz*"), 77),),
        layouts=(Layout(("id", "text"), plain("text", "unlabelled"), suffixes=(".csv",)),),
    ),
    PublishedSet(
        name="in-the-wild", kind="jailbreaks", form="csv",
        about="Jailbreak prompts that people shared, few with a placeholder.",
        labels="unlabelled: wrap a request in them", clusters=("platform", "community"), answers="none",
        licence="MIT", home="github.com/verazuo/jailbreak_llms: data/prompts/jailbreak_prompts_*.csv",
        parts=(Part("2023-05-07", ("jailbreak_prompts_2023_05_07.csv",), 666,
                    ("TrustAIRLab/in-the-wild-jailbreak-prompts", "jailbreak_2023_05_07", "train")),
               Part("2023-12-25", ("jailbreak_prompts_2023_12_25.csv",), 1405,
                    ("TrustAIRLab/in-the-wild-jailbreak-prompts", "jailbreak_2023_12_25", "train"))),
        layouts=(Layout(("prompt", "jailbreak", "platform"),
                        plain("prompt", "unlabelled",
                              clusters={"platform": "platform", "community": "community_name"})),),
    ),
)  # fmt: skip
"""What should be refused, what only looks so, and jailbreaks."""
