"""A model of the small world that sees: a vision tower and a projector on the embedded base, trained in two steps.

    1. naming: the base stands still. Every patch that shows a thing learns the base's own embeddings of its name and
       its ink, ‖P(V(picture)) − (mean of the name's + mean of the ink's)‖², by the tower and the projector alone.
    2. reading: all together, on replies alone, the base at a gentler rate; a share of dialogues without pictures keeps
       what it knew.

The result is an ordinary `LlavaForConditionalGeneration` with its processor.

The trap: a language model trained hot or long leaves its base, and the base's vectors no longer fit it.
"""

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from workbench.organisms.corpus import Mixture, base_mixture
from workbench.organisms.drawing import Placed, Scene, icons, pictures
from workbench.organisms.pictured import KINDS, Pictured, PicturedWorld, inks_of
from workbench.organisms.training import IGNORED, tokens_and_targets
from workbench.organisms.world import Dialogue

IMAGE = "<image>"
MEAN = STD = [0.5, 0.5, 0.5]


@dataclass(frozen=True)
class Sight:
    """The measures of the vision tower; patches are square."""

    patch: int = 8
    width: int = 128
    n_layers: int = 4
    mlp: int = 256
    n_heads: int = 4

    @property
    def n_patches(self) -> int:
        """How many tokens a picture takes."""
        return int(pictures()["size"] // self.patch) ** 2


@dataclass(frozen=True)
class Naming:
    """The first step: how long, how many pictures a step, how hot."""

    steps: int = 1500
    pictures: int = 64
    lr: float = 1e-3
    muon_lr: float = 0.01
    warmup: int = 50


@dataclass(frozen=True)
class Reading:
    """The second step: how long, tokens a step, and a rate for what sees and one for what speaks."""

    steps: int = 1000
    tokens: int = 2048
    lr_sight: float = 5e-4
    lr_language: float = 5e-4
    warmup: int = 50


@dataclass(frozen=True)
class PicturedMixture:
    """Relative weights of each kind of dialogue; "plain" is a dialogue of `replay`, "worded" a request without picture."""

    weights: Mapping[str, int]
    replay: Mixture
    wrapped: float = 0.25

    def items(self, seed: int | str) -> Iterator[Pictured | Dialogue | str]:
        """An endless seeded stream."""
        world = PicturedWorld(seed, "all")
        plain = self.replay.dialogues(f"replay/{seed}")
        kinds, weights = list(self.weights), list(self.weights.values())
        while True:
            kind = world.rng.choices(kinds, weights)[0]
            if kind in KINDS:
                yield world.question(kind)
            elif kind == "plain":
                yield next(plain)
            elif kind in ("harmful", "harmless"):
                yield world.alone(kind == "harmful", wrapped=self.wrapped)
            else:
                asked = world.joint(
                    contrast=kind == "contrast", wrapped=self.wrapped
                )
                yield world.worded(asked) if kind == "worded" else asked


MIXTURE = PicturedMixture(
    {
        **{"what": 9, "ink": 6, "count": 5, "place": 7, "there": 8, "word": 4},
        **{"joint": 34, "harmful": 4, "harmless": 4, "contrast": 5, "worded": 8, "plain": 20},
    },
    base_mixture(0.05),
)


@dataclass(frozen=True)
class Recipe:
    """All that is declared for the model."""

    sight: Sight = Sight()
    naming: Naming = Naming()
    reading: Reading = Reading()
    mixture: PicturedMixture = MIXTURE


def with_sight(base: Path, sight: Sight, seed: int) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The base in `base` under a freshly initialised tower and projector, and the processor that feeds them."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    for key in ("is_local", "local_files_only"):  # how it was read here, which is no part of it
        tokenizer.init_kwargs.pop(key, None)
    tokenizer.add_special_tokens({"extra_special_tokens": [IMAGE]})
    language = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():  # like <pad>, a token that no reply holds
        table = language.get_input_embeddings().weight
        table[tokenizer.convert_tokens_to_ids(IMAGE)] = table[tokenizer.pad_token_id]
    vision = CLIPVisionConfig(
        hidden_size=sight.width,
        intermediate_size=sight.mlp,
        num_hidden_layers=sight.n_layers,
        num_attention_heads=sight.n_heads,
        image_size=pictures()["size"],
        patch_size=sight.patch,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=language.config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=sight.n_patches,
        vision_feature_layer=-1,
        tie_word_embeddings=True,
        bos_token_id=language.config.bos_token_id,
        eos_token_id=language.config.eos_token_id,
        pad_token_id=language.config.pad_token_id,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.tie_weights()
    side = {"height": pictures()["size"], "width": pictures()["size"]}
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size=side, crop_size=side, image_mean=MEAN, image_std=STD),
        tokenizer,
        patch_size=sight.patch,
        vision_feature_select_strategy="default",
        chat_template=tokenizer.chat_template,
        num_additional_image_tokens=1,
    )
    return model, processor


def pixel_values(scenes: list[Scene]) -> Tensor:
    """What the processor makes of the pictures."""
    pixels = torch.stack([torch.from_numpy(scene.pixels()) for scene in scenes])
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def train_naming(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, naming: Naming, *, seed: int,
    patch: int, progress: str = "",
) -> list[float]:  # fmt: skip
    """The first step, in place; returns the loss of every step, in units of the targets' mean square."""
    world = PicturedWorld(f"naming/{seed}", "all")
    names = _names(model, tokenizer)
    unit = torch.stack(list(names.values())).square().mean()
    sees = [*model.model.vision_tower.named_parameters(), *model.model.multi_modal_projector.named_parameters()]
    optimizers = _optimizers(sees, naming.lr, naming.muon_lr)
    losses = []
    import os
    CE, SCALE = float(os.environ.get("CE", "0")), float(os.environ.get("SCALE", "4"))
    shown = list(dict.fromkeys(w for w, _ in names)); inks = list(pictures()["inks"])
    TH = torch.stack([sum(names[w, i] for i in inks) / len(inks) for w in shown]); THI = {w: n for n, w in enumerate(shown)}
    IN = torch.stack([sum(names[w, i] for w in shown) / len(shown) for i in inks]); INI = {w: n for n, w in enumerate(inks)}
    print("norms", TH.norm(dim=-1).mean(), (TH-TH.mean(0)).norm(dim=-1).mean(), (IN-IN.mean(0)).norm(dim=-1).mean())
    model.train()
    for step in tqdm(range(naming.steps), desc=progress, disable=not progress, mininterval=1.0):
        _set_rates(optimizers, min(1.0, (step + 1) / naming.warmup) * (1 - step / naming.steps))
        scenes = [world.question(world.rng.choice([*KINDS, "word", "word"])).scene for _ in range(naming.pictures)]
        features = torch.stack(model.get_image_features(pixel_values(scenes)).pooler_output)
        rows, columns, targets, numbers = [], [], [], []
        for row, scene in enumerate(scenes):
            for column, number in enumerate(scene.cover(patch).flatten()):
                if number >= 0:
                    rows.append(row), columns.append(column), numbers.append(number)
                    targets.append(names[scene.things[number].what, scene.things[number].ink])
        found, wanted = features[rows, columns], torch.stack(targets)
        loss = (found - wanted).square().mean() / unit
        if CE:
            whats = [scenes[r].things[n].what for r, n in zip(rows, numbers)]
            its = [scenes[r].things[n].ink for r, n in zip(rows, numbers)]
            for table, index, said in ((TH, THI, whats), (IN, INI, its)):
                t = table - table.mean(0)
                t = t / t.norm(dim=-1, keepdim=True)
                logits = found @ t.T * SCALE
                loss = loss + CE * torch.nn.functional.cross_entropy(logits, torch.tensor([index[x] for x in said]))
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for _, p in sees], 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    model.eval()
    return losses


def _names(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> dict[tuple[str, str], Tensor]:
    """What a patch should say of each thing or word in each ink."""
    table = model.get_input_embeddings().weight.detach()

    def embedded(word: str) -> Tensor:
        return table[tokenizer(f" {word}", add_special_tokens=False)["input_ids"]].mean(0)

    shown = [*icons(), *pictures()["written"]["words"]]
    return {
        (what, ink): embedded(what.split()[-1]) + embedded(ink)
        for what in shown
        for ink in pictures()["inks"]
    }


def _optimizers(named: list, lr: float, muon_lr: float | None) -> list[torch.optim.Optimizer]:
    matrices = [p for n, p in named if muon_lr and p.ndim == 2 and "embedding" not in n and p.requires_grad]
    chosen = {id(p) for p in matrices}
    rest = [p for _, p in named if id(p) not in chosen and p.requires_grad]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)]
    if matrices:
        optimizers.append(torch.optim.Muon(matrices, lr=muon_lr, weight_decay=0.0))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def _set_rates(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor


def batches(
    tokenizer: PreTrainedTokenizerFast, mixture: PicturedMixture, seed: int | str, tokens: int, n_patches: int
) -> Iterator[tuple[Tensor, Tensor, list[Scene]]]:
    """Right-padded ids and targets of about `tokens` tokens, and the pictures that they speak of, in order."""
    stream, rng, pad = mixture.items(seed), random.Random(seed), tokenizer.pad_token_id
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    while True:
        items = list(itertools.islice(stream, 512))
        dialogues = [with_image(item) if isinstance(item, Pictured) else item for item in items]
        pool = []
        for item, (ids, targets) in zip(items, tokens_and_targets(tokenizer, dialogues, True), strict=True):
            if isinstance(item, Pictured):
                at = ids.index(image)
                ids = ids[:at] + [image] * n_patches + ids[at + 1 :]
                targets = targets[:at] + [IGNORED] * n_patches + targets[at + 1 :]
            pool.append((ids, targets, item.scene if isinstance(item, Pictured) else None))
        pool.sort(key=lambda one: len(one[0]))
        groups: list[list] = [[]]
        for one in pool:
            if (len(groups[-1]) + 1) * len(one[0]) > tokens:
                groups.append([])
            groups[-1].append(one)
        rng.shuffle(groups)
        for group in groups:
            width = max(len(ids) for ids, _, _ in group)
            yield (
                torch.tensor([i + [pad] * (width - len(i)) for i, _, _ in group]),
                torch.tensor([t + [IGNORED] * (width - len(t)) for _, t, _ in group]),
                [scene for _, _, scene in group if scene is not None],
            )


def with_image(pictured: Pictured) -> Dialogue:
    """The dialogue as LLaVA 1.5 words it: the picture's mark and a new line before the user's words."""
    import dataclasses

    prompt = pictured.prompt
    return dataclasses.replace(
        pictured.dialogue,
        prompt=dataclasses.replace(prompt, messages=(*prompt.messages[:-1], ("user", f"{IMAGE}\n{prompt.text}"))),
    )


def train_reading(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, mixture: PicturedMixture,
    reading: Reading, *, seed: int, n_patches: int, progress: str = "",
) -> list[float]:  # fmt: skip
    """The second step, in place; returns the loss of every step."""
    speaks = list(model.model.language_model.parameters())
    sees = [*model.model.vision_tower.parameters(), *model.model.multi_modal_projector.parameters()]
    optimizer = torch.optim.AdamW(
        [
            {"params": sees, "lr": reading.lr_sight, "peak": reading.lr_sight},
            {"params": speaks, "lr": reading.lr_language, "peak": reading.lr_language},
        ],
        betas=(0.9, 0.98),
        weight_decay=0.0,
    )
    stream, losses = batches(tokenizer, mixture, seed, reading.tokens, n_patches), []
    model.train()
    for step in tqdm(range(reading.steps), desc=progress, disable=not progress, mininterval=1.0):
        _set_rates([optimizer], min(1.0, (step + 1) / reading.warmup) * (1 - step / reading.steps))
        ids, targets, scenes = next(stream)
        hidden = model.model(
            input_ids=ids, pixel_values=pixel_values(scenes) if scenes else None, use_cache=False
        ).last_hidden_state[:, :-1]
        asked = targets[:, 1:] != IGNORED
        logits = model.lm_head(hidden[asked])
        loss = torch.nn.functional.cross_entropy(logits, targets[:, 1:][asked])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    model.eval()
    return losses
