"""Direct preference optimisation of a model of one's own, as a low-rank delta: the rival that trains.

    loss = −log σ(β (log π(chosen) − log π₀(chosen) − log π(rejected) + log π₀(rejected)))      (Rafailov et al. 2023)

The loop is TRL's, the delta peft's (extra `train`). A pair is a line {"prompt": ..., "chosen": ..., "rejected": ...};
the prompt is a text, or messages that end with the user's.

The trap: which reply is called which. Two files with their columns exchanged train a model that complies with more, and
no loss tells. Look at a pair before, and at refusals after.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from workbench.chat import render
from workbench.loading import load_model
from workbench.models import context_length, tokenizer_of
from workbench.prompts import Prompt
from workbench.provenance import unsaved

EXPECTED = '{"prompt": "..." or [{"role": ..., "content": ...}], "chosen": "...", "rejected": "..."}'


@dataclass(frozen=True)
class PreferencePair:
    """A prompt, the reply to learn, and the reply to unlearn."""

    prompt: Prompt
    chosen: str
    rejected: str

    def __post_init__(self) -> None:
        for name, text in (("chosen", self.chosen), ("rejected", self.rejected)):
            if not text.strip():
                raise ValueError(f"got an empty {name!r}, expected a reply")
        if self.chosen.strip() == self.rejected.strip():
            raise ValueError("got the same reply as chosen and as rejected, expected two that differ")


@dataclass(frozen=True)
class DpoRecipe:
    """How strongly and how long: β of the loss, epochs, pairs a step, learning rate, and the rank of the delta."""

    beta: float = 0.1
    epochs: int = 3
    batch_size: int = 8
    lr: float = 1e-4
    rank: int = 16

    def __post_init__(self) -> None:
        if min(self.beta, self.epochs, self.batch_size, self.lr, self.rank) <= 0:
            raise ValueError(f"got {self}, expected numbers above 0")


def load_pairs(path: str | Path) -> list[PreferencePair]:
    """The pairs of a JSON-lines file.

    Raises `ValueError`, with the number of the line, for one that is no pair, and for a pair that stands there twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file of pairs {path}: expected JSON lines, {EXPECTED}")
    found: dict[PreferencePair, int] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                pair = _pair_of(json.loads(line.decode("utf-8-sig")))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                reason = f"{error} is missing" if isinstance(error, KeyError) else error
                raise ValueError(
                    f"{path}, line {number}: {reason}: expected {EXPECTED} a line, in UTF-8"
                ) from error
            if pair in found:
                raise ValueError(
                    f"{path}, line {number}: the pair of line {found[pair]} again: leave one of them out"
                )
            found[pair] = number
    if not found:
        raise ValueError(f"{path} has no line: expected {EXPECTED} a line")
    return list(found)


def train_dpo(
    model: str | Path,
    pairs: Sequence[PreferencePair] | str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    recipe: DpoRecipe = DpoRecipe(),
    template: str | Path | None = None,
    progress: bool = False,
) -> Path:
    """A low-rank delta on `model` (a folder, hub id or organism) that prefers what was chosen, in the new folder `out`.

    `load_model(out)` merges it. `pairs` may be a file's path (`load_pairs`). On a CPU with one thread, the same seed
    gives the same bytes. Nothing is downloaded but a `model` that is a hub id, and nothing reported anywhere.

    Raises `FileExistsError` where `out` is there already, `ImportError` without the extra `train`, `ValueError` for a
    pair that the model's context does not hold.
    """
    out = Path(out)
    if out.exists():
        raise FileExistsError(f"{out} is there already: name a new folder, or delete that one")
    if isinstance(pairs, str | Path):
        pairs = load_pairs(pairs)
    if not pairs:
        raise ValueError("got no pairs, expected one or more")
    _require_trl()
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)  # the delta's first weights
    hf: Any = load_model(model, backend="plain", template=template, dtype=torch.float32)
    _require_room(hf, pairs)
    beside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            tuned = _trained(hf, pairs, Path(scratch), seed, recipe, progress)
        # Written down as it was named; a base's embeddings are its own, and peft would ask the hub for them.
        config = tuned.peft_config["default"]
        config.base_model_name_or_path = str(Path(model).resolve() if Path(model).is_dir() else model)
        config.target_modules = sorted(config.target_modules)  # a set is written in another order every time
        tuned.half()
        if not all(weight.isfinite().all() for weight in tuned.parameters() if weight.requires_grad):
            raise ValueError(
                f"the training diverged at a learning rate of {recipe.lr:g}, nothing was saved: lower it"
            )
        tuned.save_pretrained(str(beside), save_embedding_layers=False)
        (beside / "README.md").unlink(missing_ok=True)
        for file in beside.iterdir():
            file.chmod(0o644)
        beside.rename(out)
    except BaseException as error:
        shutil.rmtree(beside, ignore_errors=True)
        if isinstance(error, OSError):
            raise unsaved(out, error) from error
        raise
    return out


def _trained(
    hf: PreTrainedModel,
    pairs: Sequence[PreferencePair],
    scratch: Path,
    seed: int,
    recipe: DpoRecipe,
    progress: bool,
) -> Any:
    """The model with its trained adapter, from TRL's loop; everything that loop writes goes to `scratch`."""
    from datasets import Dataset, disable_progress_bars
    from peft import LoraConfig
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    if not progress:
        disable_progress_bars()
    config = DPOConfig(
        output_dir=str(scratch),
        beta=recipe.beta,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.lr,
        lr_scheduler_type="linear",
        max_length=None,  # nothing is cut: `_require_room` has seen to it
        seed=seed,
        data_seed=seed,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=not progress,
        dataloader_pin_memory=hf.device.type == "cuda",
    )
    rows = [
        {
            "prompt": [{"role": role, "content": content} for role, content in pair.prompt.messages],
            "chosen": [{"role": "assistant", "content": pair.chosen}],
            "rejected": [{"role": "assistant", "content": pair.rejected}],
        }
        for pair in pairs
    ]
    lora = LoraConfig(
        r=recipe.rank, lora_alpha=2 * recipe.rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    trainer = DPOTrainer(
        hf,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer_of(hf),
        peft_config=lora,
    )
    trainer.train()
    return trainer.accelerator.unwrap_model(trainer.model)


def _require_trl() -> None:
    try:
        import trl  # noqa: F401, whether it is there
    except ImportError as error:
        raise ImportError(
            "training on preferences needs TRL: pip install 'inferaligner-workbench[train]'"
        ) from error


def _require_room(hf: Any, pairs: Sequence[PreferencePair]) -> None:
    tokenizer, room = tokenizer_of(hf), context_length(hf)
    for number, pair in enumerate(pairs, start=1):
        head = render(tokenizer, pair.prompt)
        texts = [head + text for text in (pair.chosen, pair.rejected)]
        longest = (
            max(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"])) + 1
        )  # the end is one more
        if longest > room:
            raise ValueError(
                f"pair {number} has {longest:,} tokens, the model's context holds {room:,}: shorten it or leave it out"
            )


def _pair_of(found: Mapping[str, Any]) -> PreferencePair:
    asked = found["prompt"]
    if not isinstance(asked, str):
        asked = tuple((message["role"], message["content"]) for message in asked)
    for name in ("chosen", "rejected"):
        if not isinstance(found[name], str):
            raise TypeError(f"got {type(found[name]).__name__} as {name!r}, expected a text")
    prompt = Prompt.user(asked) if isinstance(asked, str) else Prompt(asked)
    if not prompt.text.strip():
        raise ValueError("got an empty prompt, expected a text")
    return PreferencePair(prompt, found["chosen"], found["rejected"])
