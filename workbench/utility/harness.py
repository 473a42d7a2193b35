"""A steered model as a model of lm-evaluation-harness (Gao et al.), so that any of its tasks can be run on it.

    lm_eval.simple_evaluate(model=SteeredLM(target, plan), tasks=["gsm8k"], apply_chat_template=True)

A gate is decided once per context, at its last token, and holds for whatever is scored or written after it: the four
options of one question share one decision.

The trap: a gate was fitted on the last token of a chat-templated prompt. Without `apply_chat_template=True` the last
token is another, and what the gate says of it means little; that is warned of. Text without any context (rolling
likelihood) has no prompt to decide on at all, and is refused unless `without_context` declares what holds.
"""

import warnings
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm.auto import tqdm

from workbench.decoding.asking import rows_of_tokens
from workbench.decoding.replies import Reply, stop_tokens, write_replies
from workbench.decoding.rows import Row, RowKey, size_of
from workbench.generation import LONGEST_REPLY, distinct_rows
from workbench.likelihoods import likelihoods
from workbench.loading import Model, twin_or_itself
from workbench.memory import in_batches
from workbench.models import context_length, n_layers, tokenizer_of
from workbench.prompts import Prompt, PromptSet
from workbench.steering import SteeringPlan, require_clean

try:
    import lm_eval
    from lm_eval import utils
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.tasks import TaskManager
except ImportError as error:
    raise ImportError(
        f"lm-evaluation-harness is not installed ({error}): pip install 'inferaligner-workbench[eval]'"
    ) from error

Tokens = list[int]


class OutsideTemplate(UserWarning):
    """A gate reads contexts that no chat template has ended."""


class CutContext(UserWarning):
    """A context was longer than the model's, and lost its beginning."""


class SteeredLM(TemplateLM):  # type: ignore[misc]  # lm_eval promises no types
    """`model` under `plan`, or as it is where that is None, for `lm_eval.simple_evaluate(model=...)`.

    `without_context` says what the gate makes of text that has none, "open" or "closed". Such a text is scored as a
    reply to one token, BOS: a plan that shifts the prompt alone moves that token, and hardly the text.
    `truncated` counts contexts that were cut on the left because the model's context does not hold them.

    Raises `ValueError` for a plan that decides online or answers with a preset refusal.
    """

    def __init__(
        self,
        model: Model,
        plan: SteeringPlan | None = None,
        *,
        batch_size: int = 32,
        without_context: Literal["open", "closed"] | None = None,
        twin: bool = True,
    ) -> None:
        super().__init__()
        if plan is not None:
            require_clean([plan])
            if plan.refusal is not None:
                raise ValueError(
                    "got a plan that answers with a preset refusal, which no likelihood can be read of: give it "
                    "refusal=None"
                )
        self.model, _ = twin_or_itself(model, twin=twin)
        self.plan, self.batch_size, self.without_context = plan, batch_size, without_context
        self.tokenizer = tokenizer_of(model)
        self.truncated = 0
        self._templated = False

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token that text without a context is scored after: BOS where there is one."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def max_length(self) -> int:
        """The most tokens of a context and what follows it."""
        return context_length(self.model)

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in the harness' cache of requests."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation through the tokenizer's own chat template."""
        self._templated = True
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def forget_templates(self) -> None:
        """Begin anew: contexts have a chat template once one is applied."""
        self._templated = False

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> Tokens:
        """The tokens of a text; with the tokenizer's own special ones, unless a template has written BOS already."""
        bos = self.tokenizer.bos_token
        if add_special_tokens is None and bos is not None and string.startswith(bos):
            add_special_tokens = False
        special = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer(string, **special)["input_ids"])

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of whole texts, in windows as long as the context, each token once."""
        windows = [
            (number, *utils.make_disjoint_window(window))
            for number, request in enumerate(requests)
            for window in utils.get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
        ]
        rows = [self._row_without_context(ids) for _, ids, _ in windows]
        found = likelihoods(
            self.model, rows, [given for *_, given in windows], batch_size=self.batch_size,
            progress=not disable_tqdm,
        )  # fmt: skip
        totals = [0.0] * len(requests)
        for (number, *_), likelihood in zip(windows, found, strict=True):
            totals[number] += likelihood.total
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy replies, cut where the first stop string begins.

        Raises `ValueError` for a task that samples: what is steered here is what greedy decoding writes.
        """
        replies = [""] * len(requests)
        for (until, length), numbers in self._by_options(requests).items():
            room = self.max_length - length
            if room < 1:
                raise ValueError(
                    f"the task asks for {length} tokens, the context holds {self.max_length}: lower max_gen_toks"
                )
            ids = [self._cut(self.tok_encode(requests[i].args[0]), room) for i in numbers]
            rows = self._rows([str(requests[i].args[0]) for i in numbers], ids)
            marks = self.tokenizer.get_added_vocab()
            stop_ids = [*stop_tokens(self.model), *(marks[stop] for stop in until if stop in marks)]
            written: dict[RowKey, Reply] = {}
            queue = sorted(distinct_rows(rows), key=lambda row: len(row.ids))

            write = partial(write_replies, self.model, max_new_tokens=length, stop_ids=stop_ids, until=until)
            told = partial(size_of, max_new_tokens=length)
            with tqdm(total=len(queue), desc="generating", unit="row", disable=disable_tqdm) as bar:
                for batch, found in in_batches(queue, self.batch_size, write, told):
                    written |= {row.key: reply for row, reply in zip(batch, found, strict=True)}
                    bar.update(len(batch))
            for i, row in zip(numbers, rows, strict=True):
                replies[i] = _before(written[row.key].text, until)
        return replies

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], Tokens, Tokens]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        texts, contexts = [], []
        rows: list[Row | None] = []
        for (context, _continuation), ids, given in requests:
            if context == "":
                rows.append(self._row_without_context(ids))
            else:
                rows.append(None)
                texts.append(context)
                contexts.append(self._cut(ids, self.max_length + 1 - len(given)))
        prompted = iter(self._rows(texts, contexts))
        asked = [row if row is not None else next(prompted) for row in rows]
        found = likelihoods(
            self.model, asked, [given for *_, given in requests], batch_size=self.batch_size,
            progress=not disable_tqdm,
        )  # fmt: skip
        return [(likelihood.total, likelihood.greedy) for likelihood in found]

    def _rows(self, texts: Sequence[str], ids: Sequence[Tokens]) -> list[Row]:
        """A row per context; whatever the gate makes of it is decided once, for all that have it."""
        if not texts:
            return []
        if self.plan is not None and self.plan.gate.reads and not self._templated:
            warnings.warn(
                "the plan's gate was fitted on the last token of chat-templated prompts, and these contexts have none: "
                "simple_evaluate(..., apply_chat_template=True), or --apply_chat_template",
                OutsideTemplate,
                stacklevel=2,
            )
        prompts = PromptSet(
            "contexts", tuple(Prompt.user(text, source=f"context:{i}") for i, text in enumerate(texts))
        )
        return rows_of_tokens(self.model, prompts, list(map(tuple, ids)), self.plan, None, self.batch_size)

    def _row_without_context(self, ids: Tokens) -> Row:
        if self.plan is None:
            opened = None
        elif self.without_context is None:
            raise ValueError(
                "a text without a context has no prompt that the gate could decide on: say what holds for it, "
                'SteeredLM(..., without_context="open") or "closed"'
            )
        else:
            opened = torch.full((n_layers(self.model),), self.without_context == "open")
        return Row(Prompt.user(" ", source="no context"), tuple(ids), self.plan, opened)

    def _cut(self, ids: Tokens, room: int) -> Tokens:
        """The last tokens of a context that there is room for."""
        if len(ids) <= room:
            return ids
        if not self.truncated:
            warnings.warn(
                f"a context of {len(ids)} tokens is cut to its last {room}, all that the model's {self.max_length} "
                "leave room for; .truncated counts how many are",
                CutContext,
                stacklevel=3,
            )
        self.truncated += 1
        return ids[-room:]

    def _by_options(self, requests: Sequence[Instance]) -> dict[tuple[tuple[str, ...], int], list[int]]:
        """The numbers of the requests that are stopped alike."""
        alike: dict[tuple[tuple[str, ...], int], list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            told = dict(normalize_gen_kwargs(request.args[1], min(LONGEST_REPLY, self.max_length // 2)))
            if told.get("do_sample") or told.get("temperature"):
                raise ValueError(
                    f"the task asks for sampling ({request.args[1]}), and steered replies are greedy: set do_sample to "
                    "false in the task, or --gen_kwargs do_sample=false,temperature=0"
                )
            until = told.get("until") or []
            alike[tuple(stop for stop in until if stop), int(told["max_gen_toks"])].append(number)
        return alike


def _before(text: str, until: Sequence[str]) -> str:
    """The text up to where the first stop string begins."""
    ends = [text.index(stop) for stop in until if stop in text]
    return text[: min(ends)] if ends else text


def run_harness(
    lm: SteeredLM,
    tasks: Sequence[str],
    *,
    include: str | Path | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
    chat: bool = True,
) -> dict[str, dict[str, Any]]:
    """The harness' results, by task: what `lm_eval.simple_evaluate` says of `lm`, chat template applied.

    `include` is a folder of task files of one's own. Raises `ValueError` for a task that the harness does not know.
    """
    lm.forget_templates()
    manager = TaskManager(include_path=None if include is None else str(include))
    if unknown := [task for task in tasks if task not in manager.all_tasks]:
        raise ValueError(
            f"lm-evaluation-harness knows no task {', '.join(unknown)}: lm-eval ls tasks lists them, and --include "
            "names a folder of your own"
        )
    found = lm_eval.simple_evaluate(
        model=lm, tasks=list(tasks), task_manager=manager, limit=limit, num_fewshot=num_fewshot,
        apply_chat_template=chat, log_samples=False,
    )  # fmt: skip
    return dict(found["results"])
