"""What is read of a checkpoint: whole, in safetensors, tensors alone, once; and nothing is run or installed."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from conftest import BACKENDS, LENSES, hooked_only, put_on_hub, small_config, small_tokenizer
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
)

import workbench as wb
from workbench.loading import is_spread, load_model
from workbench.loading.holding import Holding, holding_of
from workbench.models import model_hash, model_name, space_of, weights_hash

IDS = torch.tensor([[0, 3, 20, 40, 60, 80]])


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        out = model(IDS)
    return out if isinstance(out, torch.Tensor) else out.logits


@pytest.fixture
def folder(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the tiny Llama that may be damaged."""
    return shutil.copytree(checkpoints["llama"], tmp_path / "broken")


@pytest.fixture
def sharded(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    """The tiny Llama in several files, with an index."""
    shutil.copytree(checkpoints["llama"], tmp_path / "broken", ignore=shutil.ignore_patterns("*.safetensors"))
    model = AutoModelForCausalLM.from_pretrained(checkpoints["llama"])
    model.save_pretrained(tmp_path / "broken", max_shard_size="20KB")
    assert len(list((tmp_path / "broken").glob("*.safetensors"))) > 2
    return tmp_path / "broken"


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def cut_header(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:50])


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def drop_a_weight(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))


def change_a_shape(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.update({"model.norm.weight": torch.ones(3)}))


def drop_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def drop_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def change_config(folder: Path, **changed: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changed))


def count_fewer_layers(folder: Path) -> None:
    change_config(folder, num_hidden_layers=2)


def pickle_instead(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, ""),
        (cut_header, ""),
        (drop_a_weight, r"no weights for model\.layers\.1\.mlp\.up_proj\.weight"),
        (change_a_shape, ""),
        (drop_weights, r"no model\.safetensors, and no index of several"),
        (break_config, ""),
        (drop_config, ""),
        (count_fewer_layers, "config.json counts fewer layers than there are weights for: model.layers.2"),
        (pickle_instead, 'no model.safetensors, .* .bin files are read when asked for, weights="bin"'),
    ],
)
def test_damaged_checkpoints_are_refused(folder: Path, damage: Callable[[Path], None], reason: str):
    damage(folder)
    with pytest.raises(
        ValueError,
        match=rf"could not load 'broken': .*damaged, truncated or not there \(.*{reason}.*\): restore",
    ):
        load_model(folder, backend="plain")


def lose_a_shard(folder: Path) -> None:
    sorted(folder.glob("*.safetensors"))[1].unlink()


def truncate_a_shard(folder: Path) -> None:
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-9])


def index_a_pickle(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    told = json.loads(index.read_text())
    shard = sorted(folder.glob("*.safetensors"))[0]
    torch.save(load_file(shard), folder / "adrift.bin")
    told["weight_map"] = {k: v.replace(shard.name, "adrift.bin") for k, v in told["weight_map"].items()}
    index.write_text(json.dumps(told))


def index_another_folder(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-00001", "../model-00001"))


def cut_the_index(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text()[:-20])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            lose_a_shard,
            r"1 of the \d+ files that its index names are not there: model-00002-of-\d+.safetensors",
        ),
        (truncate_a_shard, r"model-00002-of-\d+.safetensors: "),
        (index_a_pickle, r"its index names 'adrift.bin', expected .safetensors files beside it"),
        (index_another_folder, r"its index names '\.\./model-00001.*', expected"),
        (cut_the_index, ""),
    ],
)
def test_partial_downloads_are_refused(sharded: Path, damage: Callable[[Path], None], reason: str):
    load_model(sharded, backend="plain")
    damage(sharded)
    with pytest.raises(ValueError, match=rf"could not load 'broken': .*damaged.* \(.*{reason}.*\): restore"):
        load_model(sharded, backend="plain")


def test_weights_that_no_layer_of_the_model_has_are_left_out(folder: Path):
    """As checkpoints of older versions hold: a buffer that is computed now is no reason to refuse a model."""
    change_weights(
        folder, lambda weights: weights.update({"model.layers.0.self_attn.old_buffer": torch.ones(2)})
    )
    load_model(folder, backend="plain")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            {"model_type": "internlm2", "auto_map": {"AutoModelForCausalLM": "modeling_x.X"}},
            "a internlm2 is code of its own, which is never run: workbench convert reads InternLM, InternLM2 and Qwen",
        ),
        ({"model_type": "t5"}, "a t5 writes no text token by token: expected a causal language model"),
        (
            {"transformers_weights": "adapter_model.bin"},
            "its config.json sends readers to 'adapter_model.bin': take transformers_weights out of it",
        ),
        (
            {"attn_implementation": "someone/kernel"},
            "its config.json asks for 'someone/kernel', a kernel from the hub, which is code: take it out of there",
        ),
        (
            {"sub_config": {"experts_implementation": "someone/kernel@main"}},
            "its config.json asks for 'someone/kernel@main', a kernel from the hub",
        ),
    ],
)
def test_what_is_not_taken_is_not_called_damaged(folder: Path, changed: dict[str, object], told: str):
    change_config(folder, **changed)
    with pytest.raises(ValueError, match=f"^could not load 'broken': {told}"):
        load_model(folder, backend="plain")


def test_an_architecture_that_transformers_does_not_know_is_not_called_damaged(folder: Path):
    change_config(folder, model_type="llama9")
    told = (
        "could not load 'broken': its config.json says model_type 'llama9', which transformers "
        f"{version('transformers')} does not know: a newer one may; or load it yourself, and pass the model"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
        load_model(folder, backend="plain")


@pytest.mark.parametrize("stored", ["folder", "sharded"])
def test_pickles_are_not_looked_for_among_safetensors(request: pytest.FixtureRequest, stored: str):
    told = "could not load 'broken': got weights=\"bin\", and its weights are safetensors: leave weights= out"
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
        load_model(request.getfixturevalue(stored), backend="plain", weights="bin")


def test_code_beside_a_known_architecture_stays_unread(folder: Path):
    (folder / "modeling_x.py").write_text("raise SystemExit('code of the checkpoint was run')")
    auto = {
        "AutoConfig": "modeling_x.X",
        "AutoModelForCausalLM": "modeling_x.X",
        "AutoTokenizer": "modeling_x.X",
    }
    change_config(folder, auto_map=auto)
    load_model(folder, backend="plain")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you"),
        MemoryError("not enough memory"),
    ],
)
def test_a_model_that_finds_no_room_is_not_called_damaged(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    def fill(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fill)
    with pytest.raises(
        ValueError,
        match=r"could not load 'broken': there is no room for it \(.* memory.*\): dtype=torch.bfloat16",
    ):
        load_model(folder, backend="plain")


@hooked_only
def test_a_copy_that_finds_no_room_is_told(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    def fill(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")

    monkeypatch.setattr("workbench.loading.backends._copy_into", fill)
    with pytest.raises(
        wb.NoRoom,
        match=r"memory ran out on a HookedTransformer of this LlamaForCausalLM, .* a copy .*: load it with",
    ):
        load_model(checkpoints["llama"], backend="hooked")


POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


def test_pointers_of_git_lfs_are_told_from_damage(sharded: Path):
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.write_text(POINTER)
    with pytest.raises(
        ValueError,
        match=rf"could not load 'broken': {shard.name} came as pointers of Git LFS, without their content \(.*\): git "
        "lfs pull in that folder fetches it",
    ):
        load_model(sharded, backend="plain")


def test_a_tokenizer_that_is_a_pointer_is_told(folder: Path):
    (folder / "tokenizer.json").write_text(POINTER)
    with pytest.raises(
        ValueError,
        match=r"no readable tokenizer \(tokenizer.json: pointers of Git LFS\): fetch the content, git lfs pull",
    ):
        load_model(folder, backend="plain")


# Pickled weights


class Bomb:
    """A pickle that creates a file when it is read by whoever runs what a pickle says."""

    def __init__(self, crater: Path) -> None:
        self.crater = crater

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (os.mkdir, (str(self.crater),))


def test_pickled_weights_are_read_when_asked_for(folder: Path):
    expected = logits(load_model(folder, backend="plain"))
    pickle_instead(folder)
    for backend in BACKENDS:
        model = load_model(folder, backend=backend, weights="bin")
        torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("with_tensors", [True, False])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_is_refused_and_does_not_run(
    folder: Path, tmp_path: Path, zipped: bool, with_tensors: bool
):
    """Neither in torch's own format nor in the one before it; both would run without `weights_only`."""
    weights = load_file(folder / "model.safetensors") if with_tensors else {}
    weights["model.norm.weight"] = Bomb(tmp_path / "crater")
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    (folder / "model.safetensors").unlink()
    for form in ("safetensors", "bin"):
        with pytest.raises(ValueError, match="could not load 'broken': .*damaged"):
            load_model(folder, backend="plain", weights=form)
    assert not (tmp_path / "crater").exists()
    # The file is as dangerous as it is meant to be.
    torch.load(folder / "pytorch_model.bin", weights_only=False)  # noqa: TID251
    assert (tmp_path / "crater").is_dir()


def test_a_pickled_shard_is_refused_and_does_not_run(sharded: Path, tmp_path: Path):
    index_a_pickle(sharded)
    torch.save({"model.norm.weight": Bomb(tmp_path / "crater")}, sharded / "adrift.bin")
    for form, told in (("safetensors", ".*damaged"), ("bin", "got weights=.* are safetensors")):
        with pytest.raises(ValueError, match=f"could not load 'broken': {told}"):
            load_model(sharded, backend="plain", weights=form)
    assert not (tmp_path / "crater").exists()


def test_the_hub_is_not_asked_to_convert_pickled_weights(
    checkpoints: dict[str, Path], hub: Path, monkeypatch: pytest.MonkeyPatch
):
    """As transformers would, in a thread that goes on after the model is there."""
    snapshot = put_on_hub(hub, "someone/pickled", checkpoints["llama"])
    pickle_instead(snapshot)
    asked: list[object] = []
    monkeypatch.setattr("transformers.modeling_utils.is_offline_mode", lambda: False)
    monkeypatch.setattr("transformers.modeling_utils.has_file", lambda *_, **__: False)
    monkeypatch.setattr("transformers.modeling_utils.auto_conversion", lambda *_, **__: asked.append(1))
    load_model("someone/pickled", backend="plain", weights="bin")
    assert asked == [] and "DISABLE_SAFETENSORS_CONVERSION" not in os.environ


# From the hub's cache


def test_a_hub_id_has_revisions(checkpoints: dict[str, Path], hub: Path):
    put_on_hub(hub, "someone/model", checkpoints["llama"])
    older = put_on_hub(hub, "someone/model", checkpoints["qwen2"], "older")
    (older / "chat_template.jinja").write_text("{{ messages }}")
    now = load_model("someone/model", backend="plain")
    before = load_model("someone/model", backend="plain", revision="older")
    assert (now.config.model_type, before.config.model_type) == ("llama", "qwen2")
    assert model_name(before) == "someone/model"
    assert now.tokenizer.chat_template == small_tokenizer().chat_template
    for tokenizer in (before.tokenizer, wb.load_tokenizer("someone/model", revision="older")):
        assert tokenizer.chat_template == "{{ messages }}"
    with pytest.raises(ValueError, match="could not load 'someone/model': .* neither the hub nor its cache"):
        load_model("someone/model", backend="plain", revision="nowhere")


def test_a_partial_download_is_told(checkpoints: dict[str, Path], hub: Path):
    snapshot = put_on_hub(hub, "someone/model", checkpoints["llama"])
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="could not load 'someone/model': .* neither the hub nor its cache"):
        load_model("someone/model", backend="plain")


def test_revisions_are_of_hub_ids(checkpoints: dict[str, Path]):
    for x in (checkpoints["llama"], "organism:finance"):
        with pytest.raises(
            ValueError, match=r"got revision='main' with '.*': a hub id has revisions, a folder is"
        ):
            load_model(x, revision="main")


def test_a_delta_on_the_hub_is_merged(delta: Path, checkpoints: dict[str, Path], hub: Path):
    """At a revision, whose files are asked for, and not those of another."""
    put_on_hub(hub, "someone/base", checkpoints["llama"])
    put_on_hub(hub, "someone/delta", checkpoints["gpt2"])
    snapshot = put_on_hub(hub, "someone/delta", delta, "tuned")
    say_base(snapshot, "someone/base")
    model = load_model("someone/delta", backend="plain", revision="tuned")
    torch.testing.assert_close(logits(model), logits(with_delta(checkpoints["llama"], delta)))
    assert not any("lora" in name for name, _ in model.named_parameters())


# Low-rank deltas


@pytest.fixture
def delta(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    """A LoRA folder on the tiny Llama, as peft saves it."""
    model = AutoModelForCausalLM.from_pretrained(checkpoints["llama"])
    settings = LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(model, settings)
    torch.manual_seed(3)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(tmp_path / "delta")
    return tmp_path / "delta"


def say_base(delta: Path, base: str) -> None:
    file = delta / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": base}))


def with_delta(base: Path, delta: Path) -> PreTrainedModel:
    """The sum of W and (alpha / r) B A, by hand."""
    model = AutoModelForCausalLM.from_pretrained(base)
    parts = load_file(delta / "adapter_model.safetensors")
    for name, weight in model.state_dict().items():
        key = f"base_model.model.{name.removesuffix('.weight')}.lora_"
        if f"{key}A.weight" in parts:
            weight += 6 / 2 * parts[f"{key}B.weight"] @ parts[f"{key}A.weight"]
    return model


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_adapter_is_merged_onto_the_base_that_is_named(
    checkpoints: dict[str, Path], delta: Path, backend: str
):
    say_base(delta, "someone/who-is-not-asked")
    model = load_model(checkpoints["llama"], backend=backend, adapter=delta)
    expected = logits(with_delta(checkpoints["llama"], delta))
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)
    assert model_name(model) == "tiny-llama+delta"


def test_a_tokenizer_that_an_adapter_brings_goes_before_its_bases(checkpoints: dict[str, Path], delta: Path):
    say_base(delta, "./nowhere")
    model = load_model(checkpoints["llama"], backend="plain", adapter=delta)
    assert model.tokenizer.chat_template == small_tokenizer().chat_template
    tuned = small_tokenizer()
    tuned.chat_template = "{{ bos_token }}Q: {{ messages[0]['content'] }} A:"
    tuned.save_pretrained(delta)
    model = load_model(checkpoints["llama"], backend="plain", adapter=delta)
    assert model.tokenizer.chat_template == tuned.chat_template


def lose_a_part(delta: Path) -> None:
    parts = load_file(delta / "adapter_model.safetensors")
    parts.pop(sorted(parts)[0])
    save_file(parts, delta / "adapter_model.safetensors", metadata={"format": "pt"})


def have_a_part_too_many(delta: Path) -> None:
    parts = load_file(delta / "adapter_model.safetensors")
    parts["base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"] = torch.ones(2, 32)
    save_file(parts, delta / "adapter_model.safetensors", metadata={"format": "pt"})


def pickle_the_parts(delta: Path) -> None:
    torch.save(load_file(delta / "adapter_model.safetensors"), delta / "adapter_model.bin")
    (delta / "adapter_model.safetensors").unlink()


def be_another_method(delta: Path) -> None:
    file = delta / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"peft_type": "PREFIX_TUNING"}))


def name_a_module(delta: Path) -> None:
    file = delta / "adapter_config.json"
    named = {"megatron_config": {"a": 1}, "megatron_core": "antigravity"}
    file.write_text(json.dumps(json.loads(file.read_text()) | named))


def lose_the_settings(delta: Path) -> None:
    (delta / "adapter_config.json").unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lose_a_part, r"it does not fit its base, by base_model\.model\.model\.layers\.0"),
        (have_a_part_too_many, r"it does not fit its base, by .*layers\.9"),
        (pickle_the_parts, r"adapter_model\.safetensors is missing"),
        (be_another_method, "its adapter_config.json says peft_type 'PREFIX_TUNING', expected 'LORA'"),
        (name_a_module, "its adapter_config.json names a module to import, megatron_core: take it out"),
        (lose_the_settings, "no adapter_config.json: expected a folder that peft's save_pretrained wrote"),
    ],
)
def test_a_delta_that_is_not_whole_is_refused(
    checkpoints: dict[str, Path], delta: Path, damage: Callable[[Path], None], reason: str
):
    damage(delta)
    with pytest.raises(ValueError, match=rf"could not load 'delta': .*{reason}"):
        load_model(checkpoints["llama"], backend="plain", adapter=delta)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_delta_on_one_end_of_tied_embeddings_is_refused(target: str, tied: bool, tmp_path: Path):
    torch.manual_seed(0)
    config = small_config("llama")
    config.tie_word_embeddings = tied
    base = AutoModelForCausalLM.from_config(config)
    base.save_pretrained(tmp_path / "base")
    small_tokenizer().save_pretrained(tmp_path / "base")
    settings = LoraConfig(r=2, target_modules=[target], task_type="CAUSAL_LM", init_lora_weights=False)
    adapted = get_peft_model(base, settings)
    adapted.save_pretrained(tmp_path / "delta")
    if tied:
        with pytest.raises(
            ValueError, match="the embedding or the LM head alone, which are one tensor in this base"
        ):
            load_model(tmp_path / "base", backend="plain", adapter=tmp_path / "delta")
        return
    merged = load_model(tmp_path / "base", backend="plain", adapter=tmp_path / "delta")
    torch.testing.assert_close(logits(merged), logits(adapted), atol=1e-5, rtol=1e-5)


def test_a_delta_of_another_base_is_refused(checkpoints: dict[str, Path], delta: Path):
    for base in ("gpt2", "neox"):
        with pytest.raises(ValueError, match="could not load 'delta': "):
            load_model(checkpoints[base], backend="plain", adapter=delta)


def test_a_delta_that_was_trained_after_tokens_were_added_says_what_to_do(
    checkpoints: dict[str, Path], tmp_path: Path
):
    base = AutoModelForCausalLM.from_pretrained(checkpoints["llama"])
    rows = base.get_input_embeddings().num_embeddings
    base.resize_token_embeddings(rows + 4)
    ends = ["embed_tokens", "lm_head"]
    get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=ends)).save_pretrained(
        tmp_path / "longer"
    )
    told = (
        f"could not load 'longer': its model.embed_tokens has {rows + 4} rows, its base's {rows}, as after tokens were "
        "added: resize that first, base = AutoModelForCausalLM.from_pretrained(...), "
        f"base.resize_token_embeddings({rows + 4}), pass PeftModel.from_pretrained(base, ...).merge_and_unload(), and "
        "its tokenizer="
    )
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
        load_model(checkpoints["llama"], backend="plain", adapter=tmp_path / "longer")
    base = AutoModelForCausalLM.from_pretrained(checkpoints["llama"])  # what it says to do
    base.resize_token_embeddings(rows + 4)
    merged = PeftModel.from_pretrained(base, str(tmp_path / "longer")).merge_and_unload()
    load_model(merged, backend="plain", tokenizer=small_tokenizer())


# Devices and bits


PLACES = {"model.embed_tokens": "disk", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "disk"}
PLACES |= {f"model.layers.{layer}": "disk" if layer % 2 else "cpu" for layer in range(4)}


def test_a_delta_is_not_merged_into_what_was_put_away(checkpoints: dict[str, Path], delta: Path):
    told = (
        "could not load 'delta': a delta cannot be merged into weights that device_map= has put away: merge it "
        "without, save that with save_pretrained, and load it with device_map="
    )
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
        load_model(checkpoints["llama"], backend="plain", adapter=delta, device_map=PLACES)


DTYPES = "expected one of torch.float32, torch.bfloat16, torch.float16, torch.float64"
SPREADS = 'expected "auto", "balanced", "balanced_low_0", "sequential", a dict from modules to devices, or '
HERE = "a device of this machine: cpu, cuda:0"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"dtype": "bf16"}, f"got dtype='bf16', {DTYPES}"),
        ({"dtype": torch.int8}, f"got dtype=torch.int8, {DTYPES}"),
        ({"device": "gpu"}, f"got device='gpu', expected {HERE}"),
        ({"device": "meta"}, f"got device='meta', expected {HERE}"),
        ({"device": "cuda:9"}, f"got device='cuda:9', expected {HERE}"),
        ({"device_map": "autoo"}, f"got device_map='autoo', {SPREADS}{HERE}"),
        ({"device_map": {"": "gpu"}}, f"got device_map['']='gpu', expected {HERE}"),
    ],
)
def test_what_is_no_dtype_and_no_place_is_told_before_anything_is_read(
    unchecked: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: dict[str, object], told: str
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
        load_model(tmp_path / "nowhere", backend="plain", **given)


@pytest.mark.parametrize("place", ["cpu", "sequential", {"": "cpu"}, {"": "disk"}])
def test_what_is_a_place_is_possible(place: str | dict[str, str]):
    Holding(device_map=place).require_possible()
    Holding(device=torch.device("cpu")).require_possible()


def test_a_device_map_spreads_the_plain_model(checkpoints: dict[str, Path], prompts: wb.PromptSet):
    model = load_model(checkpoints["llama"], backend="plain", device_map="auto")
    expected = load_model(checkpoints["llama"], backend="plain")
    assert torch.equal(logits(model), logits(expected))
    assert not is_spread(model)  # where there is one device


def test_layers_put_away_on_the_disk_are_read_and_steered_alike(
    checkpoints: dict[str, Path], prompts: wb.PromptSet
):
    """What a small machine can tell of a large model: accelerate fetches two layers from the file for every pass."""
    away = load_model(checkpoints["llama"], backend="plain", device_map=PLACES)
    here, in_few_bits = (load_model(checkpoints["llama"], backend="plain") for _ in range(2))
    in_few_bits.is_loaded_in_8bit = True  # as transformers says it
    assert any(weight.is_meta for weight in away.parameters())
    assert model_hash(away) == model_hash(here) and weights_hash(away) == weights_hash(here)
    read = [wb.last_token_activations(model, prompts) for model in (away, here)]
    assert torch.equal(read[0].values, read[1].values)
    plan = wb.SteeringPlan(
        wb.mean_difference(read[1]), gate=wb.AlwaysOpen(), layers=[1, 2], alpha=0.2, scale="residual"
    )
    replies = [wb.generate(model, prompts, plan, max_new_tokens=4) for model in (away, here)]
    assert [reply.text for reply in replies[0]] == [reply.text for reply in replies[1]]
    for model in (away, in_few_bits):
        for backend in LENSES:
            with pytest.raises(
                ValueError, match="is spread over several devices or held in few bits, .* backend="
            ):
                load_model(model, backend=backend)
    assert holding_of(away) == Holding(torch.float32, None, "auto")
    assert not is_spread(load_model(checkpoints["qwen2"], like=away))


@pytest.mark.parametrize("backend", LENSES)
@pytest.mark.parametrize("given", [{"device_map": "auto"}, {"device_map": {"": "cpu"}}])
def test_transformer_lens_takes_weights_whole_on_one_device(
    checkpoints: dict[str, Path], backend: str, given: dict[str, object]
):
    with pytest.raises(
        ValueError,
        match=rf'got device_map=.* with backend="{backend}": TransformerLens takes .* backend="plain"',
    ):
        load_model(checkpoints["llama"], backend=backend, **given)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_bits_need_a_gpu(checkpoints: dict[str, Path]):
    with pytest.raises(
        ValueError, match=r"got bits=4, and there is no GPU .*: load without, dtype=torch.bfloat16 halves"
    ):
        load_model(checkpoints["llama"], backend="plain", bits=4)


def test_bits_need_bitsandbytes(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("workbench.loading.holding.find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"bits=8 needs bitsandbytes: pip install 'inferaligner-workbench\[bits\]'"
    ):
        load_model(checkpoints["llama"], backend="plain", bits=8)


def test_bits_are_for_plain_models_whole(
    checkpoints: dict[str, Path], delta: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("workbench.loading.holding.find_spec", lambda name: object())
    with pytest.raises(ValueError, match=f'got bits=8 with backend="{LENSES[0]}": TransformerLens takes'):
        load_model(checkpoints["llama"], bits=8)
    with pytest.raises(
        ValueError, match="a delta cannot be merged into weights of 8 bits: merge it without bits="
    ):
        load_model(checkpoints["llama"], backend="plain", bits=8, adapter=delta)


def test_bits_are_asked_of_transformers(monkeypatch: pytest.MonkeyPatch):
    """The one thing about them that a machine without a GPU can tell."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    asked = Holding(bits=4).settings()
    assert asked["dtype"] == torch.bfloat16 and asked["device_map"] == {"": torch.device("cuda")}
    assert asked["quantization_config"].load_in_4bit and not asked["quantization_config"].load_in_8bit
    assert Holding(bits=8, device_map="auto").settings()["device_map"] == "auto"
    assert "quantization_config" not in Holding().settings()


# Nothing is installed


def save_llava(folder: Path) -> Path:
    text = small_config("llama")
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4,
    )  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=len(small_tokenizer()))
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA: a vision tower, a projector, and a Llama."""
    return save_llava(tmp_path_factory.mktemp("llava") / "tiny-llava")


@pytest.fixture
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever starts a process fails the test."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"a process was started: {args}")

    for name in ("run", "call", "check_call", "check_output", "Popen"):
        monkeypatch.setattr(subprocess, name, refuse)
    for name in ("system", "popen", "posix_spawn", "posix_spawnp", "execv", "execve", "execvp", "fork"):
        monkeypatch.setattr(os, name, refuse)


@pytest.mark.parametrize("backend", ["bridge", "plain"])
def test_a_multimodal_model_reads_text_and_installs_nothing(
    llava: Path, nothing_starts: None, backend: str, prompts: wb.PromptSet
):
    model = load_model(llava, backend=backend)
    assert space_of(model).n_layers == small_config("llama").num_hidden_layers
    read = wb.last_token_activations(model, prompts)
    plan = wb.SteeringPlan(
        wb.mean_difference(read), gate=wb.AlwaysOpen(), layers=[1, 2], alpha=0.2, scale="residual"
    )
    assert len(wb.generate(model, prompts, plan, max_new_tokens=3)) == len(prompts)
    own = LlavaForConditionalGeneration.from_pretrained(llava)
    load_model(own, backend=backend, tokenizer=small_tokenizer())


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_ordinary_model_installs_nothing(checkpoints: dict[str, Path], nothing_starts: None, backend: str):
    for folder in checkpoints.values():
        load_model(folder, backend=backend)


PIP = "import pathlib; pathlib.Path({marker!r}).write_text('pip was called'); raise SystemExit(1)\n"
LOADING = """
import huggingface_hub.constants, sys
huggingface_hub.constants.HF_HUB_OFFLINE = True
from workbench.loading import load_model
for folder in {folders!r}:
    for backend in ("bridge", "plain"):
        load_model(folder, backend=backend)
"""


def test_no_pip_and_no_uv_is_called(checkpoints: dict[str, Path], llava: Path, tmp_path: Path):
    """In a process of its own, with a pip and a uv that tell: as programs, and as `python -m pip`."""
    marker, programs = tmp_path / "called", tmp_path / "programs"
    (programs / "pip").mkdir(parents=True)
    for file in ("__init__.py", "__main__.py"):
        (programs / "pip" / file).write_text(PIP.format(marker=str(marker)))
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name in ("pip", "pip3", "uv"):
        (binaries / name).write_text(f"#!{sys.executable}\n{PIP.format(marker=str(marker))}")
        (binaries / name).chmod(0o755)
    paths = [str(programs), str(Path(wb.__file__).parents[1])]
    environment = os.environ | {
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(paths),
    }  # fmt: skip
    code = LOADING.format(folders=[str(llava), *map(str, checkpoints.values())])
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr[-2000:]
    assert not marker.exists()
    subprocess.run(
        [sys.executable, "-m", "pip", "--version"], env=environment, check=False, capture_output=True
    )
    assert marker.exists(), "the pip that tells is the one that would have been called"


# One copy


GROWTH = """
import pathlib, re, threading, time, torch
from workbench.loading import load_model, without_bars

def own_memory():
    told = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", told).group(1))

def watch():
    while watching:
        seen.append(own_memory())
        time.sleep(0.002)

with without_bars():
    load_model({small!r}, backend={backend!r}, dtype=torch.bfloat16)
    before, seen, watching = own_memory(), [], True
    watcher = threading.Thread(target=watch)
    watcher.start()
    model = load_model({large!r}, backend={backend!r}, dtype=torch.bfloat16)
    watching = False
    watcher.join()
weights = {{weight.data_ptr(): weight for weight in model.parameters()}}
held = sum(weight.numel() * weight.element_size() for weight in weights.values())
print((max(seen) - before) / held)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 170 MB, large enough to tell one copy from two."""
    config = LlamaConfig(
        vocab_size=len(small_tokenizer()), hidden_size=768, num_hidden_layers=6, num_attention_heads=12,
        intermediate_size=2048, max_position_embeddings=128, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("large")
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("backend", BACKENDS)
def test_loading_holds_one_copy_of_the_weights(checkpoints: dict[str, Path], large: Path, backend: str):
    """In memory of its own, that is: files that are read lie in the system's cache, which gives way."""
    code = GROWTH.format(small=str(checkpoints["llama"]), large=str(large), backend=backend)
    # What is released goes back at once, as it does by itself for weights as large as those of a 7B model.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    growth = float(found.stdout.split()[-1])
    assert 0.9 < growth < 1.4


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_that_are_stored_as_they_are_held_stay_where_they_are(
    checkpoints: dict[str, Path], large: Path, tmp_path: Path, backend: str
):
    """As 7B checkpoints come, in bfloat16: a HookedTransformer alone takes memory of its own, the rest is the file."""
    stored = shutil.copytree(large, tmp_path / "stored")
    whole = AutoModelForCausalLM.from_pretrained(large, dtype=torch.bfloat16)
    whole.save_pretrained(stored, max_shard_size="20MB")
    (stored / "model.safetensors").unlink()
    code = GROWTH.format(small=str(checkpoints["llama"]), large=str(stored), backend=backend)
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    growth = float(found.stdout.split()[-1])
    assert growth < (1.4 if backend == "hooked" else 0.25)
