"""Direct preference optimisation: a model taught to prefer one reply to another, as a low-rank delta beside it.

    loss = −log σ( β [ log π(chosen|x)/π₀(chosen|x) − log π(rejected|x)/π₀(rejected|x) ] )       (Rafailov et al. 2023)

by TRL and peft (extra `train`). In the table it stands for alignment by training, beside safety fine-tuning.

The trap: a pair whose two replies are alike teaches nothing, and a rejected reply that the model would never give
teaches little. Let the model write what is to be rejected.
"""

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig

from workbench.loading import load_model
from workbench.models import tokenizer_of
from workbench.prompts import Prompt
from workbench.provenance import unsaved

RANK = 16


@dataclass(frozen=True)
class PreferencePair:
    """A prompt, the reply to prefer, and the one to prefer it to."""

    prompt: Prompt
    chosen: str
    rejected: str

    def __post_init__(self) -> None:
        if not self.chosen.strip() or not self.rejected.strip():
            raise ValueError("got an empty reply, expected some words in chosen and in rejected")
        if self.chosen.strip() == self.rejected.strip():
            raise ValueError("got chosen and rejected alike, expected two replies that differ")


@dataclass(frozen=True)
class DPOSettings:
    """How long and how hard: `beta` holds to the model as it was, `rate` is the peak learning rate, decayed to zero."""

    beta: float = 0.1
    rate: float = 5e-5
    epochs: int = 3
    batch_size: int = 8
    rank: int = RANK
    max_length: int = 1024


def load_pairs(path: str | Path) -> list[PreferencePair]:
    """The pairs of a JSON-lines file: `{"prompt": "..." or messages, "chosen": "...", "rejected": "..."}` a line.

    Raises `ValueError` for the first line that is none, by its number; `FileNotFoundError` where there is no file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no file of pairs {path}: one JSON object a line, with prompt, chosen and rejected"
        )
    pairs = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                pairs.append(_pair(json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number}: {type(error).__name__}: {error}: expected one JSON object "
                    '{"prompt": "...", "chosen": "...", "rejected": "..."} a line, in UTF-8'
                ) from error
    if not pairs:
        raise ValueError(
            f"{path} has no pairs: expected one JSON object a line, with prompt, chosen and rejected"
        )
    return pairs


def train_dpo(
    model: str | Path,
    pairs: Sequence[PreferencePair],
    out: str | Path,
    *,
    settings: DPOSettings = DPOSettings(),
    template: str | None = None,
    dtype: torch.dtype = torch.float32,
    stored: torch.dtype | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Path:
    """Train a low-rank delta of `model` (a folder, a hub id, an embedded model) on `pairs` into the new folder `out`.

    `load_model(model, adapter=out)` loads the two together. The delta appears whole or not at all, and depends on the
    seed alone, with as many threads. `stored` is the dtype of its file, that of training unless told. Nothing is sent
    anywhere: no hub, no tracker.

    Raises `ImportError` without the extra `train`, `ValueError` for no pairs, `OSError` where `out` is there already or
    cannot be written.
    """
    try:
        from datasets import Dataset
        from trl import DPOConfig, DPOTrainer
    except ImportError as error:
        raise ImportError(
            f"TRL is not installed ({error}): pip install 'inferaligner-workbench[train]'"
        ) from error
    out = Path(out)
    if out.exists():
        raise FileExistsError(f"{out} is there already, nothing was trained: name a new folder")
    if not pairs:
        raise ValueError("got no pairs, expected at least one: load_pairs reads a file of them")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise unsaved(out, error) from error
    try:
        torch.manual_seed(seed)
        base: Any = load_model(model, backend="plain", template=template, dtype=dtype)
        rows = Dataset.from_list([_row(pair) for pair in pairs])
        config = DPOConfig(
            output_dir=str(beside / "state"), save_strategy="no", report_to=[], push_to_hub=False,
            beta=settings.beta, learning_rate=settings.rate, num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.batch_size, lr_scheduler_type="linear", max_length=settings.max_length,
            seed=seed, data_seed=seed, bf16=dtype == torch.bfloat16, gradient_checkpointing=False,
            dataloader_pin_memory=False, disable_tqdm=not progress, logging_strategy="no",
        )  # fmt: skip
        lora = LoraConfig(
            r=settings.rank, lora_alpha=2 * settings.rank, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        trainer = DPOTrainer(
            model=base, args=config, train_dataset=rows, processing_class=tokenizer_of(base), peft_config=lora
        )
        trainer.train()
        tuned: Any = trainer.model
        adapter = tuned.peft_config["default"]
        # A set would be written in another order every time.
        adapter.target_modules = sorted(adapter.target_modules)
        if stored is not None:
            tuned.to(stored)
        tuned.save_pretrained(beside / "delta", save_embedding_layers=False)
        (beside / "delta" / "README.md").unlink(missing_ok=True)  # peft's empty card
        (beside / "delta").rename(out)
    except OSError as error:
        raise unsaved(out, error) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return out


def _row(pair: PreferencePair) -> dict[str, list[dict[str, str]]]:
    """A pair as TRL takes it; the tokenizer's chat template makes text of it."""
    return {
        "prompt": [{"role": role, "content": text} for role, text in pair.prompt.messages],
        "chosen": [{"role": "assistant", "content": pair.chosen}],
        "rejected": [{"role": "assistant", "content": pair.rejected}],
    }


def _pair(data: Any) -> PreferencePair:
    said = data["prompt"]
    prompt = (
        Prompt.user(said)
        if isinstance(said, str)
        else Prompt(tuple((message["role"], message["content"]) for message in said))
    )
    for name in ("chosen", "rejected"):
        if not isinstance(data[name], str):
            raise TypeError(f"got {name} {data[name]!r}, expected a text")
    return PreferencePair(prompt, data["chosen"], data["rejected"])
