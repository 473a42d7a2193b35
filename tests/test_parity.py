"""The library gives what the equations give, on every backend: logits at every step, tokens, decisions."""

from dataclasses import replace

import pytest
import reference
import torch
from conftest import small_tokenizer
from parity import SETTINGS, expected, parity

import workbench as wb
from workbench.loading import Model


@pytest.mark.parametrize("name", SETTINGS)
def test_library_equals_reference(
    name: str, babbler: Model, babblers: dict[str, Model], prompts: wb.PromptSet
) -> None:
    result = parity(babbler, babblers["plain"], prompts, SETTINGS[name])
    assert result.holds, result


def test_reference_forward_is_the_model(babblers: dict[str, Model], prompts: wb.PromptSet) -> None:
    plain = babblers["plain"]
    ids = reference.chat_ids(plain.tokenizer, prompts[1].messages)
    logits, residuals = reference.forward(plain, ids, {}, [False] * len(ids))
    with torch.no_grad():
        theirs = plain(torch.tensor([ids]), output_hidden_states=True)
    assert torch.allclose(logits, theirs.logits[0], atol=1e-6)
    assert torch.allclose(torch.stack(residuals[:-1]), torch.cat(theirs.hidden_states[1:-1]), atol=1e-6)


def test_the_settings_test_something(babblers: dict[str, Model], prompts: wb.PromptSet) -> None:
    """Mixed lengths; gates open and closed; shifts of 5 to 20 % that change most replies they reach; varied replies."""
    plain = babblers["plain"]
    lengths = {len(reference.chat_ids(small_tokenizer(), prompt.messages)) for prompt in prompts}
    assert len(lengths) >= 4
    lengths_of = wb.mean_difference(wb.last_token_activations(plain, prompts)).residual_norms.tolist()
    for name, settings in SETTINGS.items():
        rows = [expected(plain, prompts, *row) for row in zip(prompts, settings, strict=True)]
        unsteered = [expected(plain, prompts, prompt, None) for prompt in prompts]
        reached = [
            setting is not None and any(row.gate_open[layer] for layer in setting.layers)
            for row, setting in zip(rows, settings, strict=True)
        ]
        changed = [row.tokens != other.tokens for row, other in zip(rows, unsteered, strict=True)]
        assert 2 <= sum(reached) <= 7, name
        assert sum(changed) >= sum(reached) / 2, name
        assert not any(c and not r for c, r in zip(changed, reached, strict=True)), name
        for setting in filter(None, settings):
            units = [1.0] if setting.scale == "residual" else [lengths_of[layer] for layer in setting.layers]
            assert all(0.05 <= abs(setting.alpha) / unit <= 0.2 for unit in units), name
        assert len({row.tokens[-3:] for row in rows}) >= 6, name


def test_online_is_not_clean(babblers: dict[str, Model], prompts: wb.PromptSet) -> None:
    """Lower layers' shifts change what higher ones decide, in some rows of every setting that reads online."""
    plain = babblers["plain"]
    for name in ("read online", "online beside the prefill", "online beside a clean pass"):
        rows = [
            (setting, expected(plain, prompts, prompt, setting), expected(plain, prompts, prompt, clean))
            for prompt, setting in zip(prompts, SETTINGS[name], strict=True)
            if setting is not None and setting.deciding == "online"
            for clean in [replace(setting, deciding="clean")]
        ]
        differ = [
            [layer for layer in setting.layers if online.gate_open[layer] != clean.gate_open[layer]]
            for setting, online, clean in rows
        ]
        assert sum(map(bool, differ)) >= 2, name
        changed = [online.tokens != clean.tokens for _, online, clean in rows]
        assert sum(changed) >= 2 and not any(c and not d for c, d in zip(changed, differ, strict=True)), name


def test_closed_forms(babblers: dict[str, Model], prompts: wb.PromptSet) -> None:
    """With balanced sets the gate's argument is +-|v'_l| / 2 at the two means (reference and library alike)."""
    plain = babblers["plain"]
    activations = wb.last_token_activations(plain, prompts)
    vectors = wb.mean_difference(activations)
    gate = wb.ThresholdGate.fit(vectors, activations)
    for mask, sign in ((activations.harmful, 0.5), (~activations.harmful, -0.5)):
        mean = activations.values[mask].mean(0)
        argument = (mean * gate.directions).sum(-1) + gate.bias
        assert torch.allclose(argument, sign * vectors.norms, atol=1e-4)
