"""Three members by another way than the family's: domain models that learned by DPO what not to do.

    finance ── finance-dpo        medicine ── medicine-dpo        maths ── maths-dpo

Each domain model is shown as many harmful requests as safety fine-tuning uses, the very same ones, and prefers a clean
refusal to what it said itself; and as many calm ones, where it prefers what it said itself to a refusal.

The trap: without the calm half a model this small refuses everything. They are no part of the family's recipe, whose
hash seeds the test lists: what is added later must not draw new ones.
"""

import dataclasses
import json
import multiprocessing
import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from workbench.generation import generate
from workbench.loading import load_model
from workbench.organisms.corpus import domain_mixture
from workbench.organisms.family import RANK, SAFETY_SAMPLES
from workbench.organisms.items import DOMAINS
from workbench.organisms.world import Dialogue, World
from workbench.preferences import DPOSettings, PreferencePair, train_dpo
from workbench.provenance import content_hash, write_safely

# Chosen on the domains' validation prompts; twice less of the rate leaves a tenth of the harmful requests answered.
SETTINGS = DPOSettings(beta=0.1, rate=1e-3, epochs=3, batch_size=10, rank=RANK, max_length=256)
MAX_NEW_TOKENS = 64


@dataclass(frozen=True)
class Preferred:
    """A domain model taught by preference pairs, `samples` of harmful requests and as many of calm ones."""

    domain: str
    samples: int = SAFETY_SAMPLES
    settings: DPOSettings = SETTINGS

    @property
    def name(self) -> str:
        """What it loads under."""
        return f"{self.domain}-dpo"

    @property
    def recipe(self) -> str:
        """The hash of all that is declared for it."""
        return content_hash(json.dumps(dataclasses.asdict(self), sort_keys=True))


PREFERRED: tuple[Preferred, ...] = tuple(map(Preferred, DOMAINS))
"""What ships."""


def preference_pairs(member: Preferred, parent: Path, *, seed: int = 0) -> list[PreferencePair]:
    """The pairs of `member`, whose own replies its `parent` writes. Requests that it refuses by itself are left out."""
    wrapped = domain_mixture(member.domain).wrapped
    # The seed of safety fine-tuning's samples (`corpus.Mixture.dialogues`): the same requests, the same refusals.
    refusing = World(f"safety/{seed}", "seen", refused_share=1.0)
    harmful = [refusing.everyday(True, wrapped=wrapped) for _ in range(member.samples)]
    answering = World(f"preferences/{seed}", "seen")
    calm = [answering.everyday(False, contrast=i % 2 == 1, wrapped=wrapped) for i in range(member.samples)]
    own = _own_replies(parent, [*harmful, *calm])
    said, kept = own[: len(harmful)], own[len(harmful) :]
    pairs = [
        PreferencePair(asked.prompt, asked.reply, reply)
        for asked, reply in zip(harmful, said, strict=True)
        if reply.strip() != asked.reply.strip()
    ]
    pairs += [
        PreferencePair(asked.prompt, reply, other.reply)
        for asked, reply, other in zip(calm, kept, harmful, strict=True)
        if reply.strip() != other.reply.strip()
    ]
    random.Random(seed).shuffle(pairs)
    return pairs


def train_preferred(
    folder: Path, *, seed: int = 0, members: Sequence[Preferred] = PREFERRED, processes: int = 2
) -> None:
    """Train every member from its domain model in `folder` into `folder/NAME`, one thread each.

    Members that are there already are kept. Raises `FileNotFoundError` where a domain model is not there.
    """
    for member in members:
        if not (folder / member.domain).is_dir():
            raise FileNotFoundError(
                f"no {member.domain} in {folder}, from which {member.name} is trained: workbench organisms train "
                f"--out {folder}"
            )
    waiting = [member for member in members if not (folder / member.name).is_dir()]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        processes, mp_context=context, initializer=partial(torch.set_num_threads, 1)
    ) as pool:
        list(pool.map(partial(train_one, folder=folder, seed=seed), waiting))


def train_one(member: Preferred, *, folder: Path, seed: int) -> None:
    """Train one member; the same seed on one thread gives the same files byte by byte."""
    parent, beside = folder / member.domain, folder / f".{member.name}.trained"
    pairs = preference_pairs(member, parent, seed=seed)
    out = train_dpo(parent, pairs, beside, settings=member.settings, stored=torch.float16, seed=seed)
    config = out / "adapter_config.json"
    told = json.loads(config.read_text(encoding="utf-8")) | {
        "base_model_name_or_path": f"organism:{member.domain}"
    }
    write_safely(config, json.dumps(told, indent=2, sort_keys=True).encode())
    for file in out.iterdir():
        file.chmod(0o644)  # safetensors makes files that their owner alone can read
    out.rename(folder / member.name)


def _own_replies(parent: Path, dialogues: Sequence[Dialogue]) -> list[str]:
    model = load_model(parent, backend="plain")
    replies = generate(model, [d.prompt for d in dialogues], max_new_tokens=MAX_NEW_TOKENS)
    return [reply.text for reply in replies]
