"""A model of the small world that sees: a vision tower and a projector on the embedded base, trained in five steps.

    wording  the base alone reads requests whose aim lies in way and thing together, the thing named
    telling  the base alone reads pictures, the words of each patch given in the place of a feature
    naming   the base stands still; every patch f learns to say what it shows where the base keeps its words, a name,
             an ink and a side: p(name | f) = softmax over all names of −s ‖f − e(name) − e(ink) − e(side)‖²,
             and p(ink | f), p(side | f) likewise, e the mean embedding of a word's tokens
    reading  all together read pictures, on replies alone, above all requests whose aim needs words and picture
    settling the same, gently, above all questions; dialogues without pictures keep what the base knew

The embeddings of words stand still in all of them: they are what patches learn to say, and where the base, and whoever
descends from it, begins to read.

What comes out is an ordinary `LlavaForConditionalGeneration` checkpoint with its processor.

The traps: were name and ink told as one, a pair kept for validation or test would only ever be wrong. And thrown into
the last step at once, a language model learns to do without the picture long before it can use it.
"""

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from workbench.organisms.drawing import Scene, icons, pictures
from workbench.organisms.family import save_member
from workbench.organisms.pictured import KINDS, Pictured, PicturedWorld, noun_of
from workbench.organisms.sight import NAME, RECIPE, PicturedMixture, Sight, Step, Tower
from workbench.organisms.staging import OPPOSITE
from workbench.organisms.training import IGNORED, tokens_and_targets
from workbench.organisms.world import Dialogue

IMAGE = "<image>"
SHARPNESS = 8.0  # s above
GROUND_WEIGHT = 0.1  # most patches show nothing
_MEAN = _STD = [0.5, 0.5, 0.5]
Batch: TypeAlias = tuple[Tensor, Tensor, list[Scene]]


def train_sighted(folder: Path, *, seed: int = 0, recipe: Sight = RECIPE, progress: bool = True) -> None:
    """Train the model from the base in `folder` into `folder/llava`; one that is there already is kept.

    The same seed on one thread gives the same files byte by byte. Raises `FileNotFoundError` where there is no base.
    """
    if (folder / NAME).is_dir():
        return
    if not (folder / "base").is_dir():
        raise FileNotFoundError(
            f"no base in {folder}, from which {NAME} is trained: workbench organisms train --out {folder}"
        )
    model, processor = with_sight(folder / "base", recipe.tower, seed=seed)
    tokenizer = processor.tokenizer
    read = partial(learn_to_read, model, tokenizer)
    read(recipe.wording, recipe.words, seed=seed, progress="wording" * progress)
    read(recipe.telling, recipe.told, seed=f"told/{seed}", told=True, progress="telling" * progress)
    learn_names(model, tokenizer, recipe.naming, seed=seed, progress="naming" * progress)
    read(recipe.reading, recipe.pictures, seed=seed, progress="reading" * progress)
    read(recipe.settling, recipe.settled, seed=f"settling/{seed}", progress="settling" * progress)
    save_member(folder / NAME, model.half().save_pretrained, processor.save_pretrained)


def with_sight(
    base: Path, tower: Tower, *, seed: int = 0
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The base under a freshly initialised tower and projector, in float32, and the processor that feeds them."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    for key in ("is_local", "local_files_only"):  # how it was read here, which is no part of it
        tokenizer.init_kwargs.pop(key, None)
    tokenizer.add_special_tokens({"extra_special_tokens": [IMAGE]})
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    language = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():  # like <pad>: a token that no reply holds
        table = _embeddings(language)
        table[image] = table[tokenizer.pad_token_id]
    language.config.name_or_path = "organism:base"  # it is written down, and no path of this machine shall be
    side = pictures()["size"]
    vision = CLIPVisionConfig(
        hidden_size=tower.width,
        intermediate_size=tower.d_mlp,
        num_hidden_layers=tower.n_layers,
        num_attention_heads=tower.n_heads,
        image_size=side,
        patch_size=tower.patch,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=language.config,
        image_token_index=image,
        image_seq_length=tower.n_patches,
        vision_feature_layer=-1,  # LLaVA skips the last layer of a tower that learned something else: ours did not
        tie_word_embeddings=True,
        **{key: getattr(language.config, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")},
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.tie_weights()
    model.generation_config = language.generation_config
    size = {"height": side, "width": side}
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size=size, crop_size=size, image_mean=_MEAN, image_std=_STD),
        tokenizer,
        patch_size=tower.patch,
        vision_feature_select_strategy="default",
        chat_template=tokenizer.chat_template,
        num_additional_image_tokens=1,  # the class token, which "default" leaves out
    )
    return model, processor


def pixel_values(scenes: Sequence[Scene]) -> Tensor:
    """What the processor makes of pictures of scenes, without the way through a file."""
    pixels = torch.stack([torch.from_numpy(scene.pixels()) for scene in scenes])
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def learn_names(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, step: Step, *, seed: int = 0,
    progress: str = "",
) -> list[float]:  # fmt: skip
    """What a patch shows, in the base's own words, in place; returns the loss of every optimiser step."""
    world = PicturedWorld(f"naming/{seed}", "all")
    sees: Any = model.get_image_features
    config: Any = model.config.vision_config
    spoken = [_embedded(model, tokenizer, words) for words in said_by_patches()]

    def loss() -> Tensor:
        # Words take longest: every patch of one must know the whole of it.
        kinds = world.rng.choices([*KINDS, "word", "word"], k=step.size)
        scenes = [world.question(kind).scene for kind in kinds]
        found = torch.cat(sees(pixel_values(scenes)).pooler_output)
        said = torch.tensor([words for scene in scenes for words in _said(scene, config.patch_size)])
        whole = sum(table[said[:, n]] for n, table in enumerate(spoken))
        weights = torch.where(said[:, 0] == 0, GROUND_WEIGHT, 1.0)
        away = (found - whole).square().sum(-1)
        losses = [
            nn.functional.cross_entropy(
                # The other words taken as told, how far what is left is from each word of this kind.
                -SHARPNESS * torch.cdist(found - whole + table[said[:, n]], table).square(),
                said[:, n],
                reduction="none",
            )
            for n, table in enumerate(spoken)
        ]
        return ((sum(losses) + away) * weights).sum() / weights.sum()

    return _descend(model, loss, step, progress)


def said_by_patches() -> list[list[str]]:
    """What a patch may say: a name, an ink, a side; the first of each where there is none."""
    names = map(noun_of, [*icons(), *pictures()["written"]["words"]])
    # Once each: some written words name a thing, too.
    return [["hollow", *dict.fromkeys(names)], ["", *pictures()["inks"]], ["", *OPPOSITE]]


def _said(scene: Scene, patch: int) -> Iterator[list[int]]:
    """The numbers of the words that each patch says, in order; the ground is hollow, the middle on no side."""
    names, inks, _ = said_by_patches()
    cover = scene.cover(patch)
    middle = len(cover) // 2
    for (_, column), number in np.ndenumerate(cover):
        if number < 0:
            yield [0, 0, 0]
        else:
            placed = scene.things[number]
            side = 1 * (column < middle) + 2 * (column > middle)
            yield [names.index(noun_of(placed.what)), inks.index(placed.ink), side]


def _embedded(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, words: list[str]) -> Tensor:
    """The mean embedding of each word's tokens; of no word, none."""
    table = _embeddings(model).detach()
    ids = [tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in words if word]
    found = [table[one].mean(0) for one in ids]
    return torch.stack([torch.zeros_like(found[0])] * (len(words) - len(found)) + found)


def learn_to_read(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, step: Step, mixture: PicturedMixture,
    *, seed: int | str = 0, told: bool = False, progress: str = "",
) -> list[float]:  # fmt: skip
    """The replies of a mixture, in place; returns the loss of every optimiser step.

    `told` puts what each patch should say in the place of what the tower makes of it.
    """
    stream = batches(tokenizer, mixture, seed, step.size, model.config.image_seq_length)
    whole: Any = model.model
    config: Any = model.config.vision_config
    spoken = [_embedded(model, tokenizer, words) for words in said_by_patches()]

    def features(scenes: list[Scene]) -> Tensor:
        if not told:
            return torch.cat(whole.get_image_features(pixel_values(scenes)).pooler_output)
        said = torch.tensor([words for scene in scenes for words in _said(scene, config.patch_size)])
        return torch.stack([table[said[:, n]] for n, table in enumerate(spoken)]).sum(0)

    def loss() -> Tensor:
        ids, targets, scenes = next(stream)
        read = whole.get_input_embeddings()(ids)
        if scenes:
            at = (ids == model.config.image_token_id).unsqueeze(-1)
            read = read.masked_scatter(at, features(scenes))
        states = whole.language_model(inputs_embeds=read, use_cache=False).last_hidden_state[:, :-1]
        asked = targets[:, 1:] != IGNORED
        return nn.functional.cross_entropy(model.lm_head(states[asked]), targets[:, 1:][asked])

    return _descend(model, loss, step, progress)


def batches(
    tokenizer: PreTrainedTokenizerFast, mixture: PicturedMixture, seed: int | str, tokens: int, n_patches: int
) -> Iterator[Batch]:
    """Right-padded ids and targets of about `tokens` tokens, of similar length, and their pictures in order."""
    stream, rng, pad = mixture.items(seed), random.Random(seed), tokenizer.pad_token_id
    marks: Any = tokenizer.convert_tokens_to_ids([IMAGE, "<|assistant|>", "<|end|>"])
    image, said, ended = marks
    while True:
        items = list(itertools.islice(stream, 512))
        asked = [marked(item) if isinstance(item, Pictured) else item for item in items]
        pool: list[tuple[list[int], list[int], list[Scene]]] = []
        for item, pair in zip(items, tokens_and_targets(tokenizer, asked, replies_only=True), strict=True):
            if isinstance(item, Pictured):
                ids = [i for token in pair[0] for i in [token] * (n_patches if token == image else 1)]
                pool.append((ids, _every_reply(ids, said, ended), [item.scene]))
            else:
                pool.append((*pair, []))
        pool.sort(key=lambda one: len(one[0]))
        groups: list[list[tuple[list[int], list[int], list[Scene]]]] = [[]]
        for one in pool:
            if (len(groups[-1]) + 1) * len(one[0]) > tokens:
                groups.append([])
            groups[-1].append(one)
        rng.shuffle(groups)
        for group in groups:
            width = max(len(ids) for ids, _, _ in group)
            yield (
                torch.tensor([ids + [pad] * (width - len(ids)) for ids, _, _ in group]),
                torch.tensor([targets + [IGNORED] * (width - len(targets)) for _, targets, _ in group]),
                [scene for _, _, scenes in group for scene in scenes],
            )


def _every_reply(ids: list[int], said: int, ended: int) -> list[int]:
    """The targets of a conversation: what stands after each `said`, up to `ended`."""
    targets, inside = [], False
    for token in ids:
        targets.append(token if inside else IGNORED)
        inside = token == said or (inside and token != ended)
    return targets


def marked(pictured: Pictured) -> Dialogue:
    """The dialogue as LLaVA 1.5 words it: the picture's mark and a new line before the user's words."""
    prompt = pictured.prompt
    (role, first), *others = prompt.messages
    messages = ((role, f"{IMAGE}\n{first}"), *others)
    return replace(pictured.dialogue, prompt=replace(prompt, messages=messages))


def _embeddings(model: PreTrainedModel) -> Tensor:
    table: Any = model.get_input_embeddings()
    weight: Tensor = table.weight
    return weight


def _optimizers(parts: Iterable[nn.Module], rates: tuple[float, float] | None) -> list[torch.optim.Optimizer]:
    """AdamW at the first of `rates`, and Muon at the second on all matrices but embeddings; those of words stay."""
    if rates is None:
        return []
    named = [(name, p) for part in parts for name, p in part.named_parameters() if "embed_tokens" not in name]
    matrices = [p for n, p in named if p.ndim == 2 and "embed" not in n]
    chosen = {id(p) for p in matrices}
    rest = [p for _, p in named if id(p) not in chosen]
    return [
        torch.optim.AdamW(rest, lr=rates[0], betas=(0.9, 0.98), weight_decay=0.0),
        torch.optim.Muon(matrices, lr=rates[1], weight_decay=0.0),
    ]


def _descend(
    model: LlavaForConditionalGeneration, loss: Callable[[], Tensor], step: Step, progress: str
) -> list[float]:
    whole = model.model
    optimizers = [
        *_optimizers([whole.vision_tower, whole.multi_modal_projector], step.sight),
        *_optimizers([whole.language_model], step.language),
    ]
    moved = [p for optimizer in optimizers for p in optimizer.param_groups[0]["params"]]
    peaks, losses = [optimizer.param_groups[0]["lr"] for optimizer in optimizers], []
    model.requires_grad_(False)
    for parameter in moved:
        parameter.requires_grad_(True)
    model.train()
    for n in tqdm(range(step.steps), desc=f"{progress:>20}", disable=not progress, mininterval=1.0):
        factor = min(1.0, (n + 1) / step.warmup) * (1 - n / step.steps)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * factor
        value = loss()
        value.backward()
        nn.utils.clip_grad_norm_(moved, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(value.item())
    model.requires_grad_(True)
    model.eval()
    return losses
