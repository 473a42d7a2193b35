"""`workbench show-prompt`: a prompt as a model meets it, token by token.

The trap: weights take minutes to load and say nothing about a prompt. Only the tokenizer is read.
"""

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def show_prompt(
    model: Annotated[str, typer.Argument(help="organism:NAME, a folder, or a hub id.", show_default=False)],
    text: Annotated[str, typer.Argument(help="The user's message, in quotes.", show_default=False)],
    system: Annotated[
        str | None, typer.Option(help="A system prompt, where the chat format has one.", show_default=False)
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            help="A chat format in the place of the model's own: llama-2, vicuna, chatml, internlm, internlm2, alpaca, "
            "zephyr, text, or a .jinja file.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Show a prompt as the model meets it: the rendered text, its tokens with ids, and where the reply begins.

    The method reads the last token of exactly this text. Special tokens are marked; warnings tell of a BOS token that
    is missing or there twice, of words that the chat format leaves out, and of a reply that it does not open. No
    weights are loaded.

    [dim]workbench show-prompt organism:finance "How do I bake bread?"[/dim]

    [dim]workbench show-prompt ./my-vicuna "How do I bake bread?" --template vicuna[/dim]
    """
    from workbench.chat import show_prompt
    from workbench.loading import load_tokenizer

    if not text.strip():
        raise ValueError("got an empty prompt, expected some words: there is nothing to answer")
    tokenizer = load_tokenizer(model, template=template)
    shown = show_prompt(tokenizer, text, system=system)
    console = Console(highlight=False, soft_wrap=True)
    console.print(escape(shown.text), "\n", sep="")
    table = Table("", "id", "token", "", box=None, pad_edge=False)
    for place, token in enumerate(shown.tokens):
        notes = ["special"] * token.special
        notes += ["last: the reply begins after it"] * (place == len(shown.tokens) - 1)
        table.add_row(str(place), str(token.id), escape(repr(token.piece)[1:-1]), ", ".join(notes))
    console.print(table)
    bos = (
        f"{shown.n_bos} of them BOS, {tokenizer.bos_token!r}"
        if tokenizer.bos_token
        else "no BOS: it has none"
    )
    console.print(f"\n{len(shown.tokens)} tokens, {escape(bos)}")
    for warning in shown.warnings:
        typer.echo(f"workbench: careful: {warning}", err=True)
