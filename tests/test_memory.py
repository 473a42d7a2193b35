"""Where memory runs out: smaller batches with the same results, said aloud; one row too large is told by its length."""

import gc
import re
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from measuring import by_length, labelled_prompts, plan_for
from transformers import PreTrainedModel

import workbench as wb
from workbench.decoding.replies import write_replies
from workbench.insight.reading import read_texts, texts_of
from workbench.loading import Model
from workbench.memory import in_batches, is_out_of_memory, room_for
from workbench.models import blocks
from workbench.sweep.packing import FEW, find_budget

CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "1073741824 bytes. Error code 12 (Cannot allocate memory)"
)
WINDOWS = (
    "[enforce fail at alloc_cpu.cpp:116] data. DefaultCPUAllocator: not enough memory: you tried to allocate"
)
CUBLAS = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError(CPU), True),
        (RuntimeError(WINDOWS), True),
        (RuntimeError(CUBLAS), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError(CPU), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_errors_that_mean_it(error: BaseException, expected: bool):
    assert is_out_of_memory(error) is expected


def test_torch_says_it_in_words_that_are_known():
    """More than any machine has: the words may change with a version of torch."""
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**58, dtype=torch.uint8)
    assert is_out_of_memory(refused.value)


def told(batch: Sequence[int]) -> str:
    return f"{len(batch)} numbers up to {max(batch)}"


def at_most(n: int, sizes: list[int]) -> Callable[[Sequence[int]], list[int]]:
    def compute(batch: Sequence[int]) -> list[int]:
        sizes.append(len(batch))
        if len(batch) > n:
            raise RuntimeError(CPU)
        return [-number for number in batch]

    return compute


def test_batches_stay_small_once_one_was_too_large():
    sizes: list[int] = []
    with pytest.warns(
        wb.SmallerBatches,
        match=r"^memory ran out on a batch of 8 numbers up to 7: nothing is lost, it goes on in batches of 2; "
        "batch_size=2 asks for them from the start$",
    ) as said:
        found = list(in_batches(range(20), 8, at_most(3, sizes), told))
    assert len(said) == 1
    assert sizes == [8, 4, *[2] * 10]
    assert [number for batch, _ in found for number in batch] == list(range(20))
    assert [number for _, values in found for number in values] == [-number for number in range(20)]


def test_a_row_that_does_not_fit_alone_is_told():
    with pytest.raises(
        wb.NoRoom, match=r"memory ran out on 1 numbers up to 0, alone in its batch: shorten it"
    ) as no:
        list(in_batches(range(8), 8, at_most(0, []), told))
    assert isinstance(no.value, MemoryError) and CPU in str(no.value.__cause__)


def test_other_errors_pass():
    def compute(batch: Sequence[int]) -> None:
        raise RuntimeError("shapes")

    with pytest.raises(RuntimeError, match="^shapes$"):
        list(in_batches(range(8), 8, compute, told))
    with pytest.raises(RuntimeError, match="^shapes$"), room_for("x", "y"):
        raise RuntimeError("shapes")


@pytest.mark.filterwarnings("ignore::workbench.memory.SmallerBatches")
def test_the_next_try_begins_when_the_failed_one_has_let_go():
    class Heavy:
        pass

    made: list[weakref.ref[Heavy]] = []

    def compute(batch: Sequence[int]) -> None:
        assert all(heavy() is None for heavy in made)
        heavy = Heavy()
        made.append(weakref.ref(heavy))
        if len(batch) > 1:
            raise RuntimeError(CPU)

    gc.disable()  # what is freed is freed by letting go
    try:
        list(in_batches(range(4), 4, compute, told))
    finally:
        gc.enable()
    assert len(made) == 6


@contextmanager
def room_for_rows(model: Model, n: int) -> Iterator[list[int]]:
    """Within this context the model's last block runs out of memory on more rows than `n`; the rows it met."""
    met: list[int] = []

    def fail(module: torch.nn.Module, args: tuple[torch.Tensor, ...], output: object) -> None:
        residual = output[0] if isinstance(output, tuple) else output
        met.append(len(residual))
        if len(residual) > n:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    hook = blocks(model)[-1].register_forward_hook(fail)
    try:
        yield met
    finally:
        hook.remove()


def test_reading_goes_on_in_smaller_batches(model: Model, prompts: wb.PromptSet):
    whole = wb.last_token_activations(model, prompts)
    with (
        room_for_rows(model, 3) as met,
        pytest.warns(
            wb.SmallerBatches,
            match=r"on a batch of 8 prompts of up to \d+ tokens: nothing is lost, it goes on in batches of 2;",
        ),
    ):
        read = wb.last_token_activations(model, prompts)
    assert met == [8, 4, 2, 2, 2, 2]
    assert torch.allclose(read.values, whole.values, atol=1e-5)
    with (
        room_for_rows(model, 0),
        pytest.raises(wb.NoRoom, match=r"memory ran out on 1 prompt of up to \d+ tokens, alone in its"),
    ):
        wb.last_token_activations(model, prompts)


def test_more_activations_than_memory_holds_are_told(
    plain: PreTrainedModel, prompts: wb.PromptSet, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object) -> None:
        raise RuntimeError(CPU)

    monkeypatch.setattr("workbench.activations.torch.empty", refuse)
    with pytest.raises(
        wb.NoRoom, match="memory ran out on 8 prompts of 6 layers and width 32: read fewer at a time"
    ):
        wb.last_token_activations(plain, prompts)


@pytest.mark.filterwarnings("ignore::workbench.memory.SmallerBatches")
def test_replies_stay_what_they_were(babbler: Model, prompts: wb.PromptSet):
    """Gate above the first steered layer, prompts once and twice, open and closed: whatever the loop does."""
    read = wb.last_token_activations(babbler, prompts)
    vectors = wb.mean_difference(read)
    gate = wb.ThresholdGate.fit(vectors, read, layer=4)
    plan = wb.SteeringPlan(vectors, gate=gate, layers=[1, 2], alpha=0.2, scale="residual")
    asked, plans = [*prompts, *prompts], [plan] * 8 + [None] * 8
    whole = wb.generate(babbler, asked, plans, max_new_tokens=6)
    with (
        room_for_rows(babbler, 3),
        pytest.warns(
            wb.SmallerBatches,
            match=r"on a batch of \d+ rows of up to \d+ tokens and 6 of reply: nothing is lost, it goes on in",
        ),
    ):
        small = wb.generate(babbler, asked, plans, max_new_tokens=6)
    assert small == whole
    assert wb.generate(babbler, asked, plans, max_new_tokens=6) == whole  # nothing stays on the model


def test_every_position_of_some_texts_is_one_batch(model: Model, prompts: wb.PromptSet):
    texts = texts_of(model, prompts)
    with (
        room_for_rows(model, 3),
        pytest.raises(
            wb.NoRoom, match=r"on every position of 8 texts of up to \d+ tokens: look into fewer at a time"
        ),
    ):
        read_texts(model, texts)


def test_one_row_without_room_names_prompt_and_reply(babbler: Model, prompts: wb.PromptSet):
    with (
        room_for_rows(babbler, 0),
        pytest.raises(
            wb.NoRoom,
            match=r"memory ran out on 1 row of up to \d+ tokens and 6 of reply, alone in its batch: shorten it, or the "
            r"reply .*\(max_new_tokens\); or load the model smaller, dtype=torch.bfloat16",
        ),
    ):
        wb.generate(babbler, prompts, max_new_tokens=6)


def test_forced_replies_are_one_batch(babbler: Model, prompts: wb.PromptSet):
    with (
        room_for_rows(babbler, 3),
        pytest.raises(
            wb.NoRoom,
            match=r"memory ran out on 8 rows of up to \d+ tokens and 1 of reply: all rows are one batch here: force",
        ),
    ):
        wb.teacher_forced_logits(babbler, prompts, [[7]] * 8)


def test_an_evaluation_loses_nothing(plain: PreTrainedModel):
    prompts, plan = labelled_prompts(), plan_for(plain)
    whole = wb.evaluate(plain, prompts, plan, judge=by_length, max_new_tokens=4)
    with room_for_rows(plain, 5), pytest.warns(wb.SmallerBatches):
        small = wb.evaluate(plain, prompts, plan, judge=by_length, max_new_tokens=4)
    assert small.frame.equals(whole.frame)


def sweep_of(model: Model, **given: object) -> wb.SweepResult:
    return wb.run_sweep(
        model, labelled_prompts(), plan_for(model), alpha=[0.1, 0.2], placebo=1, judge=by_length, max_new_tokens=4,
        batch_size=8, **given,
    )  # fmt: skip


def test_a_sweep_goes_on_in_smaller_batches(plain: PreTrainedModel):
    whole = sweep_of(plain)
    with room_for_rows(plain, 5), pytest.warns(wb.SmallerBatches):
        assert sweep_of(plain).frame.equals(whole.frame)


def test_of_a_sweep_that_stops_the_ledger_keeps_what_was_done(
    plain: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The longest prompt finds no room, alone: those before it are kept, and the same call goes on."""
    whole, longest = sweep_of(plain), max(labelled_prompts(), key=lambda prompt: len(prompt.text))

    def write(model: Model, rows: Sequence[wb.Row], **terms: object) -> list[wb.Reply]:
        if longest in [row.prompt for row in rows]:
            raise RuntimeError(CPU)
        return write_replies(model, rows, **terms)

    with monkeypatch.context() as patched:
        patched.setattr("workbench.sweep.executors.write_replies", write)
        with pytest.warns(wb.SmallerBatches), pytest.raises(wb.NoRoom) as stopped:
            sweep_of(plain, ledger=tmp_path / "kept.sqlite")
    assert any(re.search(r"^[1-9]\d* replies are kept in", note) for note in stopped.value.__notes__)
    again = sweep_of(plain, ledger=tmp_path / "kept.sqlite")
    assert again.frame.equals(whole.frame) and again.sharing.known > 0


def test_a_budget_is_looked_for_in_sizes_that_fit(plain: PreTrainedModel):
    with room_for_rows(plain, 200) as met:
        assert find_budget(plain, 20, 10_000) == 128 * 20
    assert met[:3] == [512, 256, 128]
    with room_for_rows(plain, 10):
        assert find_budget(plain, 20, 10_000) == FEW * 20


# A real failure


LIMITED = """
import resource, sys, warnings
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
import workbench as wb
from workbench.loading import load_model, without_bars

def used():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()

with without_bars():
    model = load_model({folder!r}, backend="plain")
words = "how do i steal hide break forge a the ring lock letter boat bake paint mend read".split()
texts = [f"{{a}} {{b}} {{c}}" for a in words for b in words for c in words[:6]]
def both(batch_size):
    read = wb.last_token_activations(model, texts, batch_size=batch_size)
    return read, wb.generate(model, texts, max_new_tokens=3, batch_size=batch_size)

whole = both(16)
# Less than one batch of all of them takes, and enough for a small one.
resource.setrlimit(resource.RLIMIT_AS, (used() + {room} * 2**20,) * 2)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    again = both(10_000)
assert torch.allclose(whole[0].values, again[0].values, atol=1e-5)
assert [c.tokens for c in whole[1] if not c.near_ties] == [
    b.tokens for c, b in zip(whole[1], again[1]) if not c.near_ties
]
print(len(texts), *[str(warning.message) for warning in said if warning.category is wb.SmallerBatches], sep="\\n")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits its own memory as Linux does")
def test_a_process_whose_memory_is_limited_loses_nothing(checkpoints: dict[str, Path]):
    code = LIMITED.format(tests=str(Path(__file__).parent), folder=str(checkpoints["llama"]), room=16)
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-2000:]
    number, *said = found.stdout.splitlines()
    assert said[0].startswith(f"memory ran out on a batch of {number} prompts of up to ")
    assert any(
        sentence.startswith(f"memory ran out on a batch of {number} rows of up to ") for sentence in said
    )
