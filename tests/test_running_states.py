"""Models that keep more of a text than keys and values: read without padding, and refused where they would reply."""

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import reference
import torch
from conftest import small_tokenizer
from transformers import (
    AutoModelForCausalLM,
    FalconH1Config,
    JambaConfig,
    Lfm2Config,
    MambaConfig,
    OpenAIGPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3NextConfig,
    RecurrentGemmaConfig,
    RwkvConfig,
    xLSTMConfig,
)

import workbench as wb
from workbench import activations

SMALL = dict(vocab_size=360, hidden_size=32, num_hidden_layers=4, pad_token_id=None)
TINY = SMALL | dict(
    intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64
)
MAKERS: dict[str, Callable[[], PreTrainedConfig]] = {
    "lfm2": partial(Lfm2Config, **TINY, layer_types=["conv", "full_attention"] * 2),
    "falcon_h1": partial(
        FalconH1Config, **TINY, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8, mamba_chunk_size=8
    ),
    "qwen3_next": partial(
        Qwen3NextConfig, **TINY, head_dim=8, linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=8,
        linear_value_head_dim=8, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    ),
    "mamba": partial(MambaConfig, **SMALL, state_size=8),
    "jamba": partial(
        JambaConfig, **TINY, num_experts=2, mamba_d_state=8, attn_layer_period=2, attn_layer_offset=1,
        expert_layer_period=2, use_mamba_kernels=False,
    ),
    "recurrent_gemma": partial(RecurrentGemmaConfig, **TINY, lru_width=32, head_dim=8, attention_window_size=16),
    "rwkv": partial(
        RwkvConfig, vocab_size=360, hidden_size=32, num_hidden_layers=4, attention_hidden_size=32,
        intermediate_size=64, context_length=64,
    ),
    "xlstm": partial(xLSTMConfig, **SMALL, num_heads=4),
}  # fmt: skip
MOVED_BY_PADDING = ("recurrent_gemma", "rwkv", "xlstm")


def drawn(config: PreTrainedConfig) -> PreTrainedModel:
    """A model whose layers matter."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim >= 2:
                weight.copy_(1.2 * torch.randn(weight.shape) / weight.shape[-1] ** 0.5)
    return wb.load_model(model, backend="plain", tokenizer=small_tokenizer())


@pytest.fixture(scope="module", params=MAKERS)
def stateful(request: pytest.FixtureRequest) -> PreTrainedModel:
    """Each of the models in turn."""
    return drawn(MAKERS[request.param]())


def alone(model: PreTrainedModel, prompt: wb.Prompt) -> torch.Tensor:
    """What every block gives at the last token, when there is nothing but that text."""
    given: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, args: object, output: torch.Tensor | Sequence[torch.Tensor]) -> None:
        given.append((output if isinstance(output, torch.Tensor) else output[0])[0, -1])

    handles = [block.register_forward_hook(keep) for block in wb.models.blocks(model)]
    with torch.no_grad():
        model(torch.tensor([reference.chat_ids(model.tokenizer, prompt.messages)]), use_cache=False)
    for handle in handles:
        handle.remove()
    return torch.stack(given)


def error(model: PreTrainedModel, prompts: wb.PromptSet) -> float:
    read = wb.last_token_activations(model, prompts).values
    expected = torch.stack([alone(model, prompt) for prompt in prompts])
    return float(((read - expected).norm(dim=-1) / expected.norm(dim=-1)).max())


def test_what_is_read_is_each_texts_own(stateful: PreTrainedModel, prompts: wb.PromptSet) -> None:
    assert len({len(reference.chat_ids(stateful.tokenizer, prompt.messages)) for prompt in prompts}) > 3
    assert error(stateful, prompts) < 1e-5


@pytest.mark.parametrize("name", MOVED_BY_PADDING)
def test_padding_would_move_it(name: str, prompts: wb.PromptSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the batches of one length are for."""
    monkeypatch.setattr(activations, "has_running_state", lambda model: False)
    assert error(drawn(MAKERS[name]()), prompts) > 0.1


def test_no_reply_is_steered(stateful: PreTrainedModel, prompts: wb.PromptSet) -> None:
    """Rows that leave a batch would go on with the states of others, or with none at all."""
    with pytest.raises(
        ValueError,
        match=r"a \w+ keeps a running state in place of keys and values, or beside them.*: steered replies need",
    ):
        wb.generate(stateful, prompts, max_new_tokens=4)


def test_a_model_that_takes_no_cache_is_refused(prompts: wb.PromptSet) -> None:
    """Every token would be the first of a text; a reply of one token needs none."""
    shape = dict(vocab_size=360, n_layer=4, n_embd=32, n_head=4, n_positions=64)
    model = drawn(OpenAIGPTConfig(**shape))
    assert error(model, prompts) < 1e-5
    assert len(wb.generate(model, prompts, max_new_tokens=1)) == len(prompts)
    with pytest.raises(
        ValueError,
        match=r"a OpenAIGPTLMHeadModel has kept no keys and values of the \d+ tokens so far, and would go on without",
    ):
        wb.generate(model, prompts, max_new_tokens=2)
