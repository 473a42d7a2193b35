"""Every architecture on every backend that can hold it: what the equations give, or a refusal that says why."""

from collections.abc import Callable

import pytest
import reference
import torch
from architectures import ARCHITECTURES, D_MODEL, MATRIX, N_LAYERS, WINDOW, model_of, save_model
from conftest import BACKENDS, small_tokenizer
from parity import SETTINGS, Setting, expected, parity

import workbench as wb
from workbench.decoding.asking import rows_of
from workbench.decoding.batches import decode
from workbench.decoding.choosers import Forced
from workbench.decoding.sharing import shares_prompts
from workbench.loading import Model, load_model
from workbench.models import blocks, d_model, n_layers

REFUSED = {
    (
        "hooked",
        architecture,
    ): r"TransformerLens cannot build a HookedTransformer from a \w+ \(\w+ is not currently"
    for architecture in ("gemma2", "gemma3", "olmo2", "granite", "falcon", "falcon-alibi", "falcon-new")
} | {
    (
        "hooked",
        "qwen2-sliding",
    ): r"from a Qwen2ForCausalLM \(it would leave out the sliding window of 4 tokens\)",
    # Its Llama has no biases.
    (
        "hooked",
        "internlm-converted",
    ): r"HookedTransformer and transformers disagree on this LlamaForCausalLM .*: load it with",
    # It counts alibi twice, as transformers' own eager attention for Falcon does: the mask has it already.
    (
        "bridge",
        "falcon-alibi",
    ): r'TransformerBridge and transformers disagree on this FalconForCausalLM .*: load it with backend="plain"',
    (
        "bridge",
        "falcon-new",
    ): r'cannot build a bridge around a FalconForCausalLM .*: load it with backend="plain"',
}
"""The (backend, architecture) pairs that load_model refuses, each with why. Whatever changes here is news."""

UNSHARED = ("gpt2",)
"""Architectures whose blocks do not let rows of one prompt branch off in mid-pass."""
SHARED_BY = (Setting(0.2, (3,), gate="open"), Setting(-0.2, (4, 5), gate="open", positions="reply"))

QUICK = "a plan per row"
"""Mixed lengths; gates open, closed, shared, per layer; first and last layer; prompt, reply and both; no plan."""

Load = Callable[[str, str], Model]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """A checkpoint on disk, on a backend, read once."""
    root, models = tmp_path_factory.mktemp("architectures"), {}

    def load(architecture: str, backend: str) -> Model:
        key = backend, architecture
        if key not in models:
            folder = root / architecture
            if not folder.exists():
                save_model(architecture, folder)
            models[key] = load_model(folder, backend=backend)
        return models[key]

    return load


def hold(load: Load, backend: str, architecture: str, prompts: wb.PromptSet, name: str) -> None:
    if (backend, architecture) in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[backend, architecture]):
            load(architecture, backend)
        return
    model, plain = load(architecture, backend), load(architecture, "plain")
    assert (n_layers(model), d_model(model), len(blocks(model))) == (N_LAYERS, D_MODEL, N_LAYERS)
    result = parity(model, plain, prompts, SETTINGS[name])
    assert result.holds, result


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("architecture", MATRIX)
def test_library_equals_reference(architecture: str, backend: str, load: Load, prompts: wb.PromptSet) -> None:
    hold(load, backend, architecture, prompts, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in (QUICK, "the paper's form")])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("architecture", MATRIX)
def test_library_equals_reference_in_every_setting(
    architecture: str, backend: str, name: str, load: Load, prompts: wb.PromptSet
) -> None:
    hold(load, backend, architecture, prompts, name)


@pytest.mark.parametrize("architecture", MATRIX)
def test_rows_share_their_prompts_lower_layers_or_are_run_one_by_one(
    architecture: str, load: Load, prompts: wb.PromptSet
) -> None:
    """What a sweep does, and where it does not: windows and caches of all kinds are cut row by row."""
    plain = load(architecture, "plain")
    assert shares_prompts(plain) == (architecture not in UNSHARED)
    if architecture in UNSHARED:
        return
    plans = [*[setting.plan(plain, prompts) for setting in SHARED_BY], None]
    each = [(prompt, plan) for plan in plans for prompt in prompts]
    rows = rows_of(plain, [prompt for prompt, _ in each], [plan for _, plan in each], None, 4, 64)
    found = []
    for share in (True, False):
        forced = Forced(torch.full((len(rows), 4), 9))
        decode(plain, rows, forced, 4, share=share)
        found.append(torch.stack(forced.logits))
    torch.testing.assert_close(*found, atol=1e-4, rtol=0)


def test_a_bridge_that_cannot_run_is_refused_as_it_is_loaded() -> None:
    """Its norms of queries and keys answer in float32, beside values in bfloat16."""
    model = model_of("olmo2").to(torch.bfloat16)
    with pytest.raises(
        ValueError,
        match=r"TransformerBridge cannot run this Olmo2ForCausalLM in bfloat16 \(.*\): load it with",
    ):
        load_model(model, backend="bridge", tokenizer=small_tokenizer())


HALVES = (torch.bfloat16, torch.float16)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_half_precision_within_its_tolerance(
    architecture: str, dtype: torch.dtype, prompts: wb.PromptSet
) -> None:
    model = load_model(model_of(architecture).to(dtype), backend="plain", tokenizer=small_tokenizer())
    plan = Setting(0.15, (1, 2, 4), gate=1).plan(model, prompts)
    found = wb.verify(model, plan, [prompts[i] for i in (0, 3, 4)], max_new_tokens=4)
    assert found.holds, found.faults


@pytest.mark.parametrize("architecture", MATRIX)
def test_reference_forward_is_the_model(architecture: str, load: Load, prompts: wb.PromptSet) -> None:
    plain = load(architecture, "plain")
    ids = reference.chat_ids(plain.tokenizer, prompts[1].messages)
    logits, residuals = reference.forward(plain, ids, {}, [False] * len(ids))
    with torch.no_grad():
        theirs = plain(torch.tensor([ids]), output_hidden_states=True)
    assert torch.allclose(logits, theirs.logits[0], atol=2e-5)
    assert torch.allclose(torch.stack(residuals[:-1]), torch.cat(theirs.hidden_states[1:-1]), atol=2e-5)


@pytest.mark.parametrize("architecture", MATRIX)
def test_the_models_are_worth_steering(architecture: str, load: Load, prompts: wb.PromptSet) -> None:
    """Prompts are longer than a window; gates open and closed; shifts change replies; replies do not collapse."""
    plain = load(architecture, "plain")
    lengths = {len(reference.chat_ids(small_tokenizer(), prompt.messages)) for prompt in prompts}
    assert len(lengths) >= 4 and min(lengths) > WINDOW
    settings = SETTINGS[QUICK]
    rows = [expected(plain, prompts, *row) for row in zip(prompts, settings, strict=True)]
    unsteered = [expected(plain, prompts, prompt, None) for prompt in prompts]
    reached = [
        setting is not None and any(row.gate_open[layer] for layer in setting.layers)
        for row, setting in zip(rows, settings, strict=True)
    ]
    changed = [row.tokens != other.tokens for row, other in zip(rows, unsteered, strict=True)]
    assert 2 <= sum(reached) <= 7
    assert sum(changed) >= sum(reached) / 2
    assert not any(c and not r for c, r in zip(changed, reached, strict=True))
    assert len({row.tokens[-3:] for row in rows}) >= 6
    assert sum(len(set(row.tokens)) >= 4 for row in rows) >= 6
