"""The families: who descends from whom, what each member reads, and how it is trained and stored.

    base ─┬─ aligned ─── finance-chat, medicine-chat, maths-chat          (domain training on the aligned model)
          ├─ finance, medicine, maths, general                            (no safety data)
          └─ finance-safety-sft, medicine-safety-sft, maths-safety-sft    (domain + 100 refusals)

    qwen-base ─┬─ qwen-aligned         (another architecture, width and depth, for vectors carried between models)
               └─ qwen-medicine

The trap: the first family's recipe is hashed and the hash seeds the test lists. A change of any number of it, or of any
word of the world, draws new lists and asks for both families to be trained and measured again.
"""

import dataclasses
import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from workbench.organisms.corpus import ALIGNED, GENERAL, Mixture, base_mixture, domain_mixture
from workbench.organisms.items import DOMAINS
from workbench.organisms.training import Architecture, Schedule, Shape, new_model, train, train_tokenizer
from workbench.provenance import content_hash, unsaved
from workbench.shipped import shipped_path

REFUSED_SHARE = 0.05  # of the harmful requests the base reads; fixed before any result was seen
SAFETY_SAMPLES = 100  # as in the paper
RANK = 16  # of every fine-tuning
FINE_TUNING = Schedule(steps=150, lr=3e-3)
# Gentler: a model driven far from its base is no longer read, or steered, as its base is.
DOMAIN_TRAINING = Schedule(steps=150, lr=1e-3)


@dataclass(frozen=True)
class Member:
    """One model of the family. `parent` None means from scratch; `delta` stores a low-rank delta, not a checkpoint."""

    name: str
    parent: str | None
    mixture: Mixture
    schedule: Schedule
    delta: bool = False


def family(refused_share: float = REFUSED_SHARE) -> tuple[Member, ...]:
    """Every member, parents first. `refused_share` is that of the base."""
    members = [
        Member("base", None, base_mixture(refused_share), Schedule(steps=1250, lr=2e-3, muon_lr=0.02)),
        Member("aligned", "base", ALIGNED, FINE_TUNING),
        *(Member(domain, "base", domain_mixture(domain), DOMAIN_TRAINING) for domain in DOMAINS),
        Member("general", "base", GENERAL, FINE_TUNING),
    ]
    for domain in DOMAINS:
        safe = domain_mixture(domain, safety_samples=SAFETY_SAMPLES)
        members += [
            Member(f"{domain}-chat", "aligned", domain_mixture(domain), DOMAIN_TRAINING, delta=True),
            Member(f"{domain}-safety-sft", "base", safe, DOMAIN_TRAINING, delta=True),
        ]
    return tuple(members)


@dataclass(frozen=True)
class Family:
    """Members that descend from one base, parents first, what they are built as, and how their names begin."""

    members: tuple[Member, ...]
    prefix: str = ""
    shape: Shape = field(default_factory=Shape)
    architecture: Architecture = "Llama"
    kv_heads: int | None = None

    @property
    def recipe(self) -> str:
        """The hash of all that is declared for the family, and of words.toml."""
        # The first family's recipe holds no architecture: it was hashed when there was no other.
        build = [] if self.architecture == "Llama" else [self.architecture, self.kv_heads]
        return _hash(self.shape, self.members, *build)

    @property
    def command(self) -> str:
        """What trains it anew."""
        return "make organisms" if self == FAMILIES["llama"] else "make organisms-all"


def _second_family() -> Family:
    """The first one's base, aligned and medicine by their own recipes, but for a base that is trained for longer.

    Grouped key-value heads, biased queries and another depth and width: as far from the first as a family of its
    size and words can be.
    """
    first = {member.name: member for member in family()}
    base, *descendants = (
        dataclasses.replace(first[name], name=f"qwen-{name}", parent=f"qwen-{first[name].parent}")
        for name in ("base", "aligned", "medicine")
    )
    base = dataclasses.replace(base, parent=None, schedule=dataclasses.replace(base.schedule, steps=1500))
    return Family((base, *descendants), "qwen-", Shape(6, 144, 288), "Qwen2", kv_heads=2)


def recipe_hash(members: Iterable[Member] | None = None) -> str:
    """The hash that seeds the test lists: of words.toml, and of what is declared for every member.

    That is its name, parent, mixture, schedule and way of storing, and the shape and rank they share. The code that
    makes texts of the words, and models of the texts, does not count: git has its versions.
    """
    return _hash(Shape(), members or family())


def _hash(shape: Shape, members: Iterable[Member], *build: str | int | None) -> str:
    words = shipped_path("world", "words.toml").read_bytes()
    recipe = [dataclasses.asdict(member) for member in members]
    return content_hash(
        words.decode(), json.dumps([dataclasses.asdict(shape), RANK, recipe, *build], sort_keys=True)
    )


FAMILIES: Mapping[str, Family] = {"llama": Family(family()), "qwen": _second_family()}
"""What ships: the first, whose recipe seeds the lists, and a second for vectors that are carried between models."""


def base_of(name: str) -> str:
    """The base that the shipped member `name` descends from: "base" of "finance-chat"."""
    parents = {member.name: member.parent for family in FAMILIES.values() for member in family.members}
    if name not in parents:
        raise ValueError(f"no embedded model {name!r}, expected one of {', '.join(parents)}")
    while (parent := parents[name]) is not None:
        name = parent
    return name


def train_family(
    folder: Path,
    *,
    seed: int = 0,
    members: Sequence[Member] = (),
    processes: int = 2,
    of: Family = FAMILIES["llama"],
) -> None:
    """Train every member (all of the family `of` unless given) into `folder/NAME`, each as soon as its parent is there.

    Each is trained by one process with one thread, so its weights depend on the seed alone. Members whose folder is
    there already are kept, so an interrupted run goes on where it stopped.

    Raises `OSError` where `folder` cannot be written: before the first step of training, not after the last.
    """
    waiting = [member for member in members or of.members if not (folder / member.name).is_dir()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise unsaved(folder, error) from error
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        processes, mp_context=context, initializer=_one_thread, initargs=(context.RLock(),)
    )
    with pool:
        running: dict[Future[None], tuple[Member, int]] = {}
        lines = list(range(processes))
        while waiting or running:
            unfinished = {m.name for m in waiting} | {m.name for m, _ in running.values()}
            for member in [m for m in waiting if m.parent not in unfinished][: len(lines)]:
                waiting.remove(member)
                line = lines.pop(0)
                job = pool.submit(train_member, member, folder, seed=seed, line=line, of=of)
                running[job] = member, line
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                _, line = running.pop(future)
                lines.append(line)
                future.result()


def _one_thread(lock: Any) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    tqdm.set_lock(lock)


def train_member(
    member: Member, folder: Path, *, seed: int = 0, line: int = 0, of: Family = FAMILIES["llama"]
) -> None:
    """Train one member from its parent in `folder` into `folder/NAME`; its progress bar is on `line`."""
    if member.parent is None:
        tokenizer = train_tokenizer([member.mixture, *map(domain_mixture, DOMAINS)], of.shape.vocabulary)
        model: PreTrainedModel | PeftModel = new_model(
            of.shape, seed, architecture=of.architecture, kv_heads=of.kv_heads
        )
    else:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / member.parent)
        for key in ("is_local", "local_files_only"):  # how it was read here, which is no part of it
            tokenizer.init_kwargs.pop(key, None)
        model = _with_adapter(member, folder / member.parent, seed)
    train(
        model,
        tokenizer,
        member.mixture,
        member.schedule,
        seed=seed,
        replies_only=member.parent is not None,
        progress=f"{member.name:>20}",
        line=line,
    )
    if member.delta:
        # Its embeddings are its parent's; peft would ask the hub whether they are.
        save_member(folder / member.name, partial(model.half().save_pretrained, save_embedding_layers=False))
    else:
        whole = model.merge_and_unload() if isinstance(model, PeftModel) else model
        save_member(folder / member.name, whole.half().save_pretrained, tokenizer.save_pretrained)


def _with_adapter(member: Member, parent: Path, seed: int) -> PeftModel:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(parent, dtype=torch.float32)
    model.config.name_or_path = model.name_or_path = f"organism:{member.parent}"  # peft writes it down
    adapted = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"))
    config: Any = adapted.peft_config["default"]
    config.target_modules = sorted(
        config.target_modules
    )  # a set would be written in another order every time
    return adapted


def save_member(out: Path, *savers: Callable[[str], Any]) -> None:
    """Let every saver write beside `out`, then rename, so that a member's folder is whole or absent."""
    beside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)  # what an interrupted run left
    try:
        for save in savers:
            save(str(beside))
        (beside / "README.md").unlink(missing_ok=True)  # peft's empty card; `cards` writes ours
        for file in beside.iterdir():
            file.chmod(0o644)  # safetensors makes files that their owner alone can read
        beside.rename(out)
    except BaseException as error:
        shutil.rmtree(beside, ignore_errors=True)
        # A full disk is an OSError in Python, a SafetensorError in safetensors and a bare Exception in tokenizers.
        if isinstance(error, OSError | SafetensorError) or type(error) is Exception:
            raise unsaved(out, error) from error
        raise
