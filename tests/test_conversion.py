"""Checkpoints of three families, converted without their code, against their published passes in plain loops."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import published_layouts as published
import pytest
import torch
from conftest import BACKENDS, CONTEXT, LENSES, hooked_only, small_tokenizer
from remote_code import (
    CLOSE,
    HEADS,
    HIDDEN,
    INNER,
    KINDS,
    LAYERS,
    THREE,
    VOCABULARY,
    Checkpoint,
    difference,
    internlm,
    internlm2,
    plain_logits,
    qwen,
)
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

import workbench as wb
from workbench.cli import app
from workbench.conversion import weights
from workbench.conversion.families import Family, rope
from workbench.conversion.running import FAMILIES
from workbench.conversion.settings import Settings

PROMPTS = ["steal a ring", "how do i mend the boat with my friend", "bake"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_conversion_is_its_layout(tmp_path: Path, kind: str):
    theirs = KINDS[kind]()
    done = wb.convert_checkpoint(theirs.save(tmp_path / "theirs"), tmp_path / "ours")
    model = wb.load_model(done.folder, backend="plain")
    assert difference(done.folder, theirs) <= CLOSE
    for completion in wb.generate(model, PROMPTS, max_new_tokens=12, stop_ids=[]):
        text = [{"role": "user", "content": completion.prompt.text}]
        text = small_tokenizer().apply_chat_template(text, tokenize=False, add_generation_prompt=True)
        ids = small_tokenizer()(text, add_special_tokens=False)["input_ids"]
        expected = published.greedy(theirs.forward, theirs.weights, theirs.settings, ids, 12)
        assert list(completion.tokens) == expected
        assert len(set(expected)) > 3  # a model that repeats one token would agree with many


@pytest.mark.parametrize(
    ("kind", "backend"),
    [
        (kind, backend)
        for kind in ("internlm2, grouped", "internlm without biases", "qwen")
        for backend in LENSES
    ]
    + [("internlm", "bridge")],
)
def test_every_backend_loads_a_conversion(tmp_path: Path, kind: str, backend: str):
    theirs = KINDS[kind]()
    wb.convert_checkpoint(theirs.save(tmp_path / "theirs"), tmp_path / "ours")
    ids = [3, 20, 40, 60, 80, 100, 120, 140]
    with torch.no_grad():
        out = wb.load_model(tmp_path / "ours", backend=backend)(torch.tensor([ids]))
    logits = out if isinstance(out, Tensor) else out.logits
    torch.testing.assert_close(logits[0], theirs.logits(ids), atol=CLOSE, rtol=0)


@hooked_only
def test_where_transformer_lens_drops_biases_the_model_is_refused(tmp_path: Path):
    """Its Llama has none at all (3.9), so InternLM (v1) is had on the other backends."""
    wb.convert_checkpoint(internlm().save(tmp_path / "theirs"), tmp_path / "ours")
    with pytest.raises(ValueError, match='disagree on this LlamaForCausalLM .* backend="bridge" or "plain"'):
        wb.load_model(tmp_path / "ours")


@pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")
def test_transformer_lens_reads_qwen_alike(tmp_path: Path):
    """Its own reading of the layout (3.9), of the same weights, without the remote code it asks for."""
    lens = pytest.importorskip("transformer_lens.pretrained.weight_conversions.qwen")
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    theirs = qwen()
    wb.convert_checkpoint(theirs.save(tmp_path / "theirs"), tmp_path / "ours")
    cfg = HookedTransformerConfig(
        n_layers=LAYERS, d_model=HIDDEN, d_head=HIDDEN // HEADS, n_heads=HEADS, d_mlp=INNER, n_ctx=CONTEXT,
        eps=1e-6, d_vocab=VOCABULARY, act_fn="silu", normalization_type="RMS", positional_embedding_type="rotary",
        rotary_dim=HIDDEN // HEADS, rotary_adjacent_pairs=False, final_rms=True, gated_mlp=True,
    )  # fmt: skip
    model = HookedTransformer(cfg)
    model.load_state_dict(lens.convert_qwen_weights(as_modules(theirs.weights), cfg), strict=False)
    ids = list(range(3, 43))
    with torch.no_grad():
        expected = model(torch.tensor([ids]))[0]
    got = plain_logits(wb.load_model(tmp_path / "ours", backend="plain"), ids)
    torch.testing.assert_close(got, expected, atol=CLOSE, rtol=0)


def as_modules(weights: dict[str, Tensor]) -> Any:
    """Weights by dotted names as attributes of attributes; numbers as places in a list."""
    tree: dict[str, Any] = {}
    for name, tensor in weights.items():
        *path, last = name.split(".")
        node = tree
        for step in path:
            node = node.setdefault(step, {})
        node[last] = tensor

    def grown(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        if all(name.isdigit() for name in node):
            return [grown(node[str(number)]) for number in range(len(node))]
        return SimpleNamespace(**{name: grown(child) for name, child in node.items()})

    return grown(tree)


def stacked(rows: Tensor, config: Any) -> tuple[Tensor, ...]:
    width = config.hidden_size // config.num_attention_heads
    return rows.split([config.hidden_size, *[config.num_key_value_heads * width] * 2])


def queries_and_keys_swapped(family: Family) -> Family:
    def part(rows: Tensor, config: Any) -> tuple[Tensor, ...]:
        queries, keys, values = family.part(rows, config)
        return keys, queries, values

    return dataclasses.replace(family, part=part)


def gate_and_up_swapped(family: Family) -> Family:
    other = {"mlp.gate_proj": "mlp.up_proj", "mlp.up_proj": "mlp.gate_proj"}
    return dataclasses.replace(family, inside={name: other.get(to, to) for name, to in family.inside.items()})


def norms_swapped(family: Family) -> Family:
    other = {
        "input_layernorm": "post_attention_layernorm",
        "post_attention_layernorm": "input_layernorm",
    }
    return dataclasses.replace(family, inside={name: other.get(to, to) for name, to in family.inside.items()})


def another_base(family: Family) -> Family:
    def configure(settings: Any) -> Any:
        config = family.configure(settings)
        config.rope_parameters = rope(config.rope_parameters["rope_theta"] / 10)
        return config

    return dataclasses.replace(family, configure=configure)


def without_biases(family: Family) -> Family:
    """The values of biases only: without their names the conversion is refused before it can be wrong."""

    def convert(name: str, tensor: Tensor, config: Any) -> list[tuple[str, Tensor]]:
        return family.convert(name, 0 * tensor if name.endswith("bias") else tensor, config)

    mutant = dataclasses.replace(family)
    object.__setattr__(mutant, "convert", convert)
    return mutant


MUTANTS = [
    (internlm2, gate_and_up_swapped),
    (internlm2, norms_swapped),
    (internlm2, another_base),
    (internlm2, lambda family: dataclasses.replace(family, part=stacked)),
    (lambda: internlm2(groups=HEADS), queries_and_keys_swapped),
    (lambda: internlm2(bias=True), without_biases),
    (internlm, gate_and_up_swapped),
    (internlm, another_base),
    (internlm, without_biases),
    (qwen, gate_and_up_swapped),
    (qwen, norms_swapped),
    (qwen, queries_and_keys_swapped),
    (qwen, another_base),
    (qwen, without_biases),
]


@pytest.mark.parametrize(("kind", "mutate"), MUTANTS)
def test_a_wrong_reading_is_seen(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Callable[[], Checkpoint],
    mutate: Callable[[Family], Family],
):
    theirs = kind()
    name = theirs.settings["architectures"][0]
    monkeypatch.setitem(FAMILIES, name, mutate(FAMILIES[name]))
    wb.convert_checkpoint(theirs.save(tmp_path / "theirs"), tmp_path / "ours")
    assert difference(tmp_path / "ours", theirs) > 100 * CLOSE


@pytest.mark.parametrize("family", THREE)
@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize("pickled", [False, True])
def test_weights_come_from_any_files(tmp_path: Path, family: str, files: int, pickled: bool):
    theirs = THREE[family]()
    folder = theirs.save(tmp_path / "theirs", files=files, pickled=pickled)
    wb.convert_checkpoint(folder, tmp_path / "ours", allow_bin=pickled)
    assert difference(tmp_path / "ours", theirs) <= CLOSE


def test_written_files_are_small_and_indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    theirs = internlm2()
    monkeypatch.setattr(weights, "FILE_BYTES", 50_000)
    wb.convert_checkpoint(theirs.save(tmp_path / "theirs", files=1), tmp_path / "ours")
    files = sorted(path.name for path in (tmp_path / "ours").glob("*.safetensors"))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05}.safetensors"
    held = {file: load_file(tmp_path / "ours" / file) for file in files}
    index = json.loads((tmp_path / "ours" / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {name: file for file, part in held.items() for name in part}
    assert index["metadata"]["total_size"] == sum(t.nbytes for part in held.values() for t in part.values())
    assert difference(tmp_path / "ours", theirs) <= CLOSE


@pytest.mark.parametrize(("asked", "stored"), [(None, torch.float32), (torch.bfloat16, torch.bfloat16)])
def test_weights_are_stored_as_they_are_or_as_asked(
    tmp_path: Path, asked: torch.dtype | None, stored: torch.dtype
):
    wb.convert_checkpoint(qwen().save(tmp_path / "theirs"), tmp_path / "ours", dtype=asked)
    held = load_file(tmp_path / "ours" / "model.safetensors")
    assert {tensor.dtype for tensor in held.values()} == {stored}
    told = json.loads((tmp_path / "ours" / "config.json").read_text()).get("dtype")
    assert told == (str(asked).removeprefix("torch.") if asked else None)


def test_every_setting_is_carried_over(tmp_path: Path):
    folder = internlm2(groups=2, bias=True, scaling={"type": "dynamic", "factor": 2.0}).save(
        tmp_path / "theirs"
    )
    (folder / "generation_config.json").write_text(
        '{"eos_token_id": [1, 4], "top_p": 0.8, "pad_token_id": 2}'
    )
    done = wb.convert_checkpoint(folder, tmp_path / "ours")
    model = wb.load_model(done.folder, backend="plain")
    told = {
        "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": 2, "hidden_act": "silu", "attention_bias": True,
        "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-05, "tie_word_embeddings": False, "bos_token_id": 0,
        "eos_token_id": 1, "pad_token_id": 2, "mlp_bias": False,
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e6, "factor": 2.0},
    }  # fmt: skip
    assert {name: getattr(model.config, name) for name in told} == told
    assert (done.source, done.target, done.context_length) == (
        "InternLM2ForCausalLM",
        "LlamaForCausalLM",
        CONTEXT,
    )
    generation = model.generation_config
    assert (generation.eos_token_id, generation.bos_token_id, generation.pad_token_id) == ([1, 4], 0, 2)
    assert done.notes == (
        "dynamic NTK acts beyond 64 tokens alone, and the workbench refuses contexts beyond them",
    )
    assert not list((tmp_path / "ours").glob("*.py"))
    assert "auto_map" not in (tmp_path / "ours" / "tokenizer_config.json").read_text()


PUBLISHED = {
    # Qwen/Qwen-7B
    "qwen": (
        '{"architectures": ["QWenLMHeadModel"], "auto_map": {"AutoConfig": "configuration_qwen.QWenConfig"}, '
        '"attn_dropout_prob": 0.0, "bf16": false, "emb_dropout_prob": 0.0, "fp16": false, "fp32": false, '
        '"hidden_size": 4096, "intermediate_size": 22016, "initializer_range": 0.02, "kv_channels": 128, '
        '"layer_norm_epsilon": 1e-06, "max_position_embeddings": 8192, "model_type": "qwen", "no_bias": true, '
        '"num_attention_heads": 32, "num_hidden_layers": 32, "onnx_safe": null, "rotary_emb_base": 10000, '
        '"rotary_pct": 1.0, "scale_attn_weights": true, "seq_length": 8192, "tie_word_embeddings": false, '
        '"tokenizer_class": "QWenTokenizer", "transformers_version": "4.32.0", "use_cache": true, '
        '"use_dynamic_ntk": true, "use_flash_attn": "auto", "use_logn_attn": true, "vocab_size": 151936}',
        {
            "intermediate_size": 11008,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-6,
            "vocab_size": 151936,
        },
        {"rope_type": "default", "rope_theta": 10000.0},
    ),
    # internlm/internlm-20b
    "internlm": (
        '{"architectures": ["InternLMForCausalLM"], "auto_map": {}, "bias": false, "bos_token_id": 1, '
        '"eos_token_id": 2, "hidden_act": "silu", "hidden_size": 5120, "initializer_range": 0.02, '
        '"intermediate_size": 13824, "max_position_embeddings": 4096, "model_type": "internlm", '
        '"num_attention_heads": 40, "num_hidden_layers": 60, "num_key_value_heads": 40, "pad_token_id": 2, '
        '"pretraining_tp": 1, "rms_norm_eps": 1e-06, "tie_word_embeddings": false, "torch_dtype": "bfloat16", '
        '"transformers_version": "4.33.1", "use_cache": true, "vocab_size": 103168, '
        '"rotary": {"base": 10000, "type": "dynamic"}}',
        {
            "intermediate_size": 13824,
            "max_position_embeddings": 4096,
            "attention_bias": False,
            "eos_token_id": 2,
        },
        {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 1.0},
    ),
    # internlm/internlm2_5-7b-chat
    "internlm2": (
        '{"architectures": ["InternLM2ForCausalLM"], "attn_implementation": "eager", "auto_map": {}, '
        '"bias": false, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096, '
        '"initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 32768, '
        '"model_type": "internlm2", "num_attention_heads": 32, "num_hidden_layers": 32, '
        '"num_key_value_heads": 8, "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05, '
        '"rope_scaling": {"type": "dynamic", "factor": 2.0}, "rope_theta": 1000000, '
        '"tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 92544}',
        {
            "num_key_value_heads": 8,
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-5,
            "attention_bias": False,
        },
        {"rope_type": "dynamic", "rope_theta": 1e6, "factor": 2.0},
    ),
}


@pytest.mark.parametrize("family", PUBLISHED)
def test_the_settings_on_the_hub_are_known(tmp_path: Path, family: str):
    """No checkpoint can be had offline, but what the hub says of them can be read."""
    given, told, rotation = PUBLISHED[family]
    (tmp_path / "config.json").write_text(given)
    settings = Settings(tmp_path)
    config = FAMILIES[settings.architecture].configure(settings)
    settings.refuse_the_rest()
    assert {name: getattr(config, name) for name in told} == told
    assert config.rope_parameters == rotation


def test_a_tied_output_stays_tied(tmp_path: Path):
    """A .bin file holds the embedding twice, under both names."""
    theirs = qwen()
    tied = dataclasses.replace(
        theirs,
        settings=theirs.settings | {"tie_word_embeddings": True},
        weights=theirs.weights | {"lm_head.weight": theirs.weights["transformer.wte.weight"]},
    )
    wb.convert_checkpoint(tied.save(tmp_path / "theirs", pickled=True), tmp_path / "ours", allow_bin=True)
    assert "lm_head.weight" not in load_file(tmp_path / "ours" / "model.safetensors")
    assert difference(tmp_path / "ours", tied) <= CLOSE
    alone = dataclasses.replace(
        tied, weights={name: t for name, t in tied.weights.items() if name != "lm_head.weight"}
    )
    wb.convert_checkpoint(alone.save(tmp_path / "alone"), tmp_path / "again")
    assert difference(tmp_path / "again", tied) <= CLOSE
    two = dataclasses.replace(tied, weights=theirs.weights)
    with pytest.raises(
        ValueError, match="ties the output to the embedding, and the weights have two that differ"
    ):
        wb.convert_checkpoint(two.save(tmp_path / "two"), tmp_path / "never")


def test_buffers_of_older_checkpoints_are_checked_and_left(tmp_path: Path):
    theirs = internlm()
    width = HIDDEN // HEADS
    held = {
        f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": 20000.0 ** -(torch.arange(0, width, 2) / width)
        for layer in range(LAYERS)
    }
    older = dataclasses.replace(theirs, weights=theirs.weights | held)
    wb.convert_checkpoint(older.save(tmp_path / "theirs"), tmp_path / "ours")
    assert difference(tmp_path / "ours", theirs) <= CLOSE
    older.settings["rotary"] = {"base": 10000, "type": "origin"}
    with pytest.raises(
        ValueError, match="inv_freq is not what a rotary base of 10000 gives: config.json and weights"
    ):
        wb.convert_checkpoint(older.save(tmp_path / "other"), tmp_path / "never")


def test_qwen_ends_where_it_was_trained_to(tmp_path: Path):
    """Beyond seq_length its attention is another one: up to there they agree, and longer contexts are refused."""
    theirs = qwen(trained=24)
    done = wb.convert_checkpoint(theirs.save(tmp_path / "theirs"), tmp_path / "ours")
    assert difference(done.folder, theirs, length=24) <= CLOSE
    assert difference(done.folder, theirs, length=25) > 100 * CLOSE
    assert done.notes == (
        "trained on 24 tokens: longer contexts, where Qwen has logn attention and dynamic NTK and Qwen2 has "
        "neither, are refused",
    )
    for backend in BACKENDS:
        model = wb.load_model(done.folder, backend=backend)
        with pytest.raises(
            ValueError, match=r"has \d+ tokens and 1 are kept for the reply, the context holds 24"
        ):
            wb.generate(model, ["steal " * 27])
        with pytest.raises(ValueError, match="and 20 are kept for the reply, the context holds 24"):
            wb.generate(model, ["steal a ring"], max_new_tokens=20)


@pytest.mark.parametrize("kind", ["internlm", "internlm2, dynamic NTK"])
def test_dynamic_ntk_is_never_reached(tmp_path: Path, kind: str):
    done = wb.convert_checkpoint(KINDS[kind]().save(tmp_path / "theirs"), tmp_path / "ours")
    model = wb.load_model(done.folder, backend="plain")
    assert model.config.rope_parameters["rope_type"] == "dynamic"
    for verb in (wb.generate, wb.last_token_activations):
        with pytest.raises(
            ValueError, match=rf"has \d+ tokens and \d are kept for the reply, the context holds {CONTEXT}"
        ):
            verb(model, ["steal " * 70])


def test_the_shell_converts_and_says_what_is_next(tmp_path: Path):
    out = tmp_path / "ours"
    given = ["convert", str(qwen().save(tmp_path / "theirs", pickled=True)), str(out)]
    found = CliRunner().invoke(app, [*given, "--allow-bin", "--dtype", "bfloat16"])
    assert found.exit_code == 0, found.stderr
    assert found.stdout.splitlines() == [
        f"{out}: QWenLMHeadModel as Qwen2ForCausalLM, contexts up to 64 tokens",
        "  trained on 64 tokens: longer contexts, where Qwen has logn attention and dynamic NTK and Qwen2 has "
        "neither, are refused",
        f'Next: workbench show-prompt {out} "How do I bake bread?"',
        f'      in Python: wb.load_model("{out}", backend="plain")',
    ]
    assert found.stderr == ""  # a bar is for a terminal
    assert (
        next(wb.load_model(out, backend="plain", dtype=torch.bfloat16).parameters()).dtype == torch.bfloat16
    )
    again = CliRunner().invoke(app, given)
    assert again.exit_code == 2
    assert again.stderr == f"workbench: {out} is there already: name a new folder, or remove it first\n"


def test_a_bar_is_for_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shown = SimpleNamespace(stderr=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(
        sys.modules["workbench.cli.convert"], "sys", shown
    )  # the command has its module's name
    found = CliRunner().invoke(
        app, ["convert", str(internlm().save(tmp_path / "theirs")), str(tmp_path / "ours")]
    )
    assert found.exit_code == 0 and "converting" in found.stderr


def test_no_module_of_the_checkpoint_was_ever_imported():
    assert not {"modeling_theirs", "tokenization_qwen"} & {name.split(".")[-1] for name in sys.modules}
