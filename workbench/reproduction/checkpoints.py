"""The models of a reproduction: looked at before any is loaded, and loaded one pair at a time.

The trap: two models of seven billion parameters fill a machine. No more than a target and its aligned model are held
at once, and each is let go before the next is read.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from transformers import AutoConfig, PretrainedConfig

from workbench.chat import TEMPLATES, Words, template_hash, tokenize, tokenizer_in
from workbench.evaluation.defences import defences
from workbench.loading import Model, load_model
from workbench.loading.processor import load_words
from workbench.loading.sources import Checkpoint
from workbench.loading.weights import brief
from workbench.prompts import Prompt, PromptSet
from workbench.published import wrap
from workbench.reproduction.config import Experiment, Target


def models_of(experiment: Experiment, target: Target) -> dict[str, str]:
    """Every model of a target by its part."""
    return {"target": target.model, "aligned": experiment.aligned_of(target), **target.companions}


def is_embedded(name: str) -> bool:
    """Whether a model ships with the workbench, so that its replies harm nobody."""
    return Checkpoint.named(name).is_embedded


def wording_of(experiment: Experiment, target: Target) -> str:
    """In whose words the prompt defences speak to a target: those that the embedded models know, or English."""
    return experiment.wording or ("small-world" if is_embedded(target.model) else "english")


def require_fitting(experiment: Experiment) -> None:
    """Refuse models that are not there, and an aligned model of another depth or width than its target."""
    shapes: dict[str, tuple[int, int]] = {}
    for target in experiment.targets:
        for name in models_of(experiment, target).values():
            if name not in shapes:
                config = config_of(name)
                shapes[name] = config.num_hidden_layers, config.hidden_size
        aligned = experiment.aligned_of(target)
        (depth, width), (depth_there, width_there) = shapes[target.model], shapes[aligned]
        if (depth, width) != (depth_there, width_there):
            raise ValueError(
                f"{target.name}: {target.model} has {depth} layers of width {width}, {aligned} has {depth_there} of "
                f"width {width_there}: a vector is added at its own layer, take two models of one base; "
                "`workbench transfer` measures what maps between others are worth"
            )


def config_of(name: str) -> PretrainedConfig:
    """The config of a model's text part, without its weights."""
    checkpoint = Checkpoint.named(name)
    whole = checkpoint.adapter_base() or checkpoint
    try:
        config = AutoConfig.from_pretrained(whole.source, revision=whole.revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name!r} has no readable config ({brief(error)}): name a model of transformers' own classes"
        ) from error
    return config.get_text_config()


class Room:
    """How long a prompt may be: as every condition words it, every model needs room for it and for a reply.

    Prompts with pictures need it in those that answer; the aligned model reads words alone.
    """

    def __init__(self, experiment: Experiment, conditions: Collection[str]) -> None:
        self._reserve = experiment.max_new_tokens
        self._wordings = [
            lambda prompt: prompt,
            *(
                rewrite
                for words in {wording_of(experiment, target) for target in experiment.targets}
                for name, rewrite in defences(words).items()
                if name in conditions
            ),
        ]
        names = {name for target in experiment.targets for name in models_of(experiment, target).values()}
        self._answering = {
            name for target in experiment.targets for name in (target.model, *target.companions.values())
        }
        self._readers: list[tuple[str, Words, int]] = []
        for name in sorted(names):
            words = load_words(name, template=experiment.template)
            self._readers.append((name, words, int(config_of(name).max_position_embeddings)))

    def require_one_template(self, experiment: Experiment) -> None:
        """Refuse a target and an aligned model that mark the last token differently: it is where vectors are read."""
        marks = {name: template_hash(tokenizer_in(words)) for name, words, _ in self._readers}
        for target in experiment.targets:
            aligned = experiment.aligned_of(target)
            if marks[target.model] != marks[aligned]:
                raise ValueError(
                    f"{target.name}: the chat templates of {target.model} and {aligned} differ, and vectors are read "
                    f"at the end of one: template = ... in the file gives one to both, {', '.join(TEMPLATES)} or a "
                    ".jinja file"
                )

    def require(self, prompts: PromptSet) -> None:
        """Refuse a prompt that some model has no room for, and a picture that one which answers does not see."""
        worded = [wording(prompt) for wording in self._wordings for prompt in prompts]
        for name, words, context in self._readers:
            asked = [prompt for prompt in worded if name in self._answering or not prompt.images]
            try:
                tokenize(words, asked, context_length=context, reserve=self._reserve)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error

    def fitting(self, templates: PromptSet, around: PromptSet) -> tuple[PromptSet, int]:
        """The templates that every model has room for around each of these prompts; how many are left out."""
        tokenizer = tokenizer_in(self._readers[0][1])
        longest = max(around, key=lambda prompt: len(tokenizer(prompt.text)["input_ids"]))
        kept = tuple(template for template in templates if self._holds(wrap([longest], [template])[0]))
        if not kept:
            name, _, context = min(self._readers, key=lambda reader: reader[2])
            raise ValueError(
                f"no template of {templates.name!r} fits into the context of {name}: {context} tokens, of which "
                f"{self._reserve} are kept for the reply; take shorter ones, lower max_new_tokens, or leave templates "
                "out"
            )
        return PromptSet(templates.name, kept), len(templates) - len(kept)

    def _holds(self, prompt: Prompt) -> bool:
        worded = [wording(prompt) for wording in self._wordings]
        return all(
            max(map(len, tokenize(words, worded))) + self._reserve <= context
            for _, words, context in self._readers
        )


@contextmanager
def loaded(experiment: Experiment, name: str) -> Iterator[Model]:
    """A model as the file says to load it, let go in the end."""
    model = load_model(
        name,
        backend="plain",
        template=experiment.template,
        dtype=getattr(torch, experiment.dtype),
        device_map="auto" if experiment.device_map == "auto" else None,
    )
    try:
        yield model
    finally:
        del model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
