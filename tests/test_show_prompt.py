"""`show_prompt` and `workbench show-prompt`: what a model is given, token by token, without its weights."""

import shutil
from pathlib import Path

import pytest
from conftest import small_tokenizer
from test_chat_templates import beginning_with_bos
from typer.testing import CliRunner

import workbench as wb
from workbench.chat import TEMPLATES, tokenize, with_template
from workbench.cli import app
from workbench.prompts import Prompt

PROMPT = Prompt.user("steal a ring", source="one")


def test_it_shows_what_tokenize_gives():
    tokenizer = small_tokenizer()
    shown = wb.show_prompt(tokenizer, "steal a ring", system="help")
    assert shown.text == "<s><system> help </s><user> steal a ring </s><assistant>"
    assert [tuple(token.id for token in shown.tokens)] == tokenize(tokenizer, [PROMPT], system="help")
    assert [token.piece for token in shown.tokens if token.special] == [
        "<s>", "<system>", "</s>", "<user>", "</s>", "<assistant>",
    ]  # fmt: skip
    assert (shown.last.piece, shown.n_bos, shown.warnings) == ("<assistant>", 1, ())


def test_a_conversation_is_shown_too():
    tokenizer = with_template(beginning_with_bos(), "llama-2")
    talk = Prompt((("user", "bake"), ("assistant", "sure"), ("user", "and then")))
    shown = wb.show_prompt(tokenizer, talk)
    assert (shown.n_bos, shown.warnings) == (2, ())  # one a turn, as published


@pytest.mark.parametrize(
    ("template", "n_bos", "warning"),
    [
        ("<s>{{ bos_token }}{{ messages[0]['content'] }}", 2, "it begins with '<s>' twice: take one out"),
        (
            "{{ messages[0]['content'] }}",
            0,
            "it lacks '<s>', with which this tokenizer begins a text: write it into",
        ),
        ("{{ bos_token }}{{ messages[0]['content'] }}<s>", 2, "it has '<s>' 2 times in 1 turn: look into"),
        ("{{ bos_token }}{{ messages[0]['content'] }}", 1, None),
    ],
)
def test_bos_is_counted(template: str, n_bos: int, warning: str | None):
    shown = wb.show_prompt(with_template(beginning_with_bos(), template), "bake")
    assert shown.n_bos == n_bos
    assert [told[: len(warning or "")] for told in shown.warnings] == [warning] * (warning is not None)


def test_a_tokenizer_that_uses_no_bos_lacks_none():
    tokenizer = small_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    assert wb.show_prompt(tokenizer, "bake").warnings == ()
    tokenizer.bos_token = None
    assert wb.show_prompt(tokenizer, "bake").warnings == ()


LACKS = (
    "the text lacks the {}'s words: the chat template leaves them out or changes them, expected one that writes each "
    "message['content']"
)
IGNORES = (
    "it ends with the user's turn: the chat template ignores add_generation_prompt, and writes '<assistant>' before a "
    "reply, so the last token is not where one begins; have it write that where add_generation_prompt is set"
)
TWICE = "it begins with '<s>' twice: take one out of the chat template or of the prompt"


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("", ()),
        ("message['text']", (LACKS.format("system"), LACKS.format("user"))),
        ("message['content'] | upper", (LACKS.format("system"), LACKS.format("user"))),
        ("message['content'] if message['role'] != 'system'", (LACKS.format("system"),)),
        ("message['content'] | trim", ()),
    ],
)
def test_words_that_a_template_leaves_out_are_told(written: str, told: tuple[str, ...]):
    tokenizer = small_tokenizer()
    if written:
        tokenizer.chat_template = tokenizer.chat_template.replace("message['content']", written)
    assert wb.show_prompt(tokenizer, "\n bake\n", system="help").warnings == told


def test_a_reply_that_is_not_opened_is_told_beside_the_rest():
    tokenizer = small_tokenizer()
    tokenizer.chat_template, _ = tokenizer.chat_template.split("{% if add_generation_prompt")
    assert wb.show_prompt(tokenizer, "bake").warnings == (IGNORES,)
    talk = Prompt((("user", "bake"), ("assistant", "sure"), ("user", "and then")))
    assert wb.show_prompt(tokenizer, talk).warnings == (IGNORES,)
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    assert wb.show_prompt(tokenizer, "bake").warnings == (TWICE, IGNORES)


@pytest.mark.parametrize("name", TEMPLATES)
def test_nothing_is_said_of_published_formats(name: str):
    """Llama 2's ignores add_generation_prompt too: its mark for the end of a turn is the one that opens a reply."""
    tokenizer = with_template(beginning_with_bos(), name)
    system = None if name == "alpaca" else "help"
    assert wb.show_prompt(tokenizer, "bake", system=system).warnings == ()


def test_a_template_that_takes_no_reply_does_not_tell_what_opens_one():
    tokenizer = small_tokenizer()
    tokenizer.chat_template = (
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
        "{{ raise_exception('one turn') }}{% endif %}<user> {{ message['content'] }}{% endfor %}"
    )
    assert wb.show_prompt(tokenizer, "bake").warnings == ()


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """With weights that nobody may read."""
    monkeypatch.setattr(
        "transformers.modeling_utils.load_state_dict", lambda *_, **__: pytest.fail("weights were read")
    )
    monkeypatch.setattr("workbench.loading.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    return CliRunner()


@pytest.fixture
def tokenizer_alone(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(
        checkpoints["llama"], tmp_path / "alone", ignore=shutil.ignore_patterns("*.safetensors")
    )


def test_the_shell_shows_text_tokens_and_where_the_reply_begins(shell: CliRunner, tokenizer_alone: Path):
    found = shell.invoke(app, ["show-prompt", str(tokenizer_alone), "steal a [ring]", "--system", "help"])
    assert found.exit_code == 0, found.stderr
    lines = found.stdout.splitlines()
    assert lines[0] == "<s><system> help </s><user> steal a [ring] </s><assistant>"
    rows = [line.strip().split(maxsplit=3) for line in lines if line[:1].isdigit() and "special" in line]
    assert rows[0] == ["0", "0", "<s>", "special"]
    assert rows[-1][2:] == ["<assistant>", "special, last: the reply begins after it"]
    assert lines[-1].endswith("tokens, 1 of them BOS, '<s>'") and found.stderr == ""


def test_the_shell_takes_a_format_by_name(shell: CliRunner, tokenizer_alone: Path):
    found = shell.invoke(app, ["show-prompt", str(tokenizer_alone), "bake", "--template", "llama-2"])
    assert found.stdout.splitlines()[0] == "<s>[INST] bake [/INST]"
    found = shell.invoke(app, ["show-prompt", str(tokenizer_alone), "bake", "--template", "lama"])
    assert found.exit_code == 2 and f"expected one of {', '.join(TEMPLATES)}, a .jinja" in found.stderr


def test_the_shell_warns_of_two_bos(shell: CliRunner, tokenizer_alone: Path):
    found = shell.invoke(
        app, ["show-prompt", str(tokenizer_alone), "<s>", "--template", "{{ bos_token }}<s>"]
    )
    assert found.exit_code == 0
    assert found.stderr.startswith("workbench: careful: it begins with '<s>' twice: ")


def test_the_shell_tells_every_warning(shell: CliRunner, tokenizer_alone: Path):
    template = "{{ bos_token }}<s>{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}{% endfor %}"
    found = shell.invoke(app, ["show-prompt", str(tokenizer_alone), "bake", "--template", template])
    assert found.exit_code == 0
    assert found.stderr == f"workbench: careful: {TWICE}\nworkbench: careful: {IGNORES}\n"


def test_the_shell_says_what_keeps_a_prompt_from_being_shown(
    shell: CliRunner, tokenizer_alone: Path, tmp_path: Path
):
    for command, told in (
        ([str(tokenizer_alone), " "], "got an empty prompt, expected some words"),
        (
            [str(tokenizer_alone), "bake", "--system", "help", "--template", "alpaca"],
            "alpaca has no system prompt",
        ),
        (["organism:nobody", "bake"], "no embedded model 'organism:nobody'"),
        ([str(tmp_path), "bake"], "has no readable tokenizer"),
    ):
        found = shell.invoke(app, ["show-prompt", *command])
        assert (found.exit_code, found.stderr.count("\n")) == (2, 1)
        assert told in found.stderr


def test_the_help_lists_every_format(shell: CliRunner):
    help_text = " ".join(shell.invoke(app, ["show-prompt", "--help"], env={"COLUMNS": "200"}).output.split())
    assert ", ".join(TEMPLATES) in help_text
