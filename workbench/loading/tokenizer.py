"""The tokenizer of a checkpoint, with the chat template that it brings or that it is given.

The trap: for some architectures transformers puts its own tokenizer class, which splits numbers and words by other
rules, in the place of one that a checkpoint says is its tokenizer.json and nothing else.
"""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from workbench.chat import with_template
from workbench.loading.sources import Checkpoint
from workbench.loading.weights import UNREADABLE, brief


def load_tokenizer(
    x: str | Path, *, template: str | Path | None = None, revision: str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of an embedded model, a folder or a hub id; no weights are read.

    `template` is the name of a published chat format ("vicuna"; `workbench.chat.TEMPLATES` has them), a .jinja file, or
    Jinja text, in the place of the tokenizer's own.
    """
    found = read_tokenizer(Checkpoint.named(x, revision))
    return found if template is None else with_template(found, template)


def read_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint; a low-rank delta without one has its base's."""
    if checkpoint.file("tokenizer_config.json") is None and (base := checkpoint.adapter_base()):
        return read_tokenizer(base)
    try:
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            checkpoint.source, revision=checkpoint.revision, trust_remote_code=False
        )
        declared = checkpoint.json("tokenizer_config.json").get("tokenizer_class")
        if declared == PreTrainedTokenizerFast.__name__ and type(found) is not PreTrainedTokenizerFast:
            found = PreTrainedTokenizerFast.from_pretrained(
                checkpoint.source, revision=checkpoint.revision or "main"
            )
        return found
    except UNREADABLE as error:
        reason, remedy = brief(error), "pass one, load_model(..., tokenizer=...)"
        if pointers := checkpoint.unfetched():
            reason = f"{', '.join(pointers[:3])}: pointers of Git LFS"
            remedy = "fetch the content, git lfs pull"
        raise ValueError(f"{checkpoint.name!r} has no readable tokenizer ({reason}): {remedy}") from error
