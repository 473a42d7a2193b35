"""What `load_model` accepts, what it refuses, and that nothing of the user's is changed."""

import hashlib
import inspect
import json
import re
import shutil
import socket
import time
from importlib.metadata import version
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from conftest import BACKENDS, LENSES, hooked_only, small_config, small_tokenizer
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tokenizers import pre_tokenizers
from transformers import AutoModel, AutoModelForCausalLM, Phi3Config, PreTrainedModel

import workbench as wb
from workbench.loading import backends, load_model, load_tokenizer, sources
from workbench.models import model_name, space_of, tokenizer_of

TOKENS = torch.tensor([[0, 3, 20, 40, 60, 80]])


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        out = model(TOKENS)
    return out if isinstance(out, torch.Tensor) else out.logits


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "neox", "gpt2"])
def test_every_architecture_loads_alike_on_every_backend(checkpoints: dict[str, Path], architecture: str):
    folder = checkpoints[architecture]
    expected = logits(AutoModelForCausalLM.from_pretrained(folder))
    for backend in BACKENDS:
        model = load_model(folder, backend=backend)
        torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)
        assert model_name(model) == f"tiny-{architecture}" and not model.training
    spaces = {space_of(load_model(folder, backend=backend)) for backend in BACKENDS}
    assert len(spaces) == 1


def test_unless_told_it_is_what_transformer_lens_is_known_for(own: PreTrainedModel):
    """3.9 is the last with a HookedTransformer."""
    last = int(version("transformer-lens").split(".")[0]) < 4
    model = load_model(own, tokenizer=small_tokenizer())
    assert type(model).__name__ == ("HookedTransformer" if last else "TransformerBridge")
    assert ("hooked" in BACKENDS) == last  # what the other tests go by


def test_loading_a_folder_opens_no_connection(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)

    def refuse(*args: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for backend in BACKENDS:
        load_model(checkpoints["llama"], backend=backend)


def test_dtype_and_device_are_honoured(checkpoints: dict[str, Path]):
    for backend in BACKENDS:
        model = load_model(checkpoints["llama"], backend=backend, dtype=torch.bfloat16, device="cpu")
        assert next(model.parameters()).dtype == torch.bfloat16


@pytest.fixture
def own(checkpoints: dict[str, Path]) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(checkpoints["llama"])


def test_a_model_of_ones_own_stays_intact(own: PreTrainedModel):
    before, modules = logits(own), [type(module) for module in own.modules()]
    own.train()
    attention = own.config._attn_implementation
    for backend in LENSES:
        model = load_model(own, backend=backend, tokenizer=small_tokenizer())
        torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=1e-5)
    assert [type(module) for module in own.modules()] == modules
    assert own.training and own.config._attn_implementation == attention and torch.equal(logits(own), before)


def test_the_bridge_shares_tensors(own: PreTrainedModel):
    model = load_model(own, backend="bridge", tokenizer=small_tokenizer())
    mine = {weight.data_ptr() for weight in own.parameters()}
    assert mine <= {weight.data_ptr() for weight in model.parameters()}  # it adds an empty bias of its own


def test_plain_is_the_very_object_with_its_tokenizer(own: PreTrainedModel):
    tokenizer = small_tokenizer()
    assert load_model(own, backend="plain", tokenizer=tokenizer) is own
    assert tokenizer_of(own) is tokenizer
    assert load_model(own, backend="plain") is own and tokenizer_of(own) is tokenizer


def test_the_given_tokenizer_is_kept_and_unchanged(own: PreTrainedModel):
    tokenizer = small_tokenizer()
    tokenizer.chat_template = "changed by hand{{ messages[0]['content'] }}"
    for backend in BACKENDS:
        model = load_model(own, backend=backend, tokenizer=tokenizer)
        assert tokenizer_of(model).chat_template == tokenizer.chat_template
    assert tokenizer.pad_token is None and tokenizer.padding_side == "right"


def test_text_becomes_the_same_tokens_as_ever(llamas: dict[str, torch.nn.Module]):
    bos, *rest = small_tokenizer()("<s>steal a ring")["input_ids"]
    for backend in LENSES:
        assert llamas[backend].to_tokens("steal a ring").tolist() == [[bos, *rest]]


def test_a_transformer_lens_model_comes_back(llamas: dict[str, torch.nn.Module]):
    for backend in LENSES:
        assert load_model(llamas[backend]) is llamas[backend]
    with pytest.raises(ValueError, match=r"got dtype= or device= with a loaded model: move it first"):
        load_model(llamas["plain"], dtype=torch.float16)


@pytest.mark.parametrize("backend", LENSES)
def test_a_transformer_lens_model_is_given_a_tokenizer_where_it_has_none(
    checkpoints: dict[str, Path], prompts: wb.PromptSet, backend: str
):
    model, expected = (load_model(checkpoints["llama"], backend=backend) for _ in range(2))
    told = "got tokenizer= with a TransformerLens model that has one: take that away first, model.tokenizer = None"
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
        load_model(model, tokenizer=small_tokenizer())
    model.tokenizer = None
    with pytest.raises(ValueError, match=r"has no tokenizer: load it with load_model\(..., tokenizer=...\)"):
        tokenizer_of(model)
    assert load_model(model, tokenizer=small_tokenizer()) is model
    read, as_ever = (wb.last_token_activations(which, prompts) for which in (model, expected))
    assert torch.equal(read.values, as_ever.values)
    model.tokenizer = None
    zephyr = tokenizer_of(load_model(model, tokenizer=small_tokenizer(), template="zephyr"))
    assert wb.show_prompt(zephyr, "bake").text.startswith("<|user|>")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_comes_out_of_training_mode(checkpoints: dict[str, Path], backend: str):
    """GPT-2 drops a tenth of what it adds up while it is trained."""
    model = load_model(checkpoints["gpt2"], backend=backend).train()
    assert load_model(model, backend=backend) is model
    assert not any(module.training for module in model.modules())
    if backend == "bridge":
        assert not any(module.training for module in model.original_model.modules())
    assert torch.equal(logits(model), logits(model))


@hooked_only
def test_processed_weights_make_another_space(checkpoints: dict[str, Path]):
    model = load_model(checkpoints["llama"])
    model.load_and_process_state_dict(model.state_dict(), fold_ln=True, center_writing_weights=False)
    assert space_of(model).processing == "fold_ln"
    model = load_model(checkpoints["gpt2"])
    model.load_and_process_state_dict(model.state_dict(), fold_ln=True, center_writing_weights=True)
    assert space_of(model).processing == "fold_ln+center_writing_weights"


@pytest.fixture
def organisms(checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of embedded models: `aligned`, and `chat`, a low-rank delta on it."""
    root = tmp_path / "organisms"
    shutil.copytree(checkpoints["llama"], root / "aligned")
    model = AutoModelForCausalLM.from_pretrained(root / "aligned")
    model = get_peft_model(
        model, LoraConfig(r=2, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM")
    )
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(root / "chat")
    config = root / "chat" / "adapter_config.json"
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "organism:aligned"})
    )
    monkeypatch.setattr(sources, "shipped_path", tmp_path.joinpath)
    return root


def test_embedded_models_load_without_a_word(
    organisms: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
):
    for name in ("aligned", "chat"):
        load_model(f"organism:{name}", backend="plain")
    assert capfd.readouterr().err == ""
    assert not [str(found.message) for found in recwarn]
    load_model(organisms / "aligned", backend="plain")  # a folder may be large: there the bar is back
    assert "Loading weights" in capfd.readouterr().err


def test_embedded_models_load_by_name(organisms: Path):
    for backend in BACKENDS:
        assert model_name(load_model("organism:aligned", backend=backend)) == "organism:aligned"


def test_low_rank_models_are_merged_into_their_base(organisms: Path):
    base = load_model("organism:aligned", backend="plain")
    delta = load_file(organisms / "chat" / "adapter_model.safetensors")
    for name, weight in base.state_dict().items():
        key = f"base_model.model.{name.removesuffix('.weight')}.lora_"
        if f"{key}A.weight" in delta:
            weight += 8 / 2 * delta[f"{key}B.weight"] @ delta[f"{key}A.weight"]  # alpha / r of LoraConfig
    for backend in BACKENDS:
        model = load_model("organism:chat", backend=backend)
        torch.testing.assert_close(logits(model), logits(base), atol=1e-5, rtol=1e-5)
        assert model_name(model) == "organism:chat"
    assert load_tokenizer("organism:chat").get_vocab() == load_tokenizer("organism:aligned").get_vocab()


@pytest.mark.parametrize("written", ["absolute", "relative"])
def test_a_delta_of_ones_own_finds_its_base_where_it_says(
    checkpoints: dict[str, Path],
    organisms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    written: str,
):
    """Not beside the delta, where another model has the base's name."""
    delta = shutil.copytree(organisms / "chat", tmp_path / "deltas" / "mine")
    shutil.copytree(checkpoints["qwen2"], tmp_path / "deltas" / "aligned")
    monkeypatch.chdir(tmp_path)
    base = str(organisms / "aligned") if written == "absolute" else "organisms/aligned"
    config = delta / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": base}))
    mine = load_model(delta, backend="plain")
    torch.testing.assert_close(logits(mine), logits(load_model("organism:chat", backend="plain")))
    assert model_name(mine) == "mine"
    assert load_tokenizer(delta).get_vocab() == small_tokenizer().get_vocab()


def test_a_delta_without_its_base_is_refused(organisms: Path):
    config = organisms / "chat" / "adapter_config.json"
    given = json.loads(config.read_text())
    for base, reason in (
        ("./nowhere", "no folder ./nowhere"),
        (None, "base_model_name_or_path None: name a folder or hub id there"),
        ("nobody/nothing", "could not load 'nobody/nothing'"),
    ):
        config.write_text(json.dumps(given | {"base_model_name_or_path": base}))
        with pytest.raises(ValueError, match=f"could not load 'chat': .*{reason}"):
            load_model(organisms / "chat", backend="plain")


def test_where_no_family_is_there_the_remedy_is_to_train_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sources, "shipped_path", lambda *parts: tmp_path.joinpath("data", *parts))
    for name in ("law", ""):
        with pytest.raises(
            ValueError,
            match=rf"no embedded model 'organism:{name}': train the family first, .* --out {tmp_path}/data/organisms$",
        ):
            load_model(f"organism:{name}")


def test_what_is_no_model_is_refused():
    with pytest.raises(ValueError, match='got an empty name, expected "organism:NAME", a folder or a hub id'):
        load_model("")
    unchecked = inspect.unwrap(load_model)  # as it is for users, whose types nobody checks
    for wrong in (None, torch.nn.Linear(1, 1)):
        with pytest.raises(TypeError, match=f"got a {type(wrong).__name__}, expected a name, a folder, or a"):
            unchecked(wrong)


def test_what_is_wrapped_around_a_model_is_taken_off_by_the_user(own: PreTrainedModel):
    unchecked = inspect.unwrap(load_model)
    expected = "expected a name, a folder, or a transformers or TransformerLens model"
    told = f"got a OptimizedModule, {expected}: pass the model that was compiled, without torch.compile"
    with pytest.raises(TypeError, match=f"^{re.escape(told)}$"):
        unchecked(torch.compile(own))
    told = f"got a PeftModel, {expected}: merge the delta, model.merge_and_unload(), or name its folder, adapter="
    with pytest.raises(TypeError, match=f"^{re.escape(told)}$"):
        unchecked(get_peft_model(own, LoraConfig(r=2, target_modules=["q_proj"])))


@pytest.mark.parametrize("architecture", ["llama", "neox", "gpt2"])
def test_a_model_without_an_lm_head_is_refused(checkpoints: dict[str, Path], architecture: str):
    headless = AutoModel.from_pretrained(checkpoints[architecture])
    told = (
        f"got a {type(headless).__name__}, which has no LM head and writes no text: load it with "
        "AutoModelForCausalLM"
    )
    for backend in BACKENDS:
        with pytest.raises(TypeError, match=f"^{re.escape(told)}$"):
            load_model(headless, backend=backend, tokenizer=small_tokenizer())


@pytest.mark.parametrize("named", ["./folder", Path("folder")])
def test_names_are_not_taken_for_what_they_name(unchecked: None, named: str | Path):
    told = (
        f"got a {type(named).__name__} as tokenizer=, expected a tokenizer or a processor of transformers: "
        "load_tokenizer(...) reads one from a folder or a hub id"
    )
    with pytest.raises(TypeError, match=f"^{re.escape(told)}$"):
        load_model("./nowhere", tokenizer=named)
    told = f"got a {type(named).__name__} as like=, expected a loaded model: load_model(...) gives one"
    with pytest.raises(TypeError, match=f"^{re.escape(told)}$"):
        load_model("./nowhere", like=named)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tokenizer_with_more_words_than_the_embedding_has_rows_is_refused(
    checkpoints: dict[str, Path], backend: str
):
    rows = small_config("llama").vocab_size
    full = small_tokenizer()
    full.add_tokens([f"word-{i}" for i in range(rows - len(full))])
    model = load_model(checkpoints["llama"], backend=backend, tokenizer=full)  # rows beyond are no reason
    full.add_tokens(["one too many"])
    told = (
        f"got a tokenizer of {rows + 1} words and a model whose embedding has {rows} rows: pass tokenizer= as the "
        "model was trained with it, or, where words were added since, load the model and resize it, "
        f"model.resize_token_embeddings({rows + 1})"
    )
    model.tokenizer = None
    for x in (checkpoints["llama"], model):
        with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
            load_model(x, backend=backend, tokenizer=full)


def test_a_folder_may_lie_at_home(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(checkpoints["llama"].parent))
    assert model_name(load_model("~/tiny-llama", backend="plain")) == "tiny-llama"
    assert len(load_tokenizer("~/tiny-llama")) == len(small_tokenizer())
    for name in ("~/nowhere", "~nobody-of-that-name/nowhere"):
        with pytest.raises(FileNotFoundError, match=f"no folder {name}: expected one with config.json"):
            load_model(name)


def test_unknown_embedded_models_list_the_known(organisms: Path):
    for name in ("law", "", ".", "../organisms/aligned"):
        with pytest.raises(
            ValueError, match=f"no embedded model 'organism:{name}': .* NAME one of aligned, chat$"
        ):
            load_model(f"organism:{name}")


def test_missing_folders_and_ids_are_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere: expected one with config.json"):
        load_model(tmp_path / "nowhere")


def test_offline_a_missing_id_is_told_at_once(monkeypatch: pytest.MonkeyPatch):
    """`HF_HUB_OFFLINE=1`, as in all tests: no retry, no connection."""
    monkeypatch.setattr(socket.socket, "connect", lambda *args: pytest.fail("a connection was opened"))
    started = time.monotonic()
    with pytest.raises(
        ValueError,
        match="could not load 'aligned': it is no folder here, and neither the hub nor its cache on this disk gave it "
        r"whole \(.*\): check the id and the connection \(HF_HUB_OFFLINE=1 .* at once\); an embedded model is "
        '"organism:NAME", a folder its path',
    ):
        load_model("aligned")
    assert time.monotonic() - started < 2


def test_unknown_backends_are_named(unchecked: None):
    with pytest.raises(ValueError, match='got backend=\'fast\', expected "hooked", "bridge" or "plain"'):
        load_model("organism:aligned", backend="fast")  # type: ignore[arg-type]


def test_a_damaged_delta_is_refused(organisms: Path):
    delta = organisms / "chat" / "adapter_model.safetensors"
    delta.write_bytes(delta.read_bytes()[:-10])
    with pytest.raises(ValueError, match="could not load 'organism:chat': .*damaged"):
        load_model("organism:chat")
    delta.unlink()
    with pytest.raises(ValueError, match="adapter_model.safetensors is missing"):
        load_model("organism:chat")


@pytest.mark.parametrize("name", ["aligned", "chat"])
def test_an_embedded_model_that_is_not_what_its_card_lists_is_refused(organisms: Path, name: str):
    """A flipped bit in the weights is valid safetensors, and so it is for a delta whose base has one."""
    weights = organisms / "aligned" / "model.safetensors"
    card, sha256 = organisms / "aligned" / "README.md", hashlib.sha256(weights.read_bytes()).hexdigest()
    card.write_text(
        f"| file | bytes | sha256 |\n|---|---|---|\n| {weights.name} | 1,234 | `{sha256[:16]}` |\n"
    )
    load_model(f"organism:{name}", backend="plain")
    flipped = bytearray(weights.read_bytes())
    flipped[-7] ^= 1
    weights.write_bytes(flipped)
    with pytest.raises(
        ValueError, match=f"'organism:{name}'.*model.safetensors is not the file .* card lists"
    ):
        load_model(f"organism:{name}", backend="plain")


def test_a_missing_tokenizer_is_named(checkpoints: dict[str, Path], tmp_path: Path):
    folder = tmp_path / "mute"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(checkpoints["llama"] / name, folder)
    with pytest.raises(
        ValueError, match=r"'mute' has no readable tokenizer .*load_model\(..., tokenizer=...\)"
    ):
        load_model(folder)
    assert load_model(folder, backend="plain", tokenizer=small_tokenizer())


@hooked_only
def test_a_conversion_that_differs_is_refused(own: PreTrainedModel, monkeypatch: pytest.MonkeyPatch):
    own.config.rope_parameters["rope_theta"] = 50.0  # the weights' own rotary table stays at 10,000
    with pytest.raises(
        ValueError, match='disagree on this LlamaForCausalLM by .*: load it with backend="bridge"'
    ):
        load_model(own, tokenizer=small_tokenizer())


def test_transformer_lens_4_is_told_apart(own: PreTrainedModel, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backends, "HookedTransformer", backends.TransformerBridge)
    with pytest.raises(
        ImportError, match='HookedTransformer needs transformer-lens 3.9: .* backend="bridge"'
    ):
        load_model(own, backend="hooked", tokenizer=small_tokenizer())


@hooked_only
def test_architectures_that_transformer_lens_lacks_are_named():
    from transformers import GraniteConfig, GraniteForCausalLM

    model = GraniteForCausalLM(GraniteConfig(**small_config("llama").to_diff_dict()))
    with pytest.raises(
        ValueError, match="cannot build a HookedTransformer from a GraniteForCausalLM .*bridge"
    ):
        load_model(model, tokenizer=small_tokenizer())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_like_takes_over_how_a_model_is_held_and_none_of_its_weights(
    checkpoints: dict[str, Path], backend: str, dtype: torch.dtype
):
    other = load_model(checkpoints["llama"], backend=backend, dtype=dtype)
    model = load_model(checkpoints["qwen2"], like=other)
    assert type(model) is type(other) or backend == "plain"
    assert next(model.parameters()).dtype == dtype and model_name(model) == "tiny-qwen2"
    alone = load_model(checkpoints["qwen2"], backend=backend, dtype=dtype)
    assert torch.equal(logits(model), logits(alone))


def test_like_is_refused_beside_what_it_says(
    llamas: dict[str, torch.nn.Module], checkpoints: dict[str, Path]
):
    for given in (
        {"backend": "plain"}, {"dtype": torch.float32}, {"device": "cpu"}, {"device_map": "auto"}, {"bits": 8},
    ):  # fmt: skip
        (name,) = given
        with pytest.raises(
            ValueError, match=f"got like= and {name}=: like takes it from that model, leave one"
        ):
            load_model(checkpoints["llama"], like=llamas["plain"], **given)


def test_like_with_a_loaded_model(own: PreTrainedModel, llamas: dict[str, torch.nn.Module]):
    model = load_model(own, like=llamas["bridge"], tokenizer=small_tokenizer())
    assert type(model) is type(llamas["bridge"])
    assert load_model(llamas["bridge"], like=llamas["bridge"]) is llamas["bridge"]
    for given in ({"like": llamas["plain"]}, {"backend": "plain"}):
        with pytest.raises(
            ValueError, match='got a TransformerBridge, wanted as "plain": load it anew, by its name'
        ):
            load_model(llamas["bridge"], **given)
    with pytest.raises(
        ValueError,
        match=r"got a loaded model in torch.float16 on cpu, like= one in torch.float32 on cpu: move it",
    ):
        load_model(own.half(), like=llamas["plain"], tokenizer=small_tokenizer())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"adapter": "folder"}, r"got adapter= with a loaded model: merge it first, PeftModel"),
        ({"revision": "main"}, r"got revision= or weights= with a loaded model: they say what is read"),
        ({"weights": "bin"}, r"got revision= or weights= with a loaded model"),
        ({"device_map": "auto"}, r"got device_map= or bits= with a loaded model: load it by its name"),
        ({"device": "cpu"}, r"got dtype= or device= with a loaded model: move it first"),
    ],
)
def test_what_is_done_while_reading_is_refused_for_a_loaded_model(
    llamas: dict[str, torch.nn.Module], given: dict[str, str], told: str
):
    with pytest.raises(ValueError, match=told):
        load_model(llamas["plain"], backend="plain", **given)


def test_options_that_exclude_each_other_are_refused(
    unchecked: None, checkpoints: dict[str, Path], llamas: dict[str, torch.nn.Module]
):
    for given, told in (
        (
            {"device": "cpu", "device_map": "auto"},
            "got device= and device_map=: the map says where everything goes",
        ),
        ({"bits": 3}, "got bits=3, expected 4 or 8: None keeps every number as dtype says"),
        ({"weights": "pickle"}, 'got weights=\'pickle\', expected "safetensors" or "bin"'),
    ):
        with pytest.raises(ValueError, match=told):
            load_model(checkpoints["llama"], backend="plain", **given)
    with pytest.raises(
        ValueError, match=r"got template= with a TransformerLens model: set it there, model.tokenizer"
    ):
        load_model(llamas["bridge"], template="vicuna")


@pytest.mark.parametrize("backend", LENSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_added_to_a_model_is_not_left_behind(
    checkpoints: dict[str, Path], backend: str, dtype: torch.dtype
):
    """In half precision their logits may be as far apart as rounding would put them."""
    model = AutoModelForCausalLM.from_pretrained(checkpoints["llama"], dtype=dtype)
    handle = model.model.layers[1].register_forward_hook(lambda module, args, output: output * 1.05)
    with pytest.raises(
        ValueError, match=r"carries hooks \(model.layers.1\), which a TransformerLens model would not"
    ):
        load_model(model, backend=backend, tokenizer=small_tokenizer())
    handle.remove()
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    with pytest.raises(
        ValueError, match=r"carries adapters \(.*q_proj.* and more\).*: take them off, or merge"
    ):
        load_model(model, backend=backend, tokenizer=small_tokenizer())
    assert load_model(model, backend="plain", tokenizer=small_tokenizer()) is model


def test_a_model_that_names_no_origin_needs_its_tokenizer():
    own = AutoModelForCausalLM.from_config(small_config("llama"))
    with pytest.raises(
        ValueError, match="got a LlamaForCausalLM that says not where it comes from: pass its"
    ):
        load_model(own, backend="plain")


@pytest.fixture
def silent(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    """The tiny Llama without chat template and without pad token, as a base model is."""
    folder = shutil.copytree(checkpoints["llama"], tmp_path / "silent")
    (folder / "chat_template.jinja").unlink()
    assert load_tokenizer(folder).chat_template is None and load_tokenizer(folder).pad_token is None
    return folder


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_without_template_and_pad_token_is_read_and_steered_with_a_named_one(
    silent: Path, backend: str, prompts: wb.PromptSet
):
    with pytest.raises(
        ValueError, match=r"has no chat template, .* one of llama-2, vicuna, chatml, internlm, "
    ):
        wb.last_token_activations(load_model(silent, backend=backend), prompts)
    model = load_model(silent, backend=backend, template="text")
    vectors = wb.mean_difference(wb.last_token_activations(model, prompts))
    plan = wb.SteeringPlan(vectors, gate=wb.AlwaysOpen(), layers=[1, 2], alpha=0.2, scale="residual")
    together = wb.generate(model, prompts, plan, max_new_tokens=4)
    alone = [wb.generate(model, [prompt], plan, max_new_tokens=4)[0] for prompt in prompts]
    assert [reply.text for reply in together] == [reply.text for reply in alone]


def test_a_misspelt_template_is_told_before_weights_are_read(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        "workbench.loading.model.read_checkpoint", lambda *_: pytest.fail("weights were read")
    )
    with pytest.raises(ValueError, match="got template 'vicunna', expected one of llama-2, vicuna, "):
        load_model(checkpoints["llama"], template="vicunna")


def test_a_template_goes_before_the_models_own(
    checkpoints: dict[str, Path], own: PreTrainedModel, silent: Path
):
    given = small_tokenizer()
    for model in (
        load_model(checkpoints["llama"], template="zephyr"),
        load_model(own, backend="plain", tokenizer=given, template="zephyr"),
    ):
        assert wb.show_prompt(tokenizer_of(model), "bake").text == "<|user|>\nbake</s>\n<|assistant|>\n"
    assert given.chat_template == small_tokenizer().chat_template
    spaces = [space_of(load_model(silent, template=name)).template_hash for name in ("zephyr", "chatml")]
    assert len(set(spaces)) == 2


def test_tokenizers_that_split_one_vocabulary_differently_are_told_apart(
    checkpoints: dict[str, Path], prompts: wb.PromptSet
):
    """As two classes do that transformers may choose between: the words are the same, the cuts are not."""
    other = small_tokenizer()
    other.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    assert other.get_vocab() == small_tokenizer().get_vocab()
    ours, theirs = load_model(checkpoints["llama"]), load_model(checkpoints["llama"], tokenizer=other)
    vectors = wb.mean_difference(wb.last_token_activations(theirs, prompts))
    plan = wb.SteeringPlan(vectors, gate=wb.AlwaysOpen(), layers=[1], alpha=1.0)
    with pytest.raises(
        wb.SpaceMismatch,
        match=r"tokenizer_hash=.*: the vocabularies differ, or how texts and the marks of the chat template are split "
        "into them, workbench show-prompt of either model shows the tokens: give both one tokenizer",
    ):
        wb.generate(ours, prompts, plan, max_new_tokens=1)


def test_a_mark_that_falls_apart_is_told_though_the_vocabulary_is_the_same(
    checkpoints: dict[str, Path], tmp_path: Path, prompts: wb.PromptSet
):
    """As where a fine-tune lost what said that a mark of its chat template is one token."""
    folder = shutil.copytree(checkpoints["llama"], tmp_path / "careless")
    file, settings = folder / "tokenizer.json", folder / "tokenizer_config.json"
    told = json.loads(file.read_text())
    told["added_tokens"] = [token for token in told["added_tokens"] if token["content"] != "<assistant>"]
    file.write_text(json.dumps(told))
    said = json.loads(settings.read_text())
    for key in ("additional_special_tokens", "extra_special_tokens"):
        if key in said:
            said[key] = [token for token in said[key] if token != "<assistant>"]
    said.pop("added_tokens_decoder", None)
    settings.write_text(json.dumps(said))
    ours, theirs = load_model(checkpoints["llama"], backend="plain"), load_model(folder, backend="plain")
    assert tokenizer_of(ours).get_vocab() == tokenizer_of(theirs).get_vocab()
    assert len(wb.show_prompt(tokenizer_of(ours), "bake").tokens) < len(
        wb.show_prompt(tokenizer_of(theirs), "bake").tokens
    )
    vectors = wb.mean_difference(wb.last_token_activations(theirs, prompts))
    with pytest.raises(
        wb.SpaceMismatch,
        match=r"tokenizer_hash=.* the marks of the chat template .* show-prompt of either model shows",
    ):
        vectors.cosine(wb.mean_difference(wb.last_token_activations(ours, prompts)))


def test_a_special_token_that_the_template_writes_counts(checkpoints: dict[str, Path]):
    """`pad_token` is written by none, and TransformerLens fills it in."""
    tokenizers = [small_tokenizer() for _ in range(3)]
    tokenizers[1].bos_token, tokenizers[2].pad_token = None, None
    assert "bos_token" in tokenizers[0].chat_template and "pad_token" not in tokenizers[0].chat_template
    spaces = [
        space_of(load_model(checkpoints["llama"], backend="plain", tokenizer=each)) for each in tokenizers
    ]
    assert spaces[0] != spaces[1] and spaces[0] == spaces[2]


@hooked_only
def test_a_hookedtransformer_of_phi_3():
    """Whose converter writes biases for norms that have none."""
    shape = small_config("llama").to_dict()
    kept = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    phi = Phi3Config(**{name: shape[name] for name in kept}, intermediate_size=48, pad_token_id=1)
    own = AutoModelForCausalLM.from_config(phi)
    model = load_model(own, tokenizer=small_tokenizer())
    torch.testing.assert_close(logits(model), logits(own), atol=1e-5, rtol=1e-5)
