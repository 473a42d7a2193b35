"""What the benchmarks run on: embedded models, checkpoints on disk, and random weights in the shape of known models.

The trap: speed depends on shape alone, so weights may be random; what a gate or a reply says may not then be believed.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from workbench import PromptSet, load_contrast
from workbench.loading import load_tokenizer
from workbench.shipped import shipped_path

RANDOM = "random:"
SHAPES = {
    "llama-768x12": LlamaConfig(
        hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=2048, vocab_size=32000
    ),
    "llama-2-7b": LlamaConfig(
        hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, intermediate_size=11008, vocab_size=32000
    ),
    "llama-2-13b": LlamaConfig(
        hidden_size=5120, num_hidden_layers=40, num_attention_heads=40, intermediate_size=13824, vocab_size=32000
    ),
    "tiny": LlamaConfig(
        hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=128, vocab_size=2048
    ),
}  # fmt: skip
TOKENIZER = "organism:finance"
"""Whose words the random models are given: their prompts are those of the embedded world."""


def random_model(shape: str) -> PreTrainedModel:
    """A transformers model of that shape with random weights: in bfloat16 on a GPU, in float32 elsewhere."""
    on_gpu = torch.cuda.is_available()
    torch.manual_seed(0)
    with torch.device("cuda" if on_gpu else "cpu"):
        hf: PreTrainedModel = AutoModelForCausalLM.from_config(
            SHAPES[shape], dtype=torch.bfloat16 if on_gpu else torch.float32, attn_implementation="sdpa"
        )
    hf.config.name_or_path = RANDOM + shape
    return hf


@contextmanager
def checkpoint_of(name: str) -> Iterator[str]:
    """What `load_model`, and a peer's own loading, read that model from: weights made here lie there for that long."""
    if name.startswith("organism:"):
        yield str(shipped_path("organisms", name.removeprefix("organism:")))
    elif not name.startswith(RANDOM):
        yield name
    else:
        with tempfile.TemporaryDirectory() as temporary:
            folder = str(Path(temporary, name.replace(":", "-")))  # what it is called
            random_model(name.removeprefix(RANDOM)).save_pretrained(folder)
            load_tokenizer(TOKENIZER).save_pretrained(folder)
            yield folder


def prompts_of_both_kinds(n: int) -> PromptSet:
    """So many prompts of the embedded world, half harmful, then half harmless."""
    test = load_contrast("small-world").test
    halves = [test.labelled(label).sample(n // 2, seed=0) for label in ("harmful", "harmless")]
    return halves[0] + halves[1]
