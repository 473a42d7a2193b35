"""Contrast sets: the shipped ones, and the paper's split, whose parts share no prompt and hardly the words of one."""

import copy
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from published_rows import write_rows

import workbench as wb
from workbench.published import contrasts
from workbench.published.texts import marked_alike, normalised, without_repeats

REAL = Path(__file__).parents[2] / "shared" / "data"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the published files are not here")
THINGS = ("boat", "ring", "lock", "letter", "map", "coin", "book", "lamp", "key", "clock", "horse", "flute")


def prompts(label: str, verb: str, n: int = 12) -> wb.PromptSet:
    """So many prompts, no two of which share most of their words."""
    texts = [f"{verb} {thing} {verb}{i} {thing}{i}" for i, thing in enumerate(THINGS[:n])]
    return wb.PromptSet.from_texts(label, texts, label)


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    """A folder with two published sets in it, of made-up rows."""
    write_rows(
        tmp_path / "a" / "harmful_behaviors.csv",
        [{"goal": prompt.text, "target": "Sure"} for prompt in prompts("harmful", "steal", 10)],
    )
    write_rows(
        tmp_path / "b" / "TruthfulQA.csv",
        [
            {"Type": "", "Category": "c", "Question": prompt.text, "Best Answer": "Yes"}
            for prompt in prompts("harmless", "paint")
        ],
        encoding="utf-8-sig",
    )
    return tmp_path


def test_a_pair_of_published_sets_is_split_as_the_paper_splits_them(downloads: Path) -> None:
    pairs = wb.load_contrast("advbench", "truthfulqa", root=downloads, n_train=4, seed=1)
    assert isinstance(pairs, wb.PaperSplit) and pairs.name == "advbench+truthfulqa"
    assert Counter(pairs.train.labels) == {"harmful": 4, "harmless": 4}
    assert Counter(pairs.test.labels) == {"harmful": 6, "harmless": 6}  # of 12 harmless ones, 10 are drawn
    texts = [prompt.text for prompt in (*pairs.train, *pairs.test)]
    assert len(set(texts)) == 20
    assert pairs.test.name == "advbench+truthfulqa.test" and pairs.train.name == "advbench+truthfulqa.train"
    again, other = (
        wb.load_contrast("advbench", "truthfulqa", root=downloads, n_train=4, seed=s) for s in (1, 2)
    )
    assert pairs.train.hash == again.train.hash != other.train.hash
    assert pairs.summary == (
        "advbench+truthfulqa, seed 1: train on 4 harmful and 4 harmless, test on 6 harmful and 6 harmless prompts; "
        "0 repeats left out; 0 harmful and 0 harmless test prompts share 70% or more of their words with a training "
        "prompt"
    )


def test_the_order_of_a_file_does_not_tell_which_part_a_prompt_is_in(downloads: Path) -> None:
    drawn = {
        tuple(prompt.source for prompt in wb.paper_split(prompts("harmful", "steal"), prompts("harmless", "paint"),
              n_train=3, seed=seed).train.labelled("harmful"))
        for seed in range(20)
    }  # fmt: skip
    assert len(drawn) > 15 and len({source for sources in drawn for source in sources}) == 12


def test_there_is_no_val_and_the_error_says_how_to_choose() -> None:
    pairs = wb.paper_split(prompts("harmful", "steal"), prompts("harmless", "paint"), n_train=8)
    assert not hasattr(pairs, "val")
    with pytest.raises(
        AttributeError, match=r"has no \.val: the paper's split leaves none\. Cross-fit: for part in pairs"
    ):
        _ = pairs.val
    with pytest.raises(AttributeError, match="a PaperSplit has no 'vol'"):
        _ = pairs.vol
    folds = pairs.folds(4, apart="alike")
    assert all(type(fold) is wb.ContrastSet and fold.test == pairs.test for fold in folds)
    assert Counter(prompt for fold in folds for prompt in fold.val) == Counter(pairs.train)
    assert all(Counter(fold.train.labels) == {"harmful": 6, "harmless": 6} for fold in folds)


def test_a_split_is_a_value() -> None:
    """It is shown, compared, changed and sent to workers like every other contrast set, val or no val."""
    pairs = wb.paper_split(prompts("harmful", "steal"), prompts("harmless", "paint"), n_train=8)
    assert "near" not in repr(pairs) and "seed=0" in repr(pairs)
    assert copy.deepcopy(pairs) == pairs and not hasattr(copy.deepcopy(pairs), "val")
    renamed = replace(pairs, name="mine")
    assert renamed.train == pairs.train and renamed != pairs and not hasattr(renamed, "val")


def test_repeats_are_left_out_and_counted() -> None:
    more = prompts("harmful", "steal") + wb.PromptSet.from_texts(
        "again", ["Steal  BOAT steal0 boat0"], "harmful"
    )
    pairs = wb.paper_split(more, prompts("harmless", "paint"), n_train=4)
    assert pairs.repeats == 1 and pairs.test.labels.count("harmful") == 8
    assert "1 repeats left out" in pairs.summary
    kept, left_out = without_repeats(more)
    assert (kept.prompts, left_out) == (more.prompts[:12], 1)


def test_near_duplicates_across_the_split_stay_and_are_listed() -> None:
    texts = [
        f"please steal the {thing} {thing}{i} of my old friend {i}{word}"
        for i, thing in enumerate(THINGS)
        for word in ("", " now")
    ]
    twins = wb.PromptSet.from_texts("twins", texts, "harmful")
    pairs = wb.paper_split(twins, prompts("harmless", "paint"), n_train=5, seed=3)
    train = {prompt.source for prompt in pairs.train}
    other = {f"twins:{2 * i}": f"twins:{2 * i + 1}" for i in range(12)}
    other |= {second: first for first, second in other.items()}
    crossing = {other[source] for source in train if source in other} - train
    assert len(crossing) >= 3
    assert set(pairs.near.new) == crossing and set(pairs.near.label) == {"harmful"}
    assert all(other[new] == known for new, known in zip(pairs.near.new, pairs.near.known, strict=True))
    assert pairs.near.similarity.tolist() == pytest.approx([10 / 11] * len(crossing))
    assert f"{len(crossing)} harmful and 0 harmless test prompts share 70% or more" in pairs.summary
    alike = {prompt.source: dict(prompt.cluster)["alike"] for prompt in (*pairs.train, *pairs.test)}
    assert all(
        alike[one] == alike[another] for one, another in other.items() if {one, another} <= alike.keys()
    )
    for fold in pairs.folds(2, apart="alike"):
        assert not {dict(p.cluster)["alike"] for p in fold.train} & {
            dict(p.cluster)["alike"] for p in fold.val
        }


def test_similarity_is_the_share_of_words_that_two_texts_have_in_common() -> None:
    known = wb.PromptSet.from_texts("known", ["Steal the RING, now!", "bake"])
    new = wb.PromptSet.from_texts(
        "new", ["steal the ring", "ｓｔｅａｌ the ring now", "mend it", "steal a boat"]
    )
    found = wb.near_duplicates(known, new, threshold=0.1)
    assert list(found.itertuples(index=False, name=None)) == [
        ("new:0", "known:0", "unlabelled", 0.75),
        ("new:1", "known:0", "unlabelled", 1.0),
        ("new:3", "known:0", "unlabelled", pytest.approx(1 / 6)),
    ]
    assert list(wb.near_duplicates(known, new, threshold=1.0).new) == ["new:1"]
    assert len(wb.near_duplicates(known, wb.PromptSet.from_texts("x", ["?!"]))) == 0
    for threshold in (0.0, 1.5):
        with pytest.raises(
            ValueError, match=rf"got threshold={threshold}, expected a share of words above 0"
        ):
            wb.near_duplicates(known, new, threshold=threshold)
    assert normalised(" ﬁnd\tIT\n") == "find it"


def test_prompts_that_are_alike_in_a_chain_share_a_cluster() -> None:
    chain = wb.PromptSet.from_texts("chain", ["a b c d", "a b c e", "a b f e", "x y z"])
    assert [dict(prompt.cluster)["alike"] for prompt in marked_alike(chain, threshold=0.6)] == [
        "chain:0", "chain:0", "chain:0", "chain:3",
    ]  # fmt: skip


def test_many_prompts_are_compared_a_block_at_a_time() -> None:
    """More prompts than a block holds: the same pairs."""
    many = wb.PromptSet.from_texts("many", [f"steal ring {i // 2} {i // 2}x {i // 2}y" for i in range(2100)])
    found = wb.near_duplicates(wb.PromptSet("few", many.prompts[1050:1052]), many)
    assert list(zip(found.new, found.known, strict=True)) == [
        ("many:1050", "many:1050"), ("many:1051", "many:1050"),
    ]  # fmt: skip
    groups = Counter(dict(prompt.cluster)["alike"] for prompt in marked_alike(many))
    assert set(groups.values()) == {2} and len(groups) == 1050


def test_what_cannot_be_split_is_refused(downloads: Path) -> None:
    harmful, harmless = prompts("harmful", "steal"), prompts("harmless", "paint")
    for n in (0, 12):
        with pytest.raises(ValueError, match=rf"got n_train={n}, expected 1 to 11: 'harmful' has 12 prompts"):
            wb.paper_split(harmful, harmless, n_train=n)
    both = harmless + wb.PromptSet.from_texts("again", ["STEAL boat steal0 boat0"], "harmless")
    with pytest.raises(
        ValueError, match=r"again:0 of 'harmless\+again' repeats harmful:0 of 'harmful': a prompt is"
    ):
        wb.paper_split(harmful, both, n_train=4)
    with pytest.raises(ValueError, match="prompt set 'harmful' has none labelled harmless: it has harmful"):
        wb.paper_split(harmful, harmful, n_train=4)
    with pytest.raises(ValueError, match="got domain='finance' with published sets, expected none"):
        wb.load_contrast("advbench", "truthfulqa", root=downloads, domain="finance")
    for options in ({"root": downloads}, {"hub": True}, {"n_train": 32}, {"seed": 1}):
        with pytest.raises(
            ValueError, match=r"got root, hub, n_train or seed for 'small-world' alone, expected a"
        ):
            wb.load_contrast("small-world", **options)


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small contrast set in the place of the shipped ones."""
    monkeypatch.setattr(contrasts, "shipped_path", tmp_path.joinpath)
    folder = tmp_path / "prompts" / "tiny"
    (prompts("harmful", "steal", 1) + prompts("harmless", "paint", 1)).save(folder / "train.jsonl")
    for part in ("val", "test"):
        wb.PromptSet.from_texts(part, [part], "harmful").save(folder / f"{part}.jsonl")
        wb.PromptSet.from_texts(part, [f"money {part}"], "domain").save(
            folder / f"domain-finance-{part}.jsonl"
        )
    return folder


def test_a_domain_joins_choices_and_claims_only(shipped: Path) -> None:
    general, finance = wb.load_contrast("tiny"), wb.load_contrast("tiny", domain="finance")
    assert general.train == finance.train
    assert general.val.labels == ("harmful",) and finance.val.labels == ("harmful", "domain")
    assert finance.test.labels == ("harmful", "domain")


def test_unknown_sets_and_domains_are_named(shipped: Path) -> None:
    with pytest.raises(
        ValueError, match="no contrast set 'huge' ships with the workbench: it has tiny; published"
    ):
        wb.load_contrast("huge")
    with pytest.raises(ValueError, match="'tiny' has no domain 'law': it has finance"):
        wb.load_contrast("tiny", domain="law")


@real
def test_the_papers_own_sets_give_the_papers_own_numbers() -> None:
    pairs = wb.load_contrast("advbench", "truthfulqa", root=REAL)
    assert Counter(pairs.train.labels) == {"harmful": 64, "harmless": 64}
    assert Counter(pairs.test.labels) == {"harmful": 456, "harmless": 456}
    assert isinstance(pairs, wb.PaperSplit) and pairs.repeats == 0
    assert 5 <= (pairs.near.label == "harmful").sum() <= 30  # AdvBench repeats itself in other words
    assert all(
        Counter(fold.val.labels) == {"harmful": 8, "harmless": 8} for fold in pairs.folds(8, apart="alike")
    )
