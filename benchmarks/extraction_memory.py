"""What extraction's peak memory grows with: the batch. Not the number of prompts, nor tokens x layers.

    with_4x_prompts     peak of four times the prompts / peak
    with_4x_layers      the same for a model four times as deep
    vs_forward          peak / that of the bare passes over the same batches, of long prompts

What is asked for, a number per prompt, layer and dimension, is not counted: it is the result.
"""

import sys
from functools import partial

from memory import peak_of, tell_peak
from transformers import AutoModelForCausalLM, LlamaConfig

from workbench import PromptSet, last_token_activations, load_model
from workbench.chat import pad_id, pad_left, tokenize
from workbench.forward import run_body
from workbench.loading import load_tokenizer
from workbench.models import tokenizer_of

PROMPTS, WORDS, LAYERS = 64, 120, 4
BATCH_SIZE, WIDTH = 16, 512


def compare_memory() -> dict[str, float | None]:
    """The ratios, each of processes of their own."""
    plain = _tell("extraction", PROMPTS, LAYERS)
    more_prompts = _tell("extraction", 4 * PROMPTS, LAYERS)
    deeper = _tell("extraction", PROMPTS, 4 * LAYERS)
    forward = _tell("forward", PROMPTS, LAYERS)
    return {
        "with_4x_prompts": more_prompts / plain,
        "with_4x_layers": deeper / plain,
        "vs_forward": plain / forward,
    }


def _tell(work: str, n_prompts: int, n_layers: int) -> float:
    peak = peak_of(__file__, work, n_prompts, n_layers)
    result = n_prompts * n_layers * WIDTH * 4 / 2**20 if work == "extraction" else 0.0
    print(
        f"{work} of {n_prompts} prompts, batches of {BATCH_SIZE}, {n_layers} layers of width {WIDTH}: "
        f"{peak:.0f} MB at the peak, {result:.0f} of them the result"
    )
    return peak - result


def _work(work: str, n_prompts: int, n_layers: int) -> None:
    config = LlamaConfig(
        hidden_size=WIDTH,
        num_hidden_layers=n_layers,
        num_attention_heads=8,
        intermediate_size=4 * WIDTH,
        vocab_size=2048,
    )
    hf = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    model = load_model(hf, backend="plain", tokenizer=load_tokenizer("organism:finance"))
    prompts = PromptSet.from_texts("long", [f"{i}" + " bread" * WORDS for i in range(n_prompts)], "harmless")
    rows = tokenize(tokenizer_of(model), prompts)

    def forward() -> None:
        for start in range(0, len(rows), BATCH_SIZE):
            run_body(model, pad_left(rows[start : start + BATCH_SIZE], pad_id(tokenizer_of(model))))

    extract = partial(last_token_activations, model, prompts, batch_size=BATCH_SIZE)
    tell_peak(extract if work == "extraction" else forward)


if __name__ == "__main__":
    _work(sys.argv[1], *map(int, sys.argv[2:]))
