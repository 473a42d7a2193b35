"""One batch of rows, answered: tokens, whether they ended, near ties, and the decisions they were written under.

    reply = token_1 ... token_n      n at most `max_new_tokens`, the last one a stop token where there was one

The trap: what ends a reply is the model's affair and the tokenizer's. A chat model whose generation config names
another stop token than its tokenizer babbles on where only one of the two is asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from workbench.decoding.batches import decode
from workbench.decoding.choosers import Greedy
from workbench.decoding.guided import Guide, Guided
from workbench.decoding.rows import Row
from workbench.loading import Model
from workbench.models import device_of, tokenizer_of, transformers_model


@dataclass(frozen=True, eq=False)
class Reply:
    """What was written for a row. `text` is without special tokens.

    `opened` are the decisions that were taken while it was written, by layer; None where they were known beforehand.
    """

    text: str
    tokens: tuple[int, ...]
    finished: bool
    near_ties: int
    opened: Bool[Tensor, "layer"] | None = None


def write_replies(
    model: Model,
    rows: Sequence[Row],
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    share: bool = False,
    guide: Guide | None = None,
) -> list[Reply]:
    """The greedy replies to one batch of rows, in order, or those that a guide leads to; `share` as for `decode`.

    Raises `ValueError` for logits that are no numbers.
    """
    stop = torch.tensor(stop_ids, dtype=torch.long, device=device_of(model))
    if guide is None:
        greedy = Greedy(len(rows), max_new_tokens, stop)
    else:
        greedy = Guided(guide, [row.ids for row in rows], max_new_tokens, stop)
    opened = decode(model, rows, greedy, max_new_tokens, share=share)
    greedy.require_finite([row.prompt for row in rows])
    tokenizer = tokenizer_of(model)
    found = []
    for row, decisions, (tokens, finished, near_ties) in zip(rows, opened, greedy.replies(), strict=True):
        text = str(tokenizer.decode(list(tokens), skip_special_tokens=True))
        unread = row.plan is not None and row.opened is None
        found.append(Reply(text, tokens, finished, near_ties, decisions if unread else None))
    return found


def stop_tokens(model: Model) -> list[int]:
    """The tokens that end a text: the tokenizer's, and those of the generation config where there is one."""
    hf = transformers_model(model)
    configured = hf.generation_config.eos_token_id if hf is not None and hf.generation_config else None
    listed = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in [tokenizer_of(model).eos_token_id, *listed] if token is not None})
