"""What reading activations costs beside a bare forward pass of the same batches, and beside other libraries.

    extraction_vs_forward = seconds of last_token_activations / seconds of the transformers model's own forward
    extraction_vs_body    = the same / seconds of that forward pass without the LM head, which reading leaves out
    extraction_vs_X       = seconds of last_token_activations and mean_difference / seconds of X doing the same
    X_vs_own_forward      = seconds of X / seconds of a bare forward pass in X's own environment

Extraction is timed as its user calls it: chat template, tokenising, padding, hashes and all. The bare pass gets its
batches ready made, in the order in which extraction makes them. It computes logits, which extraction does not need and
leaves out; the second arm leaves them out too, and shows what the hooks and copies cost alone. Peers are given the
templated texts; that they read the same is checked, layer by layer. `--memory` weighs it instead.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from extraction_memory import compare_memory
from peering import PEERS, Peer, add_options, installed, peers_on
from peers.worker import Task
from subjects import checkpoint_of, prompts_of_both_kinds
from timing import arguments, conclude, describe, interleaved

from workbench import PromptSet, SteeringVectors, last_token_activations, load_model, mean_difference
from workbench.chat import pad_id, pad_left, tokenize
from workbench.forward import run_body
from workbench.loading import Model
from workbench.models import context_length, device_of, tokenizer_of

OURS, MEANS = "last_token_activations", "…, and mean_difference"
FORWARD, BODY = "bare forward", "bare forward, without logits"


def main() -> None:
    """Time the arms and print their ratios."""
    parser = arguments(__doc__.splitlines()[0], prompts=128, repeats=21)
    add_options(parser)
    parser.add_argument(
        "--memory", action="store_true", help="instead: peak memory, by what it could grow with"
    )
    options = parser.parse_args()
    if options.memory:
        return conclude(compare_memory())
    with checkpoint_of(options.model) as checkpoint:
        model = load_model(checkpoint, backend=options.backend)
        bare = model if options.backend == "plain" else load_model(checkpoint, backend="plain")
        prompts = prompts_of_both_kinds(options.prompts)
        describe(model, prompts, options.batch_size)
        arms = arms_of(model, bare, prompts, options.batch_size)
        task = _task(checkpoint, model, prompts)
        with peers_on(task, None, options.peers, installed(options.peers)) as peers:
            for peer in peers:
                arms[peer.name] = partial(peer.ask, "read")
                arms[f"{peer.name}'s {FORWARD}"] = partial(peer.ask, "forward")
            timings = interleaved(arms, repeats=options.repeats)
            timings.show(FORWARD)
            for peer in peers:
                _require_same_vectors(mean_difference(last_token_activations(model, prompts)), peer)

    ratios: dict[str, float | None] = {
        "extraction_vs_forward": timings.told(OURS, FORWARD),
        "extraction_vs_body": timings.told(OURS, BODY),
    }
    for name in PEERS:
        key = name.replace("-", "_")
        ratios[f"extraction_vs_{key}"] = timings.told(MEANS, name)
        ratios[f"{key}_vs_own_forward"] = timings.told(name, f"{name}'s {FORWARD}")
    conclude(ratios)


def arms_of(model: Model, bare: Any, prompts: PromptSet, batch_size: int) -> dict[str, Callable[[], object]]:
    """What runs in this process, by name; `bare` is the plain model."""
    tokenizer = tokenizer_of(model)
    rows = tokenize(tokenizer, prompts, context_length=context_length(model))
    rows = sorted(rows, key=len, reverse=True)
    parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    batches = [pad_left(part, pad_id(tokenizer)).to(device_of(model)) for part in parts]

    @torch.no_grad()
    def forward() -> None:
        for batch in batches:
            bare(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                position_ids=batch.position_ids,
                use_cache=False,
            )

    def body() -> None:
        for batch in batches:
            run_body(bare, batch)

    read = partial(last_token_activations, model, prompts, batch_size=batch_size)
    return {
        FORWARD: forward,
        BODY: body,
        OURS: read,
        MEANS: lambda: mean_difference(read()),
    }


def _task(checkpoint: str, model: Model, prompts: PromptSet) -> Task:
    tokenizer = tokenizer_of(model)
    rows = tokenize(tokenizer, prompts)
    texts = [str(tokenizer.decode(list(row))) for row in rows]
    if odd := [
        text for text, row in zip(texts, rows, strict=True) if tokenizer(text)["input_ids"] != list(row)
    ]:
        raise RuntimeError(
            f"the tokenizer reads its own text {odd[0]!r} otherwise: peers would read other tokens"
        )
    half = len(texts) // 2
    pairs = list(zip(texts[:half], texts[half:], strict=True))
    return Task(checkpoint, pad_id(tokenizer), str(tokenizer.pad_token), torch.get_num_threads(), pairs=pairs)


def _require_same_vectors(ours: SteeringVectors, peer: Peer) -> None:
    theirs = peer.vectors()
    layers = list(theirs)
    off = (torch.tensor(list(theirs.values())) - ours.values[layers]).norm(dim=-1) / ours.norms[layers]
    print(
        f"{peer.name} reads {len(layers)} layers, and what ours reads to {off.max():.1e} of the vectors' lengths"
    )
    if not bool((off < 1e-3).all()):
        raise RuntimeError(f"{peer.name} read other vectors than ours: the arms did not do the same work")


if __name__ == "__main__":
    main()
