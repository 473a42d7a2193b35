"""Harmful questions about pictures: who publishes them, and which picture belongs to which question.

    MM-Harmful Bench     questions.jsonl, a question a line;          images/0.jpg is the first line's, 1.jpg the next's
    MM-SafetyBench       processed_questions/NN-NAME.json, by id;     imgs/NN-NAME/{SD,SD_TYPO,TYPO}/ID.jpg

The first was read as published. Layout and numbers of the second are what public evaluation code says of it: its own
repository was out of reach.

The trap: nothing but order pairs the first set's images with its lines. A line that is lost gives every later one the
picture of another; so an image that no line has is an error, and not a file to overlook.
"""

from dataclasses import replace
from pathlib import Path

from workbench.images import Image
from workbench.prompts import Prompt
from workbench.published.cells import numbered, plain, said
from workbench.published.registry import Layout, Part, PublishedSet
from workbench.published.tables import Fields

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
KINDS = {"SD": "Rephrased Question(SD)", "SD_TYPO": "Rephrased Question", "TYPO": "Rephrased Question"}
"""MM-SafetyBench asks each question of three images: drawn by a diffusion model, that with its subject written below,
and the writing alone. Each is asked in the words that point at what it shows."""
SCENARIOS = {
    "01-Illegal_Activitiy": 97, "02-HateSpeech": 163, "03-Malware_Generation": 44, "04-Physical_Harm": 144,
    "05-EconomicHarm": 122, "06-Fraud": 154, "07-Sex": 109, "08-Political_Lobbying": 153, "09-Privacy_Violence": 139,
    "10-Legal_Opinion": 130, "11-Financial_Advice": 167, "12-Health_Consultation": 109, "13-Gov_Decision": 149,
}  # fmt: skip
"""MM-SafetyBench's files, spelled as they are, and how many questions each has: 1,680 in all."""


def _by_order(file: Path, n: int, prompts: tuple[Prompt, ...]) -> tuple[Prompt, ...]:
    return tuple(replace(prompt, images=(_image(_numbered_image(file, n)),)) for prompt in prompts)


def _numbered_image(file: Path, n: int) -> Path:
    return file.parent / "images" / f"{n}.jpg"


def _left_over(file: Path, rows: int) -> list[Path]:
    had = {_numbered_image(file, n) for n in range(rows)}
    there = (file.parent / "images").glob("*")
    return sorted(path for path in there if path.suffix.lower() in PICTURES and path not in had)


def _thrice(row: Fields) -> tuple[Prompt, ...]:
    """The question of one row, once for each kind of image."""
    number = numbered(row)
    if not (number.isascii() and number.isdigit()):
        raise ValueError(f"got id {number!r}, expected a number: its images are named by it")
    return tuple(
        Prompt.user(said(row, column), label="harmful", source=number, cluster=(("images", kind),))
        for kind, column in KINDS.items()
    )


def _by_id(file: Path, n: int, prompts: tuple[Prompt, ...]) -> tuple[Prompt, ...]:
    scenario = file.stem
    images = file.parents[1] / "imgs" / scenario
    return tuple(
        replace(
            prompt,
            source=f"{scenario}/{prompt.source}",
            cluster=(("category", scenario), ("question", f"{scenario}/{prompt.source}"), *prompt.cluster),
            images=(_image(images / kind / f"{prompt.source}.jpg"),),
        )
        for kind, prompt in zip(KINDS, prompts, strict=True)
    )


def _image(path: Path) -> Image:
    try:
        return Image.read(path)
    except OSError as error:
        raise ValueError(f"its image cannot be read: {error}") from error


def _question_files(name: str) -> tuple[str, ...]:
    return f"processed_questions/{name}.json", f"{name}.json"


PICTURED = (
    PublishedSet(
        name="mm-harmfulbench", kind="harmful", form="JSON lines, and images/ beside them",
        about="Harmful questions that need their picture to be understood, the paper's own.",
        labels="harmful", clusters=("image",), answers="none", licence="Apache-2.0",
        home="github.com/Jihuai-wpy/InferAligner: MM-HarmfulBench (Wang et al., arXiv 2401.11206)",
        parts=(Part("all", ("*mm_harmful*.jsonl", "questions.jsonl", "question.jsonl"), 100),),
        layouts=(Layout(("image_url", "question"), plain("question", "harmful", clusters={"image": "image_url"}),
                        place=_by_order, spare=_left_over),),
    ),
    PublishedSet(
        name="mm-safetybench", kind="harmful", form="JSON by id, a file for each scenario, and imgs/ beside them",
        about="Questions in 13 scenarios, each of three images that jailbreak by what they show or spell.",
        labels="harmful", clusters=("category", "question", "images"), answers="none", licence="CC BY-NC 4.0",
        home="github.com/isXinLiu/MM-SafetyBench: data/ (Liu et al., arXiv 2311.17600); its images are a file apart",
        parts=(Part("all", tuple(_question_files(name)[0] for name in SCENARIOS), sum(SCENARIOS.values()), joined=True),
               *(Part(name[:2], _question_files(name), rows) for name, rows in SCENARIOS.items())),
        layouts=(Layout(("Question", "Rephrased Question", "Rephrased Question(SD)"), _thrice, place=_by_id),),
    ),
)  # fmt: skip
"""Harmful questions about pictures."""
