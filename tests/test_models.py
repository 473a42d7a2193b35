"""What is asked of a model is answered alike on three backends, and hooks come and go."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import BACKENDS, CONTEXT, D_MODEL, LENSES, N_LAYERS, hooked_only, small_tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from workbench.activations import last_token_activations
from workbench.chat import EncodedBatch, encode
from workbench.forward import run_body
from workbench.gates import AlwaysOpen
from workbench.generation import generate
from workbench.loading import Model, load_model
from workbench.models import (
    blocks,
    carries_hooks,
    context_length,
    d_model,
    device_of,
    final_norm,
    hook_name,
    input_hook,
    model_hash,
    model_name,
    n_layers,
    residual_hooks,
    space_of,
    tokenizer_of,
    transformers_model,
)
from workbench.prompts import PromptSet
from workbench.provenance import SpaceMismatch
from workbench.steering import SteeringPlan
from workbench.vectors import mean_difference

SITES = ("resid_pre", "resid_mid", "resid_post")


@pytest.fixture(scope="module")
def batch(prompts: PromptSet) -> EncodedBatch:
    return encode(small_tokenizer(), prompts)


def read(model: Model, batch: EncodedBatch, site: str) -> dict[int, Tensor]:
    """The whole residual stream at a site, by layer."""
    seen: dict[int, Tensor] = {}
    keep = {
        layer: lambda residual, layer=layer: seen.update({layer: residual.clone()})
        for layer in range(N_LAYERS)
    }
    with residual_hooks(model, site, keep):
        run_body(model, batch)
    return seen


def real(values: Tensor, batch: EncodedBatch) -> Tensor:
    """The rows of `values` that are not padding."""
    return values[batch.attention_mask.bool()]


def logits(model: Model, batch: EncodedBatch) -> Tensor:
    with torch.no_grad():
        if isinstance(model, PreTrainedModel):
            return model(
                batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids
            ).logits
        return model(batch.input_ids, attention_mask=batch.attention_mask)


def test_answers_are_the_same(model: Model):
    assert (n_layers(model), d_model(model), context_length(model)) == (N_LAYERS, D_MODEL, CONTEXT)
    assert len(blocks(model)) == N_LAYERS and device_of(model) == torch.device("cpu")
    assert model_name(model) == "tiny-llama"
    assert tokenizer_of(model).get_vocab() == small_tokenizer().get_vocab()


def test_the_space_is_the_same_on_all_backends(llamas: dict[str, Model]):
    assert len({space_of(model) for model in llamas.values()}) == 1
    assert space_of(llamas["plain"]).processing == "raw"
    assert space_of(llamas["plain"], "resid_mid").site == "resid_mid"


def processed_bridge(folder: Path, **chosen: bool) -> Model:
    model = load_model(folder, backend="bridge")
    model.enable_compatibility_mode(**chosen)
    return model


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_bridge_takes_no_vectors_made_under_other_processing(
    checkpoints: dict[str, Path], prompts: PromptSet, architecture: str
):
    """One that only answers to the old names of hooks is as raw as any other model. RMSNorm has nothing to centre."""
    folder = checkpoints[architecture]
    models = {
        "raw": processed_bridge(folder, no_processing=True),
        "processed": processed_bridge(folder, center_writing_weights=False),
        "processed+center_writing_weights": processed_bridge(folder),
    }
    if architecture == "llama":
        del models["processed+center_writing_weights"]
    raw = space_of(load_model(folder, backend="plain"))
    for made, model in models.items():
        assert space_of(model) == replace(raw, processing=made)
        vectors = mean_difference(last_token_activations(model, prompts))
        plan = SteeringPlan(vectors, gate=AlwaysOpen(), layers=[1], alpha=1.0)
        for used, other in models.items():
            if used == made:
                assert generate(other, prompts, plan, max_new_tokens=1)
                continue
            with pytest.raises(SpaceMismatch) as refused:
                generate(other, prompts, plan, max_new_tokens=1)
            assert f"made with processing={made!r}, used with processing={used!r}: load both raw" in str(
                refused.value
            )


def test_processing_a_bridge_leaves_the_model_it_was_built_around_raw(
    checkpoints: dict[str, Path], prompts: PromptSet
):
    """They share tensors until then."""
    own = load_model(checkpoints["gpt2"], backend="plain")
    before = last_token_activations(own, prompts).values
    bridge = load_model(own, backend="bridge")
    bridge.enable_compatibility_mode()
    assert torch.equal(last_token_activations(own, prompts).values, before)
    assert not torch.allclose(last_token_activations(bridge, prompts).values, before, atol=1e-2)


def test_model_hash_follows_the_weights(model: Model, checkpoints: dict[str, Path], backend: str):
    again = load_model(checkpoints["llama"], backend=backend)
    assert model_hash(again) == model_hash(model)
    with torch.no_grad():
        next(again.parameters()).mul_(1.01)
    assert model_hash(again) != model_hash(model)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "neox", "gpt2"])
def test_backends_read_the_same_residuals(
    checkpoints: dict[str, Path], prompts: PromptSet, architecture: str, site: str
):
    models = {b: load_model(checkpoints[architecture], backend=b) for b in BACKENDS}
    batch = encode(tokenizer_of(models["plain"]), prompts)
    if architecture == "neox" and site == "resid_mid":  # parallel attention and MLP: there is no such point
        for model in models.values():
            with pytest.raises(ValueError, match="has no (hook|norm) .*: use resid_pre or resid_post"):
                read(model, batch, site)
        return
    seen = {backend: read(model, batch, site) for backend, model in models.items()}
    for layer in range(N_LAYERS):
        expected = real(seen["plain"][layer], batch)
        for backend in LENSES:
            torch.testing.assert_close(real(seen[backend][layer], batch), expected, atol=1e-5, rtol=1e-5)


def test_post_of_a_layer_is_pre_of_the_next(model: Model, batch: EncodedBatch):
    post, pre = read(model, batch, "resid_post"), read(model, batch, "resid_pre")
    for layer in range(N_LAYERS - 1):
        assert torch.equal(post[layer], pre[layer + 1])


@pytest.mark.parametrize("site", ["resid_pre", "resid_post"])
def test_what_a_function_returns_takes_the_residuals_place(
    llamas: dict[str, Model], backend: str, batch: EncodedBatch, site: str
):
    model, shift = llamas[backend], torch.linspace(-1, 1, D_MODEL)
    plain = llamas["plain"]

    def add(module: torch.nn.Module, args: tuple, output: Tensor) -> Tensor:
        return output + shift

    with residual_hooks(model, site, {2: lambda residual: residual + shift}):
        steered = logits(model, batch)
    handle = blocks(plain)[2 if site == "resid_post" else 1].register_forward_hook(add)
    expected = logits(plain, batch)
    handle.remove()
    assert not torch.allclose(real(expected, batch), real(logits(plain, batch), batch), atol=1e-2)
    torch.testing.assert_close(real(steered, batch), real(expected, batch), atol=1e-4, rtol=1e-4)


@hooked_only
def test_resid_mid_is_written_on_a_hooked_transformer(llamas: dict[str, Model], batch: EncodedBatch):
    before = logits(llamas["hooked"], batch)
    with residual_hooks(llamas["hooked"], "resid_mid", {1: lambda residual: residual + 1}):
        assert not torch.allclose(logits(llamas["hooked"], batch), before, atol=1e-2)


@pytest.mark.parametrize("name", ["bridge", "plain"])
def test_resid_mid_is_read_only_elsewhere(llamas: dict[str, Model], batch: EncodedBatch, name: str):
    with (
        pytest.raises(ValueError, match="resid_mid can only be read here: change resid_post"),
        residual_hooks(llamas[name], "resid_mid", {1: lambda residual: residual + 1}),
    ):
        run_body(llamas[name], batch)


def test_hooks_are_gone_afterwards_and_after_an_error(model: Model, batch: EncodedBatch):
    before = logits(model, batch)
    with residual_hooks(model, "resid_post", {1: lambda residual: residual + 1}):
        pass
    assert torch.equal(logits(model, batch), before)

    def fail(residual: Tensor) -> None:
        raise RuntimeError("inside")

    with (
        pytest.raises(RuntimeError, match="inside"),
        residual_hooks(model, "resid_post", {0: lambda residual: residual + 1, 2: fail}),
    ):
        run_body(model, batch)
    assert torch.equal(logits(model, batch), before)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "neox", "gpt2"])
def test_every_pass_shows_its_tokens(
    architecture: str, backend: str, checkpoints: dict[str, Path], batch: EncodedBatch
):
    model, seen = load_model(checkpoints[architecture], backend=backend), []
    with input_hook(model, seen.append):
        logits(model, batch)
        run_body(model, batch)
    logits(model, batch)
    assert len(seen) == 2 and all(torch.equal(ids, batch.input_ids) for ids in seen)


def test_the_users_own_hooks_stay(llamas: dict[str, Model], batch: EncodedBatch):
    for backend in LENSES:
        model = llamas[backend]
        before = logits(model, batch)
        model.add_hook(hook_name(0), lambda residual, hook: residual + 1)
        try:
            mine = logits(model, batch)
            with residual_hooks(model, "resid_post", {0: lambda residual: residual + 1}):
                both = logits(model, batch)
            after = logits(model, batch)
        finally:
            model.reset_hooks()
        assert (
            torch.equal(mine, after)
            and not torch.equal(mine, both)
            and torch.equal(before, logits(model, batch))
        )


def test_hooks_that_transformers_leaves_are_nobodys(checkpoints: dict[str, Path], batch: EncodedBatch):
    model = load_model(checkpoints["llama"], backend="plain")
    model(batch.input_ids, output_hidden_states=True)
    assert any(module._forward_hooks for module in model.modules())  # they stay, and only watch
    assert not carries_hooks(model)
    with residual_hooks(model, "resid_post", {0: lambda residual: None}):
        assert carries_hooks(model)


@pytest.mark.parametrize("way", ["in place", "its forward"])
@pytest.mark.parametrize(("part", "named"), [("", "the model"), ("model", "model"), ("model.layers.2", None)])
def test_a_compiled_model_calls_no_hook_and_is_refused(
    checkpoints: dict[str, Path], prompts: PromptSet, part: str, named: str | None, way: str
):
    model = load_model(checkpoints["llama"], backend="plain")
    vectors = mean_difference(last_token_activations(model, prompts))
    plan = SteeringPlan(vectors, gate=AlwaysOpen(), layers=[2], alpha=1.0, scale="residual")
    expected = last_token_activations(model, prompts)
    compiled = model.get_submodule(part)
    if way == "in place":
        compiled.compile(backend="eager")
    else:
        compiled.forward = torch.compile(compiled.forward, backend="eager")
    if named is None and way == "its forward":  # hooks of a block are called around its forward
        assert torch.allclose(last_token_activations(model, prompts).values, expected.values, atol=1e-5)
        return
    with pytest.raises(ValueError, match=f"^{named or part} of 'tiny-llama' was compiled, and hooks"):
        generate(model, prompts, plan, max_new_tokens=4)
    with pytest.raises(ValueError, match=r"not called: steer a model that is not$"):
        last_token_activations(model, prompts)


def test_the_body_leaves_the_head_alone(model: Model, batch: EncodedBatch):
    head = transformers_model(model).lm_head if transformers_model(model) else model.unembed
    handle = head.register_forward_hook(lambda *args: pytest.fail("the LM head ran"))
    run_body(model, batch)
    handle.remove()


def test_the_final_norm_reads_what_the_last_block_leaves(
    checkpoints: dict[str, Path], prompts: PromptSet, backend: str
) -> None:
    for architecture in ("llama", "neox", "gpt2"):
        model, seen = load_model(checkpoints[architecture], backend=backend), []
        batch = encode(tokenizer_of(model), prompts)
        handle = final_norm(model).register_forward_pre_hook(
            lambda module, args, seen=seen: seen.append(args[0])
        )
        last = read(model, batch, "resid_post")[N_LAYERS - 1]
        handle.remove()
        assert len(seen) == 1 and torch.equal(seen[0], last)


def test_a_model_without_a_final_norm_has_none(checkpoints: dict[str, Path]) -> None:
    model = load_model(checkpoints["llama"], backend="plain")
    model.model.norm = None
    assert final_norm(model) is None


def test_wrong_sites_and_layers_are_named(model: Model):
    with pytest.raises(
        ValueError, match="got site 'mlp_out', expected one of resid_pre, resid_mid, resid_post"
    ):
        space_of(model, "mlp_out")
    for layer in (-1, N_LAYERS):
        with (
            pytest.raises(ValueError, match=f"got layer {layer}: 'tiny-llama' has layers 0 to 3"),
            residual_hooks(model, "resid_post", {layer: lambda residual: None}),
        ):
            pass


def test_a_model_without_tokenizer_is_named(checkpoints: dict[str, Path]):
    model = AutoModelForCausalLM.from_pretrained(checkpoints["llama"])
    with pytest.raises(ValueError, match=r"tiny-llama' has no tokenizer: load it with load_model"):
        space_of(model)
