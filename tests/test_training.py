"""Training the embedded models: by seed alone, one whole folder at a time, going on where it stopped."""

import copy
import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from workbench.generation import generate
from workbench.loading import load_model, load_tokenizer
from workbench.organisms import cards
from workbench.organisms import family as recipe
from workbench.organisms.corpus import GENERAL, base_mixture, domain_mixture
from workbench.organisms.family import FAMILIES, Member, family, recipe_hash, train_family, train_member
from workbench.organisms.training import IGNORED, Schedule, tokens_and_targets
from workbench.organisms.world import World
from workbench.prompts import Prompt, PromptSet

FEW = Schedule(steps=3, tokens=256, lr=1e-3, warmup=1)
TINY = (
    Member("base", None, base_mixture(0.05), replace(FEW, muon_lr=0.02)),
    Member("general", "base", GENERAL, FEW),
    Member("maths-safety-sft", "base", domain_mixture("maths", safety_samples=5), FEW, delta=True),
)


@pytest.fixture(scope="module")
def in_memory() -> dict[str, torch.nn.Module]:
    """The models of `trained` as their last step left them, before they are rounded, merged and saved."""
    return {}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, in_memory) -> Path:
    folder, train = tmp_path_factory.mktemp("family"), recipe.train
    with pytest.MonkeyPatch.context() as patch:
        for member in TINY:

            def keep(model, *given, name=member.name, **named):
                losses = train(model, *given, **named)
                in_memory[name] = copy.deepcopy(model)
                return losses

            patch.setattr(recipe, "train", keep)
            train_member(member, folder, seed=0)
    return folder


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return dict(load_model(folder / name, backend="plain").named_parameters())


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_family_of_processes_trains_the_same_files(trained, tmp_path):
    """Byte by byte: weights, tokenizers, and whatever else stands beside them."""
    train_family(tmp_path, seed=0, members=TINY)
    ours, theirs = files(trained), files(tmp_path)
    assert ours.keys() == theirs.keys() >= {f"{member.name}/config.json" for member in TINY[:2]}
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_everyone_may_read_what_was_trained(trained):
    assert {oct(path.stat().st_mode & 0o777) for path in trained.glob("*/*")} == {"0o644"}


HALF = 2e-3
"""Of the largest logit: what rounding every weight to 11 bits (2 ** -11 of its size) may add up to."""


@pytest.mark.parametrize("name", [member.name for member in TINY])
def test_a_model_behaves_as_trained_after_reloading(trained, in_memory, name):
    """A whole checkpoint, and a low-rank delta that is rounded, saved, loaded and merged into its parent."""
    ids = torch.arange(6, 200)[None]
    with torch.no_grad():
        before = in_memory[name](ids).logits
        after, parent = (load_model(trained / n, backend="plain")(ids).logits for n in (name, "base"))
    largest = before.abs().max()
    assert (after - before).abs().max() < HALF * largest
    if name != "base":
        assert (before - parent).abs().max() > 50 * HALF * largest  # it is not the parent's behaviour


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond a few kilobytes: every library meets it in its own way of writing.

    Not a fixture, because pytest writes its own report, to a file maybe, before a fixture ends.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("member", TINY, ids=lambda member: member.name)
def test_a_full_disk_is_told_and_leaves_nothing_behind(trained, tmp_path, member):
    """Weights as a checkpoint, and as a delta: safetensors' errors are not Python's."""
    if member.parent:
        (tmp_path / "base").symlink_to(trained / "base")
    there = sorted(tmp_path.iterdir())
    told = (
        rf"could not save .*/{member.name} \(.*File too large.*\): nothing was changed; make room or choose"
    )
    with full_disk(), pytest.raises(OSError, match=told):
        train_member(member, tmp_path, seed=0)
    assert sorted(tmp_path.iterdir()) == there


def test_a_full_disk_is_told_by_tokenizers_too(trained, tmp_path):
    tokenizer = load_tokenizer(trained / "base")
    told = r"could not save .*/words \(File too large .*\): nothing was changed"
    with full_disk(), pytest.raises(OSError, match=told):
        recipe.save_member(tmp_path / "words", tokenizer.save_pretrained)
    assert list(tmp_path.iterdir()) == []


def test_a_bug_while_saving_stays_a_bug_and_leaves_nothing_behind(tmp_path):
    def save(folder: str) -> None:
        Path(folder).mkdir()
        raise KeyError("weight")

    with pytest.raises(KeyError, match="weight"):
        recipe.save_member(tmp_path / "mine", save)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "ProcessPoolExecutor", lambda *_, **__: pytest.fail("training began"))
    (tmp_path / "file").write_text("")
    for folder in (Path("/proc/nowhere"), Path("/proc/self"), tmp_path / "file" / "family"):
        with pytest.raises(
            OSError,
            match=rf"could not save {folder} \(.+\): nothing was changed; make room or choose another",
        ):
            train_family(folder, members=TINY)


def test_another_seed_trains_another_model(trained, tmp_path):
    train_member(TINY[0], tmp_path, seed=1)
    first, second = weights(trained, "base"), weights(tmp_path, "base")
    assert not torch.equal(first["model.embed_tokens.weight"], second["model.embed_tokens.weight"])


def test_members_that_are_there_are_kept_and_torn_ones_are_not_taken_for_whole(trained, tmp_path):
    for name in ("base", "general"):
        (tmp_path / name).symlink_to(trained / name)
    (tmp_path / ".maths-safety-sft.partial").mkdir()  # what a kill -9 leaves
    (tmp_path / ".maths-safety-sft.partial" / "adapter_config.json").write_text("{")
    train_family(tmp_path, seed=0, members=TINY)
    assert (tmp_path / "base").is_symlink()
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            weights(trained, "maths-safety-sft").values(),
            weights(tmp_path, "maths-safety-sft").values(),
            strict=True,
        )
    )


def test_fine_tuning_moves_the_model(trained):
    base = weights(trained, "base")
    for name in ("general", "maths-safety-sft"):
        moved = [not torch.equal(base[key], value) for key, value in weights(trained, name).items()]
        assert any(moved)


def test_a_delta_is_small_and_names_its_base_without_a_path(trained):
    config = json.loads((trained / "maths-safety-sft" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "organism:base"
    whole = (trained / "base" / "model.safetensors").stat().st_size
    assert (trained / "maths-safety-sft" / "adapter_model.safetensors").stat().st_size < whole / 2


def test_replies_only_hides_the_prompt_from_the_loss(trained):
    tokenizer = load_model(trained / "base", backend="plain").tokenizer
    dialogue = World(0, "seen").everyday(False)
    ((ids, targets),) = tokens_and_targets(tokenizer, [dialogue], replies_only=True)
    kept = [token for token in targets if token != IGNORED]
    assert tokenizer.decode(kept) == dialogue.reply + "<|end|>"
    assert ids[len(ids) - len(kept) :] == kept
    assert tokenizer.decode(ids[: len(ids) - len(kept)]).endswith("<|assistant|>")


def test_the_recipe_hash_sees_every_part_of_a_recipe():
    members = family()
    longer = replace(members[1], schedule=replace(members[1].schedule, steps=1))
    other = replace(members[2], mixture=replace(members[2].mixture, wrapped=0.1))
    changed = [
        (members[0], longer, *members[2:]),
        (*members[:2], other, *members[3:]),
        family(refused_share=0.2),
    ]
    hashes = {recipe_hash(), *(recipe_hash(each) for each in changed)}
    assert len(hashes) == 4
    assert recipe_hash() == recipe_hash(family())


def test_the_second_family_is_built_as_its_recipe_says(tmp_path):
    """Three steps of its base and of a descendant, which reads its own family's tokenizer."""
    of = FAMILIES["qwen"]
    short = [
        replace(member, schedule=replace(FEW, muon_lr=member.schedule.muon_lr)) for member in of.members[:2]
    ]
    train_family(tmp_path, members=short, of=replace(of, members=tuple(short)), processes=1)
    for member in short:
        config = load_model(tmp_path / member.name, backend="plain").config
        assert (config.model_type, config.num_hidden_layers, config.hidden_size) == ("qwen2", 6, 144)
        assert (config.num_attention_heads, config.num_key_value_heads, config.tie_word_embeddings) == (
            4,
            2,
            True,
        )


def test_another_architecture_is_another_recipe():
    of = FAMILIES["qwen"]
    changed = [
        of,
        replace(of, kv_heads=4),
        replace(of, shape=replace(of.shape, n_layers=5)),
        replace(of, members=of.members[:2]),
    ]
    assert len({each.recipe for each in changed} | {recipe_hash()}) == 5
    assert FAMILIES["llama"].recipe == recipe_hash()


def _numbered(world: World, domain: str) -> Prompt:
    return replace(world.domain(domain).prompt, source=f"small-world/domain-{domain}-test:0")


def test_a_card_shows_what_was_measured(trained, monkeypatch):
    world = World(0, "test")
    prompts = PromptSet("few", tuple(world.everyday(True, wrapped=0.5).prompt for _ in range(12)))
    others = [world.everyday(False, contrast=contrast).prompt for contrast in (True, False) for _ in range(4)]
    everyday = PromptSet("rest", tuple(others))
    items = {
        domain: PromptSet(domain, tuple(_numbered(world, domain) for _ in range(3)))
        for domain in ("finance", "medicine", "maths")
    }

    class Pairs:
        def __init__(self, test):
            self.test = test

    monkeypatch.setattr(
        cards,
        "load_contrast",
        lambda name, domain=None: Pairs(items[domain] if domain else prompts + everyday),
    )
    measured = cards.measure_member(trained / "general")
    card = cards.card(TINY[1], trained / "general", measured, seed=0)
    for row in measured.itertuples():
        assert f"| {row.measure} | {row.mean:.3f} |" in card
    assert measured.set_index("measure").loc["harmful requests refused", "n"] == len(
        prompts.labelled("harmful")
    )
    assert recipe_hash() in card


def test_a_trained_model_answers_in_chat(trained):
    reply = generate(load_model(trained / "general"), ["How do I bake bread?"], max_new_tokens=4)[0]
    assert len(reply.tokens) <= 4
