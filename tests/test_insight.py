"""Inside the model: every picture's frame against an exact truth, on three backends where one head is not asked for."""

import pandas as pd
import pytest
import torch
from conftest import hooked_only

from workbench.activations import last_token_activations
from workbench.gates import AlwaysOpen, ThresholdGate, project
from workbench.insight.attribution import attribution_gap, direction_attribution, refusal_attribution
from workbench.insight.lens import lens_logits, opening_tokens, unembedding_of, vector_lens
from workbench.insight.reading import texts_of, token_text
from workbench.insight.steered import refusal_lead, steered_residuals
from workbench.insight.tokens import jailbreak_twins, token_map
from workbench.loading import Model, load_model, load_tokenizer
from workbench.models import context_length, tokenizer_of, transformers_model
from workbench.prompts import Prompt, PromptSet
from workbench.published import load_contrast
from workbench.steering import SteeringPlan
from workbench.vectors import SteeringVectors, mean_difference, random_directions

REFUSAL, COMPLIANCE = ["no", "cannot help"], ["sure", "please read"]


@pytest.fixture(scope="module")
def read(model: Model, prompts: PromptSet):
    return last_token_activations(model, prompts)


@pytest.fixture(scope="module")
def vectors(read) -> SteeringVectors:
    return mean_difference(read)


def plan_of(vectors: SteeringVectors, **changed) -> SteeringPlan:
    return SteeringPlan(
        vectors, **dict(gate=AlwaysOpen(), layers=[1, 2], alpha=0.2, scale="residual") | changed
    )


def model_logits(model: Model, batch) -> torch.Tensor:
    with torch.no_grad():
        if transformers_model(model) is None:
            return model(batch.input_ids, attention_mask=batch.attention_mask)
        out = model(batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids)
        return getattr(out, "logits", out)


def test_the_lens_is_a_matrix_product(checkpoints, backend: str, prompts: PromptSet):
    """Of a final norm whose weight is not the initial one, which is all ones."""
    plain = load_model(checkpoints["llama"], backend="plain")
    with torch.no_grad():
        plain.model.norm.weight += torch.randn(
            plain.config.hidden_size, generator=torch.Generator().manual_seed(0)
        )
    model = load_model(plain, backend=backend)
    vectors = mean_difference(last_token_activations(model, prompts))
    frame = vector_lens(vectors, model, name="v", top=5)
    weight, matrix = plain.model.norm.weight.detach(), plain.lm_head.weight.detach().T
    logits = ((vectors.directions * weight) @ matrix)[:, : len(tokenizer_of(model))]
    best, worst = logits.topk(5), logits.topk(5, largest=False)
    for side, expected in (("promoted", best), ("suppressed", worst)):
        part = frame[frame["side"] == side].sort_values(["layer", "rank"])
        assert part["token_id"].tolist() == expected.indices.flatten().tolist()
        assert part["logit"].tolist() == pytest.approx(expected.values.flatten().tolist(), abs=1e-4)


@pytest.mark.parametrize("architecture", ["gpt2", "neox", "qwen2"])
def test_the_final_norm_is_asked_and_answers_truly(checkpoints, architecture: str, prompts: PromptSet):
    """LayerNorms, too, whose weight and bias are not the initial ones: at the end lens logits are the model's."""
    plain = load_model(checkpoints[architecture], backend="plain")
    norm = next(
        m for name, m in plain.named_modules() if name.endswith(("ln_f", "final_layer_norm", "model.norm"))
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in norm.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    head = unembedding_of(plain)
    assert torch.allclose(head.norm_weight, norm.weight.detach(), atol=1e-4)
    assert head.centres == (architecture != "qwen2")
    last = last_token_activations(plain, prompts).values[:, -1]
    expected = model_logits(plain, texts_of(plain, prompts).batch)[:, -1]
    assert torch.allclose(lens_logits(plain, last), expected, atol=1e-4)
    centred = last - last.mean(-1, keepdim=True) if head.centres else last
    size = (centred.pow(2).mean(-1) + 1e-5).sqrt()[:, None]
    rebuilt = head.folded(last) / size + head.norm_bias @ head.weight + head.bias
    assert torch.allclose(rebuilt, expected, atol=1e-3)


def test_a_token_maps_last_column_is_what_the_gate_reads(model: Model, prompts, read, vectors):
    frame = token_map(vectors, model, prompts)
    last = frame[frame["position"] == frame.groupby("prompt")["position"].transform("max")]
    table = last.pivot(index="prompt", columns="layer", values="projection").to_numpy()
    assert torch.allclose(torch.tensor(table).float(), project(vectors, read), atol=1e-4)
    gate = ThresholdGate.fit(vectors, read).shift_bias(0.5)
    scores = token_map(vectors, model, prompts, gate=gate)
    scores = scores[scores["position"] == scores.groupby("prompt")["position"].transform("max")]
    table = scores.pivot(index="prompt", columns="layer", values="reads").to_numpy() * vectors.norms.numpy()
    assert torch.allclose(torch.tensor(table).float(), gate.read(read).scores, atol=1e-3)


def test_a_piece_of_a_character_goes_by_the_name_that_the_tokenizer_has_for_it():
    tokenizer = load_tokenizer("organism:base")
    tokens = range(len(tokenizer))
    pieces = [token for token in tokens if "\ufffd" in tokenizer.decode([token])]
    assert pieces, "this tokenizer has bytes that are no text"
    assert all("\ufffd" not in token_text(tokenizer, token) for token in tokens)
    assert token_text(tokenizer, pieces[0]) == tokenizer.convert_ids_to_tokens(pieces[0])
    (word,) = tokenizer("How", add_special_tokens=False)["input_ids"]
    assert token_text(tokenizer, word) == "How"


def test_a_token_map_has_the_text_and_no_padding(model: Model, prompts, vectors):
    frame = token_map(vectors, model, prompts)
    alone = token_map(vectors, model, [prompts[4]])
    here = frame[frame["prompt"] == 4].reset_index(drop=True)
    assert here["token"].tolist() == alone["token"].tolist()
    assert here["projection"].tolist() == pytest.approx(alone["projection"].tolist(), abs=1e-3)
    said = "".join(here[here["layer"] == 0]["token"])
    assert said.startswith("<s>") and "bake" in said and said.endswith("<assistant>")


def test_a_request_and_its_jailbreak_share_their_words():
    val = load_contrast("small-world").val
    pairs = jailbreak_twins(val)
    for plain, jailbreak in pairs:
        assert (plain.label, jailbreak.label) == ("harmful", "jailbroken")
        assert plain.text in jailbreak.text and dict(plain.cluster)["verb"] == dict(jailbreak.cluster)["verb"]
    assert len({plain.text for plain, _ in pairs}) == len(pairs) >= 1
    with pytest.raises(ValueError, match="comes back word by word in a jailbroken one"):
        jailbreak_twins(val.labelled("harmful", "harmless"))


def test_at_the_first_steered_layer_runs_differ_by_the_shift_alone(model: Model, prompts, vectors):
    plan = plan_of(vectors)
    frame = steered_residuals(model, plan, prompts)
    keys = ["prompt", "position", "layer"]
    arms = {arm: part.set_index(keys).sort_index() for arm, part in frame.groupby("arm")}
    change = arms["steered"]["projection"] - arms["unsteered"]["projection"]
    assert change.xs(0, level="layer").abs().max() == 0
    added = float(plan.strengths[0])
    assert (change.xs(1, level="layer") - added).abs().max() < 1e-3
    shift = arms["steered"]["shift"].groupby("layer").first().tolist()
    assert shift == pytest.approx([0, *plan.strengths.tolist(), 0], rel=1e-5)
    assert (arms["unsteered"]["shift"] == 0).all()
    clean, moved = (arms[arm].xs(1, level="layer") for arm in ("unsteered", "steered"))
    expected = (clean["norm"] ** 2 + 2 * added * clean["projection"] + added**2) ** 0.5
    assert (moved["norm"] - expected).abs().max() < 1e-3
    assert (moved["cosine"] - moved["projection"] / moved["norm"]).abs().max() < 1e-5


def test_a_control_is_an_arm_of_its_own(model: Model, prompts, vectors):
    control = plan_of(random_directions(vectors, seed=0))
    frame = steered_residuals(model, plan_of(vectors), prompts, control=control)
    swapped = steered_residuals(model, control, prompts, onto=vectors)
    arms = {arm: part.reset_index(drop=True) for arm, part in frame.groupby("arm")}
    assert (
        arms["control"]
        .drop(columns="arm")
        .equals(swapped[swapped["arm"] == "steered"].drop(columns="arm").reset_index(drop=True))
    )
    assert arms["steered"]["shift"].tolist() == pytest.approx(arms["control"]["shift"].tolist(), rel=1e-5)
    leads = refusal_lead(
        model, prompts, refusal=REFUSAL, compliance=COMPLIANCE, plan=plan_of(vectors), control=control
    )
    assert leads["arm"].unique().tolist() == ["unsteered", "steered", "control"]
    assert leads.groupby("arm")["lead"].mean().nunique() == 3


def test_a_plan_for_the_prompt_leaves_the_reply_alone(model: Model, prompts, vectors):
    frame = steered_residuals(model, plan_of(vectors, positions="prompt"), prompts, reply=" sure please")
    at = frame[frame["layer"] == 1].pivot(
        index=["prompt", "position", "part"], columns="arm", values="projection"
    )
    change = (at["steered"] - at["unsteered"]).abs().groupby("part").max()
    assert change["reply"] < 1e-4 < change["prompt"]
    assert (frame[frame["part"] == "reply"]["shift"] == 0).all()


def test_a_closed_gate_leaves_both_runs_one(model: Model, prompts, vectors, read):
    closed = ThresholdGate.fit(vectors, read).shift_bias(-1e6)
    frame = steered_residuals(model, plan_of(vectors, gate=closed), prompts)
    norms = frame.pivot(index=["prompt", "position", "layer"], columns="arm", values="norm")
    assert norms["steered"].equals(norms["unsteered"]) and not frame["open"].any()


def test_the_lead_at_the_last_layer_is_the_models_own(model: Model, prompts, vectors):
    frame = refusal_lead(
        model, prompts, refusal=REFUSAL, compliance=COMPLIANCE, plan=plan_of(vectors, alpha=0.0), reply=" the"
    )
    no, yes = opening_tokens(model, REFUSAL, COMPLIANCE, reply=" the")
    logits = model_logits(model, texts_of(model, prompts, reply=" the").batch)[:, -1]
    expected = logits[:, no].amax(-1) - logits[:, yes].amax(-1)
    for arm in ("unsteered", "steered"):
        last = frame[(frame["layer"] == 3) & (frame["arm"] == arm)]["lead"]
        assert last.tolist() == pytest.approx(expected.tolist(), abs=1e-3)
    best = logits.argmax(-1).tolist()
    end = frame[(frame["layer"] == 3) & (frame["arm"] == "unsteered")]
    assert end["token"].tolist() == [token_text(tokenizer_of(model), token) for token in best]
    kinds = {**dict.fromkeys(no.tolist(), "refusal"), **dict.fromkeys(yes.tolist(), "compliance")}
    assert end["opens"].tolist() == [kinds.get(token, "other") for token in best]


@pytest.fixture(scope="module")
def hooked(llamas) -> Model:
    return llamas["hooked"]


@pytest.fixture(scope="module")
def own(llamas, prompts) -> SteeringVectors:
    return mean_difference(last_token_activations(llamas["plain"], prompts))


@hooked_only
def test_attributions_sum_to_the_projection(hooked: Model, prompts, own):
    frame = direction_attribution(hooked, prompts, own)
    sums = frame.pivot_table(index="prompt", columns="at", values="contribution", aggfunc="sum").to_numpy()
    expected = project(own, last_token_activations(hooked, prompts))
    assert torch.allclose(torch.tensor(sums).float(), expected, atol=1e-4)
    assert (frame["layer"] <= frame["at"]).all()
    gaps = attribution_gap(frame).groupby("at")["contribution"].sum()
    assert gaps.tolist() == pytest.approx(own.norms.tolist(), abs=1e-4)


@hooked_only
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "neox"])
def test_attributions_sum_to_the_logit_difference(checkpoints, architecture: str, prompts):
    model = load_model(checkpoints[architecture])
    frame = refusal_attribution(model, prompts, refusal=REFUSAL, compliance=COMPLIANCE, reply=" the")
    no, yes = opening_tokens(model, REFUSAL, COMPLIANCE, reply=" the")
    logits = model_logits(model, texts_of(model, prompts, reply=" the").batch)[:, -1]
    expected = logits[:, no].mean(-1) - logits[:, yes].mean(-1)
    assert frame.groupby("prompt")["contribution"].sum().tolist() == pytest.approx(
        expected.tolist(), abs=1e-4
    )


@hooked_only
def test_a_planted_head_is_found(checkpoints, prompts, own):
    """The only head whose output is anything, at layer 2: it writes all that the embedding does not."""
    model = load_model(checkpoints["llama"])
    with torch.no_grad():
        for layer in range(4):
            model.blocks[layer].mlp.W_out.zero_()
            for head in range(4):
                if (layer, head) != (2, 1):
                    model.blocks[layer].attn.W_O[head].zero_()
    frame = direction_attribution(model, prompts, own, layers=[3])
    writers = frame[frame["contribution"].abs() > 1e-6]
    assert set(zip(writers["kind"], writers["layer"], writers["head"], strict=True)) == {
        ("embedding", -1, -1),
        ("head", 2, 1),
    }


def test_after_a_reply_words_begin_with_their_space(model: Model):
    decode = tokenizer_of(model).decode
    for reply, begun in (("", "sure"), ("the", " sure")):
        _, yes = opening_tokens(model, ["no"], ["sure"], reply=reply)
        assert begun.startswith(decode(yes)) and decode(yes).startswith(begun[0])


def test_messages(model: Model, prompts, own, unchecked):
    long = [Prompt.user("steal a ring " * context_length(model), label="harmful", source="long")]
    for call, message in [
        (lambda: vector_lens(own, model, layers=[9]), r"got layers \[9\]: .* has layers 0 to 3"),
        (lambda: vector_lens(own, model, layers=[]), "got no layers"),
        (lambda: vector_lens(own, model, top=0), "got top=0, expected 1 to"),
        (
            lambda: token_map(own, model, long),
            "prompt 'long' has .* the context holds 64: shorten the prompt",
        ),
        (
            lambda: refusal_lead(model, prompts, refusal=["no"], compliance=["no"]),
            "open with the same tokens",
        ),
        (
            lambda: refusal_lead(model, prompts, refusal="no", compliance=["a"]),
            "refusal='no', expected a list",
        ),
        (lambda: refusal_lead(model, prompts, refusal=["no"], compliance=[" "]), "' ', which adds no token"),
        (
            lambda: refusal_lead(model, prompts, refusal=["no"], compliance=["sure"], reply="the "),
            "let the reply end where a token does",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


@hooked_only
def test_messages_of_attribution(hooked: Model, prompts, own, unchecked):
    one = prompts.where(lambda prompt: prompt.harmful)
    with pytest.raises(ValueError, match=r"got layers \[-1\]"):
        direction_attribution(hooked, prompts, own, layers=[-1])
    with pytest.raises(ValueError, match="got prompts labelled harmful: a gap"):
        attribution_gap(direction_attribution(hooked, one, own))


@pytest.mark.parametrize("name", ["bridge", "plain"])
def test_attribution_says_what_it_needs(llamas, name: str, prompts, own):
    refused = pytest.raises(
        ValueError, match=r'needs a HookedTransformer \(of transformer-lens 3\.9\), .*backend="hooked"'
    )
    with refused:
        direction_attribution(llamas[name], prompts, own)
    with refused:
        refusal_attribution(llamas[name], prompts, refusal=REFUSAL, compliance=COMPLIANCE)


def test_a_model_that_left_its_device(checkpoints, prompts, own):
    gone = load_model(checkpoints["llama"], backend="plain")
    gone.model.norm.to("meta")
    with pytest.raises(
        ValueError, match="has weights on cpu and meta, expected one device .*: load the model again"
    ):
        token_map(own, gone, prompts)


def test_frames_are_tidy(model: Model, prompts, own):
    for frame in (token_map(own, model, prompts), vector_lens(own, model)):
        assert isinstance(frame, pd.DataFrame) and not frame.isna().any().any() and len(frame)
