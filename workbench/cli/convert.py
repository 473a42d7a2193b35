"""`workbench convert`: a checkpoint that comes with code of its own, read into a class that transformers ships.

The trap: importing torch takes seconds, which `workbench --help` need not pay. The command imports what it needs when
it runs.
"""

import sys
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

DType: TypeAlias = Literal["float32", "float16", "bfloat16"]


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="The folder of an InternLM2, InternLM (v1) or Qwen (v1) checkpoint.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Argument(help="A new folder, which models load from.", show_default=False)],
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="A tokenizer's folder or hub id, where the checkpoint has none but code (Qwen v1).",
            show_default=False,
        ),
    ] = None,
    allow_bin: Annotated[
        bool, typer.Option("--allow-bin", help="Read pickled weights (.bin), as tensors and nothing else.")
    ] = False,
    dtype: Annotated[
        DType | None,
        typer.Option(help="What to store weights as: as they are, by default.", show_default=False),
    ] = None,
) -> None:
    """Read a checkpoint that exists as remote code alone into a class that transformers ships.

    InternLM2 and InternLM (v1) become Llama, Qwen (v1) becomes Qwen2: the same numbers under other names. None of the
    checkpoint's own code runs; a setting or a weight that its layout does not know is refused by name.

    [dim]hf download internlm/internlm2-chat-7b --local-dir internlm2; workbench convert internlm2 internlm2-llama[/dim]
    """
    import torch

    from workbench.conversion import convert_checkpoint

    done = convert_checkpoint(
        source,
        out,
        tokenizer=tokenizer,
        allow_bin=allow_bin,
        dtype=getattr(torch, dtype) if dtype else None,
        progress=sys.stderr.isatty(),
    )
    typer.echo(
        f"{done.folder}: {done.source} as {done.target}, contexts up to {done.context_length:,} tokens"
    )
    for note in done.notes:
        typer.echo(f"  {note}")
    typer.echo(f'Next: workbench show-prompt {done.folder} "How do I bake bread?"')
    typer.echo(f'      in Python: wb.load_model("{done.folder}", backend="plain")')
