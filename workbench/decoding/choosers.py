"""Which token comes next, and which end a reply.

    token_t = argmax of the logits after the prompt and token_1 ... token_(t-1), or a given one

The trap: two logits that nearly tie change places with the batch size, and NaN wins every argmax. Both are counted.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.prompts import Prompt

NEAR_TIE = 1e-4
"""Two top logits closer than this may change places between batch sizes and backends, which agree to about 1e-6."""


@runtime_checkable
class Chooser(Protocol):
    """Picks the next token of every row, and says which of them end their reply."""

    def choose(
        self, logits: Float[Tensor, "row d_vocab"], rows: Int[Tensor, "row"], step: int
    ) -> Int[Tensor, "row"]:
        """The tokens of `step`; `rows` are the rows of the batch that are still there."""

    def ends(self, tokens: Int[Tensor, "row"]) -> Bool[Tensor, "row"]:
        """Which of these tokens end a reply."""


class Greedy:
    """The most likely token, until a stop token. Counts near ties, and remembers logits that are no numbers."""

    def __init__(self, n_rows: int, n_steps: int, stop: Int[Tensor, "stop"]) -> None:
        self.tokens = torch.zeros(n_rows, n_steps, dtype=torch.long, device=stop.device)
        self.near_ties = torch.zeros(n_rows, n_steps, dtype=torch.bool, device=stop.device)
        self.not_finite = torch.zeros_like(self.near_ties)
        self.stop = stop

    def choose(
        self, logits: Float[Tensor, "row d_vocab"], rows: Int[Tensor, "row"], step: int
    ) -> Int[Tensor, "row"]:
        """The first of the largest logits."""
        values, indices = logits.topk(2)
        (first, second), tokens = values.unbind(-1), indices[:, 0]
        tied = first == second
        if tied.any():  # of equals topk takes any, argmax the first
            tokens[tied] = logits[tied].argmax(-1)
        self.tokens[rows, step] = tokens
        self.near_ties[rows, step] = first - second < NEAR_TIE
        # NaN counts as the largest, so the first tells of any.
        self.not_finite[rows, step] = ~first.isfinite()
        return tokens

    def ends(self, tokens: Int[Tensor, "row"]) -> Bool[Tensor, "row"]:
        """Stop tokens do."""
        return torch.isin(tokens, self.stop)

    def require_finite(self, prompts: Sequence[Prompt]) -> None:
        """Refuse replies that rest on NaN or infinity: called once, after the last step, to wait for the device once.

        What comes after a row's stop token is no part of its reply.
        """
        ends = torch.isin(self.tokens, self.stop).int()
        bad = (self.not_finite & (ends.cumsum(1) - ends == 0)).nonzero().tolist()
        if bad:
            row, step = bad[0]
            raise ValueError(
                f"prompt {prompts[row].source or prompts[row].text!r}: the model's logits are NaN or infinite at token "
                f"{step} of the reply: load the model in float32 or bfloat16, take a smaller alpha, or look at its "
                "weights"
            )

    def replies(self) -> list[tuple[tuple[int, ...], bool, int]]:
        """Every row's tokens up to and with its stop token, whether it had one, and its near ties."""
        ends = torch.isin(self.tokens, self.stop)
        finished = ends.any(1)
        lengths = torch.where(finished, ends.int().argmax(1) + 1, self.tokens.shape[1])
        before = torch.arange(self.tokens.shape[1], device=lengths.device) < lengths[:, None]
        near_ties = (self.near_ties & before).sum(1)
        columns = (self.tokens, lengths, finished, near_ties)
        return [
            (tuple(tokens[:length]), ended, ties)
            for tokens, length, ended, ties in zip(*(column.tolist() for column in columns), strict=True)
        ]


class Until(Greedy):
    """`Greedy`, which also ends a reply once one of some strings is in it.

    What comes after that string is for the caller to cut: rows run on while others are still written.
    """

    def __init__(
        self,
        n_rows: int,
        n_steps: int,
        stop: Int[Tensor, "stop"],
        strings: Sequence[str],
        decode: Callable[[list[int]], str],
    ) -> None:
        super().__init__(n_rows, n_steps, stop)
        self.strings, self.decode = strings, decode
        # A token is a byte of text or more, so that this many hold the longest string, if it has just been ended.
        self.tail = max(len(string.encode()) for string in strings) + 1

    def choose(
        self, logits: Float[Tensor, "row d_vocab"], rows: Int[Tensor, "row"], step: int
    ) -> Int[Tensor, "row"]:
        """As `Greedy` does."""
        self.rows, self.step = rows, step
        return super().choose(logits, rows, step)

    def ends(self, tokens: Int[Tensor, "row"]) -> Bool[Tensor, "row"]:
        """Stop tokens do, and so does the last token of a string."""
        first = max(0, self.step + 1 - self.tail)
        texts = map(self.decode, self.tokens[self.rows, first : self.step + 1].tolist())
        said = [any(string in text for string in self.strings) for text in texts]
        return super().ends(tokens) | torch.tensor(said, device=tokens.device)


class Forced:
    """Given tokens, whatever the model makes of them. Keeps every step's logits."""

    def __init__(self, tokens: Int[Tensor, "row step"]) -> None:
        self.tokens = tokens
        self.logits: list[Tensor] = []

    def choose(
        self, logits: Float[Tensor, "row d_vocab"], rows: Int[Tensor, "row"], step: int
    ) -> Int[Tensor, "row"]:
        """The given token."""
        self.logits.append(logits)
        return self.tokens[rows, step]

    def ends(self, tokens: Int[Tensor, "row"]) -> Bool[Tensor, "row"]:
        """None does: padded rows run on and are cut afterwards."""
        return torch.zeros_like(tokens, dtype=torch.bool)
