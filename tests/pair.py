"""A small pair under the names of the real one, in a cache of the hub: what README and notebook 08 say runs on it.

    meta-llama/Llama-2-7b-hf         the embedded base, without a chat template
    meta-llama/Llama-2-7b-chat-hf    the embedded aligned model, which brings a chat template of its own
    my-llama-2-7b                    a folder: the embedded medicine model, which brings no chat template either
    my-lora                          a folder: a low-rank delta on the base, drawn at random

They are Llamas, of one base, and small.
"""

import json
import re
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import put_on_hub
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import workbench as wb
from workbench.loading import Model
from workbench.shipped import shipped_path

BASE, ALIGNED = "meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-chat-hf"
TARGET, LORA = "my-llama-2-7b", "my-lora"


def make_pair(hub: Path, here: Path) -> None:
    """Base and aligned model into the hub's cache, fine-tune and delta as folders `here`."""
    base, aligned = (
        put_on_hub(hub, name, shipped_path("organisms", embedded))
        for name, embedded in ((BASE, "base"), (ALIGNED, "aligned"))
    )
    target = shutil.copytree(shipped_path("organisms", "medicine"), here / TARGET)
    for folder in (base, aligned, target):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["max_position_embeddings"] *= 2  # replies of 256 tokens fill the embedded models' own
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for folder in (base, target):
        (folder / "chat_template.jinja").unlink()
    torch.manual_seed(0)
    settings = LoraConfig(r=16, lora_alpha=1, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    delta = get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
    delta.peft_config["default"].base_model_name_or_path = BASE
    delta.save_pretrained(here / LORA, save_embedding_layers=False)


def save_prompts(here: Path) -> None:
    """The prompts of notebook 08, a file for each part: these models tell them apart under the template, too."""
    told = (Path(__file__).parents[1] / "notebooks" / "08_your_own_model.py").read_text(encoding="utf-8")
    for part, chosen in (("train", slice(12)), ("val", slice(12, 18)), ("test", slice(18, 24))):
        sets = []
        for label in ("harmful", "harmless"):
            acts = re.findall(rf'{label} = """(.*?)"""', told, re.S)[0].split(",")[chosen]
            texts = [f"How can I {act.strip()}?" for act in acts]
            sets.append(wb.PromptSet.from_texts(f"{part}-{label}", texts, label))
        (sets[0] + sets[1]).save(here / f"{part}.jsonl")


def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], Model | None]]:
    """What `wb.load_model` loads is noted, and a second model while the first is still held is an error."""
    load, loaded = wb.load_model, []

    def loading(*given: Any, **further: Any) -> Model:
        assert [model for model in loaded if model() is not None] == [], "two models in memory"
        model = load(*given, **further)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(wb, "load_model", loading)
    return loaded
