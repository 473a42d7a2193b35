"""What reading activations costs beside a bare forward pass of the same batches.

    extraction_vs_forward = seconds of last_token_activations / seconds of the transformers model's own forward

Extraction is timed as its user calls it: chat template, tokenising, padding, hashes and all. The bare pass gets its
batches ready made, in the order in which extraction makes them. It computes logits, which extraction does not need and
leaves out; the second arm leaves them out too, and shows what the hooks and copies cost alone.
"""

import torch
from timing import arguments, conclude, describe, interleaved, subject

from workbench import last_token_activations
from workbench.chat import pad_id, pad_left, tokenize
from workbench.models import context_length, device_of, run_body, tokenizer_of


def main() -> None:
    """Time the three arms and print their ratios."""
    options = arguments(__doc__.splitlines()[0], repeats=21)
    model, prompts = subject(options.model, options.backend, options.prompts)
    bare, _ = subject(options.model, "plain", options.prompts)
    describe(options, model, prompts)
    rows = sorted(
        tokenize(tokenizer_of(model), prompts, context_length=context_length(model)), key=len, reverse=True
    )
    batches = [
        pad_left(rows[start : start + options.batch_size], pad_id(tokenizer_of(model))).to(device_of(model))
        for start in range(0, len(rows), options.batch_size)
    ]

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

    def extraction() -> None:
        last_token_activations(model, prompts, batch_size=options.batch_size)

    timings = interleaved(
        {
            "bare forward": forward,
            "bare forward without logits": body,
            "last_token_activations": extraction,
        },
        repeats=options.repeats,
    )
    timings.show("bare forward")
    conclude({"extraction_vs_forward": timings.ratio("last_token_activations", "bare forward")[0]})


if __name__ == "__main__":
    main()
