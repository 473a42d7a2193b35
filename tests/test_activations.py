"""Last-token residuals: against plain transformers hooks, in order, from caches, and without NaN."""

from pathlib import Path

import pytest
import torch
from conftest import CONTEXT, D_MODEL, LENSES, N_LAYERS
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from workbench.activations import Activations, last_token_activations
from workbench.chat import encode, render
from workbench.loading import Model, load_model
from workbench.models import space_of, tokenizer_of
from workbench.prompts import Prompt, PromptSet
from workbench.vectors import mean_difference


def reference(folder: Path, prompts: PromptSet) -> Tensor:
    """Block outputs of the transformers model at the last token, one prompt at a time, unpadded."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = tokenizer_of(load_model(folder, backend="plain"))
    body = model.model if hasattr(model, "model") else model.base_model
    layers = body.layers if hasattr(body, "layers") else body.h
    rows: list[Tensor] = []
    seen: list[Tensor] = []

    def keep(module: torch.nn.Module, args: tuple, output: Tensor | tuple) -> None:
        seen.append((output[0] if isinstance(output, tuple) else output)[0, -1])

    for prompt in prompts:
        seen.clear()
        handles = [layer.register_forward_hook(keep) for layer in layers]
        ids = tokenizer(render(tokenizer, prompt), add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            model(ids)
        for handle in handles:
            handle.remove()
        rows.append(torch.stack(seen))
    return torch.stack(rows)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "neox", "gpt2"])
def test_residuals_are_those_of_plain_transformers(
    checkpoints: dict[str, Path], prompts: PromptSet, architecture: str, backend: str
):
    model = load_model(checkpoints[architecture], backend=backend)
    got = last_token_activations(model, prompts, batch_size=3)
    torch.testing.assert_close(
        got.values, reference(checkpoints[architecture], prompts), atol=1e-4, rtol=1e-4
    )
    assert got.values.dtype == torch.float32 and got.labels == prompts.labels
    assert got.space == space_of(model) and got.provenance.prompts_hash == prompts.hash


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_order_and_batch_size_do_not_matter(model: Model, prompts: PromptSet, batch_size: int):
    once = last_token_activations(model, prompts)
    turned = last_token_activations(model, prompts.prompts[::-1], batch_size=batch_size)
    torch.testing.assert_close(turned.values.flip(0), once.values, atol=1e-5, rtol=1e-5)


def test_half_precision_models_give_float32(checkpoints: dict[str, Path], prompts: PromptSet, backend: str):
    exact = last_token_activations(load_model(checkpoints["llama"], backend=backend), prompts)
    rough = last_token_activations(
        load_model(checkpoints["llama"], backend=backend, dtype=torch.bfloat16), prompts
    )
    assert rough.values.dtype == torch.float32
    assert ((rough.values - exact.values).norm(dim=-1) < 0.05 * exact.values.norm(dim=-1)).all()


@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "resid_post"])
def test_a_cache_gives_the_same(llamas: dict[str, Model], prompts: PromptSet, site: str):
    for backend in LENSES:
        model = llamas[backend]
        batch = encode(tokenizer_of(model), prompts)
        with torch.no_grad():
            _, cache = model.run_with_cache(batch.input_ids, attention_mask=batch.attention_mask)
        got = Activations.from_cache(cache, prompts.labels, model=model, site=site)
        expected = last_token_activations(model, prompts, site=site)
        torch.testing.assert_close(got.values, expected.values, atol=1e-5, rtol=1e-5)
        assert got.space == expected.space and got.prompts_hash == ""


@pytest.mark.parametrize("name", LENSES)
def test_caches_that_lack_something_are_named(llamas: dict[str, Model], one_prompt: Prompt, name: str):
    model = llamas[name]
    tokens = encode(tokenizer_of(model), [one_prompt]).input_ids
    _, cache = model.run_with_cache(tokens, names_filter="blocks.0.hook_resid_post")
    with pytest.raises(ValueError, match="the cache has no 'blocks.1.hook_resid_post': .* names_filter"):
        Activations.from_cache(cache, ["harmful"], model=model)
    _, cache = model.run_with_cache(tokens, remove_batch_dim=True)
    with pytest.raises(
        ValueError, match="has 2 dimensions, expected batch, pos, d_model: .*remove_batch_dim=False"
    ):
        Activations.from_cache(cache, ["harmful"], model=model)
    _, cache = model.run_with_cache(tokens)
    with pytest.raises(ValueError, match=r"shape \(1, 4, 32\), expected \(2, 4, 32\): one row per label"):
        Activations.from_cache(cache, ["harmful", "harmless"], model=model)
    with pytest.raises(ValueError, match="got labels evil, expected some of harmful, harmless"):
        Activations.from_cache(cache, ["evil"], model=model)


def test_choosing_rows_keeps_prompts_and_labels(llamas: dict[str, Model], prompts: PromptSet):
    read = last_token_activations(llamas["plain"], prompts)
    assert len(read) == 8 and read.harmful.tolist() == [True] * 4 + [False] * 4
    harmless = read.labelled("harmless")
    assert (
        torch.equal(harmless.values, read.values[4:])
        and harmless.prompts_hash == prompts.labelled("harmless").hash
    )
    odd = read.where(torch.arange(8) % 2 == 1)
    assert [p.text for p in odd.prompts] == [p.text for p in prompts.prompts[1::2]]
    with pytest.raises(ValueError, match="no activations labelled domain: there are harmful, harmless"):
        read.labelled("domain")
    with pytest.raises(ValueError, match="no row of these 8 activations is chosen"):
        read.where(torch.zeros(8, dtype=torch.bool))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_names_prompt_and_layer(llamas: dict[str, Model], prompts: PromptSet, bad: float):
    read = last_token_activations(llamas["plain"], prompts)
    values = read.values.clone()
    values[5, 2, 7] = bad
    message = "of prompt {} hold NaN or infinity at layer 2: load the model in float32 or bfloat16"
    with pytest.raises(ValueError, match=message.format("'harmless:1'")):
        Activations(values, read.labels, prompts, read.space, read.provenance)
    with pytest.raises(ValueError, match=message.format("number 5")):
        Activations(values, read.labels, None, read.space, read.provenance)


def test_nan_weights_are_noticed(checkpoints: dict[str, Path], prompts: PromptSet, backend: str):
    model = load_model(checkpoints["llama"], backend="plain")
    model.model.layers[1].mlp.up_proj.weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="of prompt 'harmful:0' hold NaN or infinity at layer 1"):
        last_token_activations(model, prompts)


def test_empty_and_too_long_prompts_are_refused(model: Model):
    with pytest.raises(ValueError, match="prompt set 'prompts' is empty"):
        last_token_activations(model, [])
    long = Prompt.user("ring " * CONTEXT, source="essay")
    with pytest.raises(ValueError, match=f"prompt 'essay' has .* the context holds {CONTEXT}: shorten"):
        last_token_activations(model, [long])


def test_only_the_last_position_is_kept(llamas: dict[str, Model], prompts: PromptSet):
    read = last_token_activations(llamas["plain"], prompts)
    assert read.values.untyped_storage().nbytes() == 4 * len(prompts) * N_LAYERS * D_MODEL


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_has_rows(llamas: dict[str, Model], prompts: PromptSet, batch_size: int):
    with pytest.raises(ValueError, match=rf"got batch_size={batch_size}: expected 1 or more"):
        last_token_activations(llamas["plain"], prompts, batch_size=batch_size)


def test_from_loading_to_the_first_vector_it_is_less_than_two_passes(
    checkpoints: dict[str, Path], prompts: PromptSet, backend: str, monkeypatch: pytest.MonkeyPatch
):
    """In tokens that go through each block: those of the prompts once, and of the loading's check a few."""
    seen: dict[int, int] = {}

    def counting(kind: type[torch.nn.Module]) -> None:
        own = kind.forward

        def forward(self: torch.nn.Module, residual: Tensor, *args: object, **kwargs: object) -> object:
            seen[id(self)] = seen.get(id(self), 0) + residual[..., 0].numel()
            return own(self, residual, *args, **kwargs)

        monkeypatch.setattr(kind, "forward", forward)

    counting(LlamaDecoderLayer)
    if backend == "hooked":
        from transformer_lens.components import TransformerBlock  # TransformerLens 4 has none

        counting(TransformerBlock)
    model = load_model(checkpoints["llama"], backend=backend)
    mean_difference(last_token_activations(model, prompts))
    once = encode(tokenizer_of(model), prompts).input_ids.numel()
    tokens = sorted(seen.values())[-N_LAYERS:]  # a HookedTransformer has blocks of its own
    assert tokens == [once + (0 if backend == "plain" else 32 if backend == "bridge" else 16)] * N_LAYERS
    assert sum(seen.values()) < 2 * once * N_LAYERS
