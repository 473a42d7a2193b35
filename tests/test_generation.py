"""Rows in, completions out: what is computed once, what is refused, what a completion tells."""

from dataclasses import replace

import pytest
import torch
from conftest import CONTEXT
from parity import N_LAYERS, Setting, aligned
from transformers import PreTrainedModel

import workbench as wb
from workbench import generation
from workbench.decoding import asking, replies
from workbench.decoding.choosers import Greedy
from workbench.decoding.rows import Row
from workbench.loading import Model
from workbench.prompts import Prompt
from workbench.steering import Positions

GATED = Setting(0.15, (1, 2, 4), gate=1)
REFUSAL = "no i cannot help with that"


@pytest.fixture(scope="module")
def model(babblers: dict[str, Model]) -> Model:
    return babblers["plain"]


@pytest.fixture(scope="module")
def plan(model: Model, prompts: wb.PromptSet) -> wb.SteeringPlan:
    return GATED.plan(model, prompts)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """The number of rows in every clean pass and in every decoded batch."""
    done: dict[str, list[int]] = {"read": [], "decoded": []}
    read, decode = asking.token_activations, replies.decode

    def reading(
        model: Model, prompts: wb.PromptSet, rows: list[tuple[int, ...]], *, site: str, batch_size: int
    ) -> wb.Activations:
        done["read"].append(len(prompts))
        return read(model, prompts, rows, site=site, batch_size=batch_size)

    def decoding(model: Model, rows: list[Row], *rest: object, share: bool) -> torch.Tensor:
        done["decoded"].append(len(rows))
        return decode(model, rows, *rest, share=share)

    monkeypatch.setattr(asking, "token_activations", reading)
    monkeypatch.setattr(replies, "decode", decoding)
    return done


def test_completion_tells_what_was_done(model: Model, plan: wb.SteeringPlan, prompts: wb.PromptSet) -> None:
    steered, bare = wb.generate(model, prompts, [plan, None] * 4, max_new_tokens=6)[:2]
    assert steered.prompt == prompts[0] and bare.prompt == prompts[1]
    assert steered.plan_id == plan.id and steered.gate_open == (True,) * N_LAYERS
    assert bare.plan_id is None and bare.gate_open is None
    assert steered.text == model.tokenizer.decode(steered.tokens, skip_special_tokens=True)
    assert len(steered.tokens) == 6 and not steered.finished


def test_stop_token_ends_a_reply(model: Model, prompts: wb.PromptSet) -> None:
    whole = wb.generate(model, prompts, max_new_tokens=6, stop_ids=[])[0]
    short = wb.generate(model, prompts, max_new_tokens=6, stop_ids=[whole.tokens[3]])[0]
    assert short.tokens == whole.tokens[:4] and short.finished and not whole.finished


def as_long_as(n_tokens: int) -> Prompt:
    """A prompt of so many tokens, template and all."""
    return Prompt.user(" ".join(["the"] * (n_tokens - 5)), source="long one")


def test_by_default_a_reply_is_as_long_as_fits(babbler: Model, prompts: wb.PromptSet) -> None:
    """After the longest prompt of the call, and 256 tokens at most: a context of 256 has no room for so many."""
    plan, rows = GATED.plan(babbler, prompts), [as_long_as(CONTEXT - 4), prompts[0]]
    assert [len(reply.tokens) for reply in wb.generate(babbler, rows, plan, stop_ids=[])] == [4, 4]
    given = wb.generate(babbler, rows, plan, max_new_tokens=4)
    with wb.steered(babbler, plan, rows) as run:
        assert [reply.tokens for reply in run.generate()] == [reply.tokens for reply in given]


def test_by_default_a_reply_is_no_longer_than_the_paper_s(
    model: Model, prompts: wb.PromptSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert generation.LONGEST_REPLY == 256
    monkeypatch.setattr(generation, "LONGEST_REPLY", 3)
    assert {len(reply.tokens) for reply in wb.generate(model, prompts, stop_ids=[])} == {3}


def test_a_prompt_that_fills_the_context_is_refused(model: Model) -> None:
    assert len(wb.generate(model, [as_long_as(CONTEXT - 1)], stop_ids=[])[0].tokens) == 1
    with pytest.raises(
        ValueError,
        match=r"prompt 'long one' has 64 tokens and 1 are kept for the reply, the context holds 64: shorten the .*$",
    ):
        wb.generate(model, [as_long_as(CONTEXT)])


def test_texts_and_sets_are_the_same_prompts(model: Model, prompts: wb.PromptSet) -> None:
    texts = wb.generate(model, [prompt.text for prompt in prompts], max_new_tokens=3)
    assert [reply.tokens for reply in texts] == [
        reply.tokens for reply in wb.generate(model, prompts, max_new_tokens=3)
    ]


def test_deciding_costs_no_second_pass_where_the_hook_can_read_first(
    model: Model, plan: wb.SteeringPlan, prompts: wb.PromptSet, work: dict[str, list[int]]
) -> None:
    wb.generate(model, prompts, plan, max_new_tokens=2)
    assert work == {"read": [], "decoded": [8]}


@pytest.mark.parametrize("gate", ["each", 2])
def test_a_gate_above_the_first_steered_layer_takes_one_clean_pass(
    model: Model, prompts: wb.PromptSet, work: dict[str, list[int]], gate: int | str
) -> None:
    wb.generate(model, prompts, Setting(0.1, (1, 2), gate=gate).plan(model, prompts), max_new_tokens=2)
    plain = isinstance(model, PreTrainedModel)  # there the clean pass is the batch's own: see test_resuming
    assert work == {"read": [] if plain else [8], "decoded": [8]}


def test_settings_as_rows_share_what_no_shift_reaches(
    model: Model, plan: wb.SteeringPlan, prompts: wb.PromptSet, work: dict[str, list[int]]
) -> None:
    settings = [None, plan, plan.with_alpha(0.0), plan.with_alpha(0.1), plan.with_layers([2]), plan]
    rows = [prompt for _ in settings for prompt in prompts]
    completions = wb.generate(model, rows, [plan for plan in settings for _ in prompts], max_new_tokens=4)
    n_open = sum(completion.gate_open[1] for completion in completions[8:16])
    # One clean pass; one row per prompt without a shift, and three settings for each prompt with an open gate.
    assert work["read"] == [8]
    assert sum(work["decoded"]) == 8 + 3 * n_open
    one_by_one = [
        completion
        for setting in settings
        for completion in wb.generate(model, prompts, setting, max_new_tokens=4)
    ]
    for together, alone in zip(completions, one_by_one, strict=True):
        assert (together.tokens, together.plan_id, together.gate_open) == (
            alone.tokens,
            alone.plan_id,
            alone.gate_open,
        )


def test_online_takes_no_pass_of_its_own(
    model: Model, prompts: wb.PromptSet, work: dict[str, list[int]]
) -> None:
    """Beside clean rows that need one, it is over the prompts of these alone."""
    online = Setting(0.15, (1, 2, 4), gate="each", deciding="online").plan(model, prompts)
    wb.generate(model, prompts, online, max_new_tokens=2)
    assert work == {"read": [], "decoded": [8]}
    clean = replace(online, deciding="clean")
    wb.generate(model, prompts, [online, clean, None, clean, *[online] * 4], max_new_tokens=2)
    assert work == {"read": [2], "decoded": [8, 8]}


@pytest.mark.parametrize("layers", [(1, 2, 4), (3,)])
def test_online_a_gate_below_every_shift_decides_as_it_does_clean(
    babbler: Model, prompts: wb.PromptSet, layers: tuple[int, ...]
) -> None:
    clean = Setting(0.15, layers, gate=1).plan(babbler, prompts)
    online = replace(clean, deciding="online")
    ours, theirs = (wb.generate(babbler, prompts, plan, max_new_tokens=4) for plan in (online, clean))
    assert [replace(reply, plan_id=clean.id) for reply in ours] == theirs
    assert {reply.plan_id for reply in ours} == {online.id} != {clean.id}


def test_online_layers_that_are_not_steered_stay_closed(babbler: Model, prompts: wb.PromptSet) -> None:
    """The steered ones decide as they do clean where the prompt is not shifted: in replies only, and at alpha 0."""
    clean = Setting(0.15, (1, 3), gate="each").plan(babbler, prompts)
    opened = clean.read(babbler, prompts).open
    assert opened[:, [1, 3]].any() and opened[:, [0, 2, 4, 5]].any()
    opened[:, [0, 2, 4, 5]] = False
    online = replace(clean, deciding="online")
    for plan in (replace(online, positions="reply"), online.with_alpha(0.0)):
        replies = wb.generate(babbler, prompts, plan, max_new_tokens=2)
        assert [reply.gate_open for reply in replies] == [tuple(row) for row in opened.tolist()]


def test_rows_that_decide_online_share_a_reply_with_their_own_plan_alone(
    model: Model, prompts: wb.PromptSet, work: dict[str, list[int]]
) -> None:
    """Not even where nothing is added: the unsteered row has taken no decisions, and another gate takes others."""
    online = Setting(-0.15, (0, 2, 4), gate="each", deciding="online").plan(model, prompts)
    other = online.with_gate(online.gate.shift_bias(3.0))
    idle = [online.with_alpha(0.0), other.with_alpha(0.0)]
    settings = [None, online, replace(online), other, *idle, replace(online, deciding="clean"), None]
    rows = [prompt for _ in settings for prompt in prompts]
    completions = wb.generate(model, rows, [plan for plan in settings for _ in prompts], max_new_tokens=4)
    n_open = sum(any(reply.gate_open[layer] for layer in (0, 2, 4)) for reply in completions[48:56])
    # One row per prompt without a shift; five plans, of which two are the same; clean rows with an open gate.
    assert work["read"] == [8]
    assert sum(work["decoded"]) == 8 + 4 * 8 + n_open
    one_by_one = [reply for plan in settings for reply in wb.generate(model, prompts, plan, max_new_tokens=4)]
    for together, alone in zip(completions, one_by_one, strict=True):
        assert replace(together, near_ties=0) == replace(alone, near_ties=0)
    first, second = ([reply.gate_open for reply in completions[at : at + 8]] for at in (32, 40))
    assert first != second and any(any(gates) for gates in first)


def test_preset_refusal_answers_where_the_gate_is_open(
    model: Model, plan: wb.SteeringPlan, prompts: wb.PromptSet, work: dict[str, list[int]]
) -> None:
    unsteered = wb.generate(model, prompts, max_new_tokens=4)
    work["decoded"].clear()
    completions = wb.generate(model, prompts, replace(plan, refusal=REFUSAL), max_new_tokens=4)
    n_open = 0
    for completion, bare in zip(completions, unsteered, strict=True):
        if completion.gate_open[1]:
            n_open += 1
            assert completion.text == REFUSAL and completion.finished
            assert completion.tokens == tuple(model.tokenizer(REFUSAL)["input_ids"])
        else:
            assert completion.tokens == bare.tokens
    assert 2 <= n_open <= 6
    assert work["decoded"] == [8 - n_open]


def test_a_preset_refusal_has_no_logits(model: Model, plan: wb.SteeringPlan, prompts: wb.PromptSet) -> None:
    """Not the unsteered model's, which is what adding nothing would give."""
    preset = replace(plan, refusal=REFUSAL)
    for plans in (preset, [None] * 7 + [preset]):
        with pytest.raises(
            ValueError,
            match=r"a preset refusal, which no logits lead to: .* refusal=None, or use generate\(...\)",
        ):
            wb.teacher_forced_logits(model, prompts, [[7]] * 8, plans)


def test_a_reading_at_hand_is_used(babbler: Model, prompts: wb.PromptSet, work: dict[str, list[int]]) -> None:
    plan = Setting(0.15, (1, 2, 4), gate="each").plan(babbler, prompts)
    reading = plan.read(babbler, prompts)
    with_it = wb.generate(babbler, prompts, plan, reading=reading, max_new_tokens=4)
    assert work["read"] == []
    assert with_it == wb.generate(babbler, prompts, plan, max_new_tokens=4)
    shut = replace(reading, open=torch.zeros_like(reading.open))
    closed = wb.generate(babbler, prompts, plan, reading=shut, max_new_tokens=4)
    bare = wb.generate(babbler, prompts, max_new_tokens=4)
    assert [reply.tokens for reply in closed] == [reply.tokens for reply in bare]


def test_a_reading_of_another_batch_is_refused(
    model: Model, plan: wb.SteeringPlan, prompts: wb.PromptSet
) -> None:
    reading = plan.read(model, prompts)
    backwards = wb.PromptSet("backwards", prompts.prompts[::-1])
    for other in (backwards, wb.PromptSet("fewer", prompts.prompts[:3])):
        with pytest.raises(
            ValueError, match=r"the reading was made for 8 prompts .*: read the gate for this batch"
        ):
            wb.generate(model, other, plan, reading=reading, max_new_tokens=4)


def test_a_reading_by_another_gate_is_refused(
    model: Model, plan: wb.SteeringPlan, prompts: wb.PromptSet
) -> None:
    """Also where it has as many rows and layers, and where one of several plans has the right gate."""
    stricter = plan.with_gate(plan.gate.shift_bias(-1.0))
    for reading in (stricter.read(model, prompts), plan.with_gate(wb.AlwaysOpen()).read(model, prompts)):
        refused = pytest.raises(
            ValueError,
            match=rf"the reading was made by another gate \(id {reading.gate_id}\) than the plan's "
            rf"\(id {plan.gate.id}\): read the plan's own, plan.read\(model, prompts\)",
        )
        for plans in (plan, [stricter.with_gate(plan.gate)] * 7 + [plan]):
            with refused:
                wb.generate(model, prompts, plans, reading=reading, max_new_tokens=2)
        with refused:
            plan.fwd_hooks(reading)
    unknown = replace(plan.read(model, prompts), gate_id="", model_hash="")
    assert wb.generate(model, prompts, stricter, reading=unknown, max_new_tokens=2)
    weaker = plan.with_alpha(0.01)  # another plan, the same gate
    assert wb.generate(model, prompts, weaker, reading=plan.read(model, prompts), max_new_tokens=2)


def test_a_reading_on_another_model_is_refused(
    babbler: Model, plan: wb.SteeringPlan, prompts: wb.PromptSet
) -> None:
    reading = plan.read(aligned(), prompts)
    assert len(reading) == len(prompts) and reading.open.shape[1] == N_LAYERS
    with pytest.raises(
        ValueError,
        match=r"the reading was made on other weights than 'babbler' has here \(another model, or another backend\): "
        r"read the gate on this model, plan.read\(model, prompts\)",
    ):
        wb.generate(babbler, prompts, plan, reading=reading, max_new_tokens=2)


@pytest.mark.parametrize("depth", [4, 8])
def test_a_reading_of_another_depth_is_refused(
    model: Model, plan: wb.SteeringPlan, prompts: wb.PromptSet, depth: int
) -> None:
    reading = wb.GateReading(torch.zeros(8, depth), torch.ones(8, depth, dtype=torch.bool), prompts.hash)
    with pytest.raises(
        ValueError,
        match=rf"the reading has decisions for {depth} layers, '.*' has 6: read the gate on this model",
    ):
        wb.generate(model, prompts, plan, reading=reading, max_new_tokens=4)


@pytest.mark.parametrize("batch_size", [1, 64])
def test_one_call_steers_at_one_site(
    model: Model, plan: wb.SteeringPlan, prompts: wb.PromptSet, batch_size: int
) -> None:
    """Also where the plan at the other site is a preset refusal whose gate stays closed."""
    preset = replace(Setting(0.2, (0, 3), gate=0).plan(model, prompts, site="resid_pre"), refusal=REFUSAL)
    shut = wb.GateReading(torch.zeros(8, N_LAYERS), torch.zeros(8, N_LAYERS, dtype=torch.bool), prompts.hash)
    shut.open[1:] = True
    with pytest.raises(
        ValueError, match="plans for resid_post and resid_pre in one batch: run one batch per site"
    ):
        wb.generate(
            model, prompts, [preset] + [plan] * 7, reading=shut, max_new_tokens=4, batch_size=batch_size
        )


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_no_numbers_are_refused(
    model: Model, prompts: wb.PromptSet, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    choose = Greedy.choose

    def from_the_third_on(greedy: Greedy, logits: torch.Tensor, rows: torch.Tensor, step: int):
        if step >= 2:
            logits = logits.index_fill(-1, torch.tensor([3]), value)
        return choose(greedy, logits, rows, step)

    monkeypatch.setattr(Greedy, "choose", from_the_third_on)
    wb.generate(model, prompts, max_new_tokens=2)
    with pytest.raises(
        ValueError,
        match=r"prompt 'harmful:2': the model's logits are NaN or infinite at token 2 of the reply: load the model in",
    ):
        wb.generate(model, [prompts[2]], max_new_tokens=4, stop_ids=[])


def test_what_comes_after_a_reply_may_be_anything(one_prompt: Prompt) -> None:
    greedy = Greedy(2, 3, torch.tensor([9]))
    logits = torch.zeros(2, 10)
    logits[:, 9] = 1.0
    greedy.choose(logits, torch.tensor([0, 1]), 0)
    greedy.choose(torch.full((2, 10), torch.nan), torch.tensor([0, 1]), 1)
    greedy.require_finite([one_prompt] * 2)
    assert greedy.replies() == [((9,), True, 0)] * 2


def test_bad_input(model: Model, plan: wb.SteeringPlan, prompts: wb.PromptSet) -> None:
    with pytest.raises(ValueError, match="got 2 plans for 8 prompts: pass one plan, or one"):
        wb.generate(model, prompts, [plan, None], max_new_tokens=4)
    with pytest.raises(ValueError, match="prompt set 'prompts' is empty"):
        wb.generate(model, [], plan)
    long = Prompt.user("steal a ring " * 30, source="long one")
    with pytest.raises(ValueError, match=r"prompt 'long one' has \d+ tokens and 4 are kept for the reply"):
        wb.generate(model, [long], plan, max_new_tokens=4)
    with pytest.raises(ValueError, match="got max_new_tokens=0, batch_size=64: expected 1 or more of each"):
        wb.generate(model, prompts, max_new_tokens=0)
    with pytest.raises(ValueError, match="got 1 replies for 8 prompts: pass one reply per prompt"):
        wb.teacher_forced_logits(model, prompts, [[1, 2]])
    for none in ([], [[]]):
        with pytest.raises(
            ValueError,
            match=rf"got {len(none)} replies without a single token: expected one reply per prompt",
        ):
            wb.teacher_forced_logits(model, [prompts[0]], none)


def test_near_ties_are_counted() -> None:
    greedy = Greedy(2, 3, torch.tensor([9]))
    logits = torch.zeros(2, 10)
    logits[0, 4], logits[0, 5] = 1.0, 1.0 + 5e-5
    logits[1, 9] = 1.0
    for step in range(3):
        greedy.choose(logits, torch.tensor([0, 1]), step)
    # Row 1 stops at once; what it would have said after that does not count.
    assert greedy.replies() == [((5, 5, 5), False, 3), ((9,), True, 0)]


def test_of_equal_logits_the_first_is_taken() -> None:
    rows = torch.arange(64)
    logits = torch.randint(0, 3, (64, 50), generator=torch.Generator().manual_seed(0)).float()
    tokens = Greedy(64, 1, torch.tensor([99])).choose(logits, rows, 0)
    assert torch.equal(tokens, logits.argmax(-1)) and not torch.equal(tokens, logits.topk(2).indices[:, 0])


def test_generation_config_s_stop_tokens_count(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.generation_config, "eos_token_id", [7, model.tokenizer.eos_token_id])
    assert replies.stop_tokens(model) == sorted({7, model.tokenizer.eos_token_id})


def test_steered_by_hand(babbler: Model, prompts: wb.PromptSet) -> None:
    plan = GATED.plan(babbler, prompts)

    def last_logits(run: wb.SteeredRun) -> torch.Tensor:
        with torch.no_grad():
            output = babbler(run.batch.input_ids, attention_mask=run.batch.attention_mask)
        return getattr(output, "logits", output)[:, -1]

    expected = wb.generate(babbler, prompts, plan, max_new_tokens=5)
    forced = torch.cat(wb.teacher_forced_logits(babbler, prompts, [[0]] * len(prompts), plan))
    with wb.steered(babbler, plan, prompts) as run:
        assert run.reading.open[:, 1].tolist() == [completion.gate_open[1] for completion in expected]
        inside = last_logits(run)
        assert run.generate(max_new_tokens=5) == expected
        assert torch.equal(last_logits(run), inside)
    assert run.generate(max_new_tokens=5) == expected
    # plain models are given no position_ids here, which only rotary models like this one forgive
    assert torch.allclose(inside, forced, atol=1e-4)
    assert not torch.allclose(last_logits(run), inside, atol=1e-2)


def test_by_hand_a_pass_over_other_prompts_is_refused(babbler: Model, prompts: wb.PromptSet) -> None:
    """By its rows and by its tokens, whatever the gate said; padding may hold anything, and what follows too."""
    plan = GATED.plan(babbler, prompts)
    shut = plan.with_gate(plan.gate.shift_bias(-1e6))
    other = pytest.raises(
        ValueError, match=r"got a pass over other prompts than the 8 .*: run run\.batch, with"
    )
    fewer = pytest.raises(
        ValueError, match=r"got a pass over 1 rows, this block steers 8 prompts: run all of run"
    )
    for steering in (plan, shut):
        with wb.steered(babbler, steering, prompts) as run:
            ids, mask = run.batch.input_ids, run.batch.attention_mask
            filled = torch.where(mask.bool(), ids, 9)
            babbler(torch.cat([filled, torch.full((8, 2), 7)], dim=1))
            babbler(ids[:, :1])  # as if from a cache
            backwards = ids.flip(0)
            changed = ids.clone()
            changed[3, -1] = 7
            for texts in (backwards, changed, torch.cat([backwards, ids], dim=1)):
                with other:
                    babbler(texts)
            with other:  # in an order of its own, and shifted once more
                wb.generate(babbler, wb.PromptSet("backwards", prompts.prompts[::-1]), plan, max_new_tokens=2)
            for few in (ids[:1], torch.tensor([[0]])):
                with fewer:
                    babbler(few)
            assert run.generate(max_new_tokens=1)
    babbler(backwards[:1])


@pytest.mark.parametrize("positions", ["prompt", "reply"])
def test_by_hand_the_first_positions_of_a_pass_are_the_prompt_s(
    babbler: Model, prompts: wb.PromptSet, positions: Positions
) -> None:
    plan = replace(GATED.plan(babbler, prompts), positions=positions)
    replies = [[7 + i, 8, 9] for i in range(len(prompts))]
    forced = torch.stack(wb.teacher_forced_logits(babbler, prompts, replies, plan))
    unsteered = torch.stack(wb.teacher_forced_logits(babbler, prompts, replies))
    expected = wb.generate(babbler, prompts, plan, max_new_tokens=3)

    def logits(run: wb.SteeredRun, n_reply: int) -> torch.Tensor:
        given = torch.tensor(replies)[:, :n_reply]
        ids = torch.cat([run.batch.input_ids, given], dim=1)
        mask = torch.cat([run.batch.attention_mask, torch.ones_like(given)], dim=1)
        with torch.no_grad():
            output = babbler(ids, attention_mask=mask)
        return getattr(output, "logits", output)[:, -1]

    with wb.steered(babbler, plan, prompts) as run:
        for step in range(3):
            assert torch.allclose(logits(run, step), forced[:, step], atol=1e-4)
        assert not torch.allclose(forced[:, 2], unsteered[:, 2], atol=1e-2)
        width = run.batch.input_ids.shape[1]
        message = (
            f"got a pass over 1 positions, the prompts have {width}: .* needs passes over the whole text"
        )
        with pytest.raises(ValueError, match=message):
            babbler(torch.tensor(replies)[:, :1])
        assert run.generate(max_new_tokens=3) == expected


@pytest.mark.parametrize("architecture", ["qwen2", "neox", "gpt2"])
def test_other_architectures_do_not_mind_padding(
    architecture: str, checkpoints: dict[str, object], prompts: wb.PromptSet
) -> None:
    """GPT-2 has learned positions and NeoX a parallel block: padding must not move either."""
    model = wb.load_model(checkpoints[architecture], backend="plain")
    activations = wb.last_token_activations(model, prompts)
    vectors = wb.mean_difference(activations)
    gate = wb.ThresholdGate.fit(vectors, activations, layer=0)
    plan = wb.SteeringPlan(vectors, gate=gate, layers=(0, 2), alpha=0.2, scale="residual")
    replies = [[5, 6, 7, 8]] * len(prompts)
    together = wb.teacher_forced_logits(model, prompts, replies, plan)
    for prompt, logits in zip(prompts, together, strict=True):
        alone = wb.teacher_forced_logits(model, [prompt], [[5, 6, 7, 8]], plan)
        assert torch.allclose(alone[0], logits, atol=1e-4)
