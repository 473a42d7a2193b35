"""What the benchmarks run on: embedded models, checkpoints on disk, and random weights in the shape of known models.

The trap: speed depends on shape alone, so weights may be random; what a gate or a reply says may not then be believed.
"""

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AddedToken,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from workbench import PromptSet, load_contrast, load_model
from workbench.loading import Model, load_tokenizer
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
_CLIP_L_336 = CLIPVisionConfig(
    hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, image_size=336,
    patch_size=14,
)  # fmt: skip
SEERS = {
    "llava-1.5-7b": LlavaConfig(vision_config=_CLIP_L_336, text_config=SHAPES["llama-2-7b"]),
    "llava-1.5-13b": LlavaConfig(vision_config=_CLIP_L_336, text_config=SHAPES["llama-2-13b"]),
    "llava-768x12": LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=256, num_hidden_layers=6, num_attention_heads=4, intermediate_size=1024, image_size=112,
            patch_size=14,
        ),
        text_config=SHAPES["llama-768x12"],
    ),
    "llava-tiny": LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=28,
            patch_size=14,
        ),
        text_config=SHAPES["tiny"],
    ),
}  # fmt: skip
"""Vision-language models: LLaVA-1.5's own shapes, and two for a CPU."""
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


def random_seer(shape: str) -> Model:
    """A LLaVA of that shape with random weights, and a processor: it sees, and says nothing of use."""
    on_gpu = torch.cuda.is_available()
    config: Any = copy.deepcopy(SEERS[shape])
    tokenizer = load_tokenizer(TOKENIZER)
    tokenizer.add_tokens([AddedToken("<image>", special=True)])
    config.image_token_index = config.image_token_id = len(tokenizer) - 1
    # As many rows as LLaVA-1.5 has, which are 64 more than LLaMA-2's.
    config.text_config.vocab_size = max(config.text_config.vocab_size + 64, len(tokenizer))
    torch.manual_seed(0)
    with torch.device("cuda" if on_gpu else "cpu"):
        hf = AutoModelForImageTextToText.from_config(
            config, dtype=torch.bfloat16 if on_gpu else torch.float32, attn_implementation="sdpa"
        )
    hf.config.name_or_path = RANDOM + shape
    side = config.vision_config.image_size
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}),
        tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )
    return load_model(hf, backend="plain", tokenizer=processor)


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
