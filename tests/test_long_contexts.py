"""Models whose config promises 131,072 tokens: nothing is held for them, and what is long is read and steered alike."""

from pathlib import Path

import pytest
import torch
from architectures import model_of
from conftest import BACKENDS, small_tokenizer
from transformers import PreTrainedModel

import workbench as wb
from workbench.chat import tokenize
from workbench.loading import Model, load_model
from workbench.models import context_length, tokenizer_of

pytestmark = pytest.mark.slow  # long texts through three backends

LONG = 131_072
WORDS = "ring lock letter boat bake paint mend read steal hide break forge plan sure help".split()


def essay(n: int) -> str:
    """A text of `n` words, and some more tokens: more than the 2,048 that TransformerLens makes tables for."""
    drawn = torch.randint(len(WORDS), (n,), generator=torch.Generator().manual_seed(0)).tolist()
    return " ".join(WORDS[i] for i in drawn)


@pytest.fixture(scope="module", params=["llama", "gemma2", "mistral"])
def long(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Full attention; tied embeddings, soft caps and windows in every other layer; windows in all of them."""
    model, tokenizer = model_of(request.param), small_tokenizer()
    model.config.max_position_embeddings = tokenizer.model_max_length = LONG
    folder = tmp_path_factory.mktemp("long") / request.param
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(long: Path) -> dict[str, Model]:
    """The model on every backend that holds it."""
    if "hooked" in BACKENDS and "gemma" in long.name:
        with pytest.raises(
            ValueError, match=r"cannot build a HookedTransformer .*: load it with backend=\"bridge\""
        ):
            load_model(long, backend="hooked")
    return {
        name: load_model(long, backend=name)
        for name in BACKENDS
        if name != "hooked" or "gemma" not in long.name
    }


def prompts() -> wb.PromptSet:
    return wb.PromptSet.from_texts("h", [essay(1700)], "harmful") + wb.PromptSet.from_texts(
        "n", ["bake"], "harmless"
    )


def test_nothing_is_held_for_a_context_that_nobody_fills(loaded: dict[str, Model]):
    for model in loaded.values():
        assert sum(buffer.nbytes for buffer in model.buffers()) < 2**21


def test_a_reply_is_by_default_as_long_as_in_the_paper(loaded: dict[str, Model]):
    for model in loaded.values():
        assert len(wb.generate(model, ["bake"], stop_ids=[])[0].tokens) == 256


def test_what_is_long_is_read_and_steered_alike_on_every_backend(loaded: dict[str, Model]):
    plain = loaded["plain"]
    assert isinstance(plain, PreTrainedModel) and context_length(plain) == LONG
    assert len(tokenize(tokenizer_of(plain), prompts())[0]) > 2048
    expected = wb.last_token_activations(plain, prompts())
    vectors = wb.mean_difference(expected)
    gate = wb.ThresholdGate.fit(vectors, expected, layer=1)
    plan = wb.SteeringPlan(vectors, gate=gate, layers=[1, 2], alpha=0.2, scale="residual")
    replies = wb.generate(plain, prompts(), plan, max_new_tokens=2)
    assert [any(reply.gate_open or ()) for reply in replies] == [True, False]
    for name in set(loaded) - {"plain"}:
        model = loaded[name]
        if context_length(model) < LONG:  # TransformerLens cuts some off
            with pytest.raises(
                ValueError, match=r"has \d+ tokens and 0 are kept .* the context holds 2048: shorten"
            ):
                wb.last_token_activations(model, prompts())
            continue
        read = wb.last_token_activations(model, prompts())
        assert (read.values - expected.values).abs().max() < 1e-4 * expected.values.norm(dim=-1).mean(), name
        steered = wb.generate(model, prompts(), plan, max_new_tokens=2)
        assert [reply.tokens for reply in steered] == [reply.tokens for reply in replies], name
