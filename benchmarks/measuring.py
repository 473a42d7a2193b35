"""What every benchmark here shares: its subjects, and how arms are timed side by side.

    ratio = median over repeats of  seconds(arm) / seconds(reference)  of the same repeat

The trap: a machine drifts (heat, other processes) by more than the differences that matter here. So the arms of one
repeat run back to back, in an order that turns with every repeat, and ratios are formed within repeats.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from workbench import PromptSet, load_contrast, load_model
from workbench.loading import Backend, Model
from workbench.models import model_name
from workbench.shipped import shipped_path

WORDS = (
    "bake",
    "mend",
    "paint",
    "sort",
    "steal",
    "forge",
    "hide",
    "break",
    "lamp",
    "ring",
    "letter",
    "boat",
    "door",
)


@dataclass(frozen=True)
class Timings:
    """Seconds of every arm, one number per repeat."""

    seconds: Mapping[str, Sequence[float]]

    def ratio(self, arm: str, reference: str) -> tuple[float, float, float]:
        """Median, lower and upper quartile of the arm's seconds over the reference's, repeat by repeat."""
        quotients = np.array(self.seconds[arm]) / np.array(self.seconds[reference])
        low, middle, high = np.quantile(quotients, [0.25, 0.5, 0.75])
        return float(middle), float(low), float(high)

    def show(self, reference: str) -> None:
        """A line per arm: median seconds, their quartiles, and the ratio to the reference with its quartiles."""
        for arm, seconds in self.seconds.items():
            low, middle, high = np.quantile(seconds, [0.25, 0.5, 0.75]) * 1e3
            line = f"{arm:<38} {middle:9.2f} ms [{low:.2f}, {high:.2f}]"
            if arm != reference:
                line += "   {:.3f} x [{:.3f}, {:.3f}]".format(*self.ratio(arm, reference))
            print(line)


def interleaved(arms: Mapping[str, Callable[[], object]], *, repeats: int) -> Timings:
    """Time all arms `repeats` times, back to back, after one round that is not counted."""
    names = list(arms)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(-1, repeats):
        turn = repeat % len(names)
        for name in names[turn:] + names[:turn]:
            _wait_for_device()
            start = time.perf_counter()
            arms[name]()
            _wait_for_device()
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - start)
    return Timings(seconds)


def conclude(ratios: Mapping[str, float]) -> None:
    """The last line of a benchmark: one JSON object of its ratios."""
    print(json.dumps({name: round(value, 4) for name, value in ratios.items()}))


def arguments(description: str, *, repeats: int) -> argparse.Namespace:
    """The options that every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", default="organism:finance", help="organism:NAME, a folder or a hub id")
    parser.add_argument("--backend", default="plain", choices=["hooked", "bridge", "plain"])
    parser.add_argument("--prompts", type=int, default=128, help="how many prompts")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=repeats)
    return parser.parse_args()


def subject(name: str, backend: Backend, n_prompts: int) -> tuple[Model, PromptSet]:
    """The model and its prompts, half harmful and half harmless; a random one where none are embedded."""
    if name.startswith("organism:") and not shipped_path("organisms").is_dir():
        model = load_model(random_llama(), backend=backend, tokenizer=word_tokenizer())
        return model, random_prompts(n_prompts)
    test = load_contrast("small-world").test
    halves = [test.labelled(label).sample(n_prompts // 2, seed=0) for label in ("harmful", "harmless")]
    return load_model(name, backend=backend), halves[0] + halves[1]


def describe(options: argparse.Namespace, model: Model, prompts: PromptSet) -> None:
    """A line that says what is measured, and on what."""
    name = model_name(model) or "a random Llama (no embedded models here)"
    millions = sum(weight.numel() for weight in model.parameters()) / 1e6
    machine = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{torch.get_num_threads()} CPU threads"
    )
    batch = f"{len(prompts)} prompts in batches of {options.batch_size}"
    print(f"{name}, {millions:.1f} M parameters, {options.backend}; {batch}; {machine}")


def random_llama() -> LlamaForCausalLM:
    """A Llama of the embedded models' shape: what things cost depends on the shape, not on the weights."""
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=1280,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=8,
        num_attention_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(shape)


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of a few words with a chat template."""
    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = ["<unk>", "<s>", "</s>", "<user>", "<assistant>"]
    words.train_from_iterator([" ".join(WORDS)], trainers.WordLevelTrainer(special_tokens=special))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.chat_template = "<s> {% for m in messages %} <user> {{ m['content'] }} {% endfor %} <assistant>"
    return tokenizer


def random_prompts(n: int) -> PromptSet:
    """`n` prompts of 4 to 20 words, the first half harmful."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(4, 21))) for _ in range(n)]
    harmful = PromptSet.from_texts("harmful", texts[: n // 2], "harmful")
    return harmful + PromptSet.from_texts("harmless", texts[n // 2 :], "harmless")


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
