"""What a conversion refuses, by name, with nothing left behind."""

import dataclasses
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from remote_code import CLOSE, HIDDEN, Checkpoint, difference, internlm, internlm2, qwen, refused
from safetensors.torch import load_file, save_file

import workbench as wb
from workbench.conversion import running


def with_settings(theirs: Checkpoint, **changed: Any) -> Checkpoint:
    return dataclasses.replace(theirs, settings=theirs.settings | changed)


@pytest.mark.parametrize(
    ("theirs", "told"),
    [
        (
            with_settings(internlm2(), architectures=["LlamaForCausalLM"]),
            "theirs is a LlamaForCausalLM, expected one of InternLM2ForCausalLM, InternLMForCausalLM, QWenLMHeadModel: "
            r"what transformers ships loads as it is, load_model\(FOLDER\), and other remote code is not read",
        ),
        (with_settings(qwen(), architectures=["ChatGLMModel"]), "theirs is a ChatGLMModel, expected one of"),
        (with_settings(qwen(), architectures=None, model_type="chatglm"), "theirs is a chatglm, expected one"),
        (
            with_settings(qwen(), quantization_config={"bits": 4}, ffn_hidden_size=3),
            "has settings that the conversion does not know: ffn_hidden_size, quantization_config: it could only drop",
        ),
        (
            with_settings(internlm2(), rope_scaling={"type": "yarn", "factor": 2.0}),
            "config.json has rope_scaling = .*yarn.*, expected a type .linear or dynamic. and a factor",
        ),
        (
            with_settings(internlm2(), rope_scaling={"type": "linear", "factor": 2.0, "low": 1}),
            "config.json has rope_scaling = .*low.*, expected a type",
        ),
        (
            with_settings(internlm(), rotary={"type": "xpos", "base": 10000}),
            r"config.json has rotary = .*xpos.*, expected a base, a type \(origin or dynamic\)",
        ),
        (
            with_settings(internlm(), num_key_value_heads=2),
            "config.json has num_key_value_heads = 2, expected 4: its attention has a key and a value for every query",
        ),
        (with_settings(qwen(), no_bias=False), "no_bias = False, expected True: Qwen2 has biases for queries, keys"),
        (with_settings(qwen(), kv_channels=16), "kv_channels = 16, expected 8: heads of another width"),
        (with_settings(qwen(), rotary_pct=0.5), "rotary_pct = 0.5, expected 1.0: Qwen2 rotates whole heads"),
        (with_settings(qwen(), use_cache_quantization=True), "use_cache_quantization = True, expected False"),
        (with_settings(qwen(), intermediate_size=97), "intermediate_size = 97, expected twice a width"),
        (with_settings(internlm2(), hidden_size="32"), "has hidden_size = '32', expected int: mend it there"),
        (with_settings(internlm2(), vocab_size=True), "has vocab_size = True, expected int: mend it there"),
        (with_settings(internlm2(), pretraining_tp=2), "pretraining_tp = 2, expected 1 or None: a conversion has no"),
        (
            with_settings(internlm2(), num_key_value_heads=3),
            "config.json has 4 query heads for num_key_value_heads = 3, expected a multiple: restore",
        ),
        (
            with_settings(qwen(), num_attention_heads=5),
            "config.json has hidden_size = 32 for 5 heads, expected a multiple: restore it from a copy",
        ),
    ],
)  # fmt: skip
def test_settings_that_no_target_has_are_refused_by_name(tmp_path: Path, theirs: Checkpoint, told: str):
    refused(theirs.save(tmp_path / "theirs"), told)


@pytest.mark.parametrize("name", ["vocab_size", "rms_norm_eps", "bias", "max_position_embeddings"])
def test_missing_settings_are_named(tmp_path: Path, name: str):
    theirs = internlm2()
    del theirs.settings[name]
    refused(theirs.save(tmp_path / "theirs"), f"config.json has no {name}: restore it from a copy")


def test_settings_of_transformers_own_base_class_are_known(tmp_path: Path):
    """An older transformers wrote all of them down."""
    dumped = {
        "id2label": {"0": "LABEL_0"},
        "top_p": 0.8,
        "pruned_heads": {},
        "is_decoder": False,
        "num_beams": 1,
    }
    theirs = with_settings(internlm(), **dumped)
    wb.convert_checkpoint(theirs.save(tmp_path / "theirs"), tmp_path / "ours")
    assert difference(tmp_path / "ours", theirs) <= CLOSE


@pytest.mark.parametrize(
    ("theirs", "added", "told"),
    [
        (internlm2(), "model.layers.0.attention.extra.weight", "that InternLM2ForCausalLM does not have by its config"),
        (internlm2(), "model.layers.7.attention_norm.weight", r"does not have by its config.json: model.layers.7"),
        (internlm2(), "model.layers.0.attention.wqkv.bias", r"config.json: model.layers.0.attention.wqkv.bias: they"),
        (qwen(), "transformer.h.0.mlp.w3.weight", r"weights that QWenLMHeadModel does not .*: transformer.h.0.mlp.w3"),
        (internlm(), "model.layers.0.mlp.gate_proj.qweight", "config.json: model.layers.0.mlp.gate_proj.qweight"),
    ],
)  # fmt: skip
def test_weights_that_are_left_over_are_named(tmp_path: Path, theirs: Checkpoint, added: str, told: str):
    more = dataclasses.replace(theirs, weights=theirs.weights | {added: torch.ones(2)})
    refused(more.save(tmp_path / "theirs"), told)


def test_missing_weights_are_named(tmp_path: Path):
    theirs = internlm2()
    fewer = dict(list(theirs.weights.items())[:-4])
    refused(
        dataclasses.replace(theirs, weights=fewer).save(tmp_path / "theirs"),
        r"no weights for .*model.norm.weight.*: the checkpoint is not whole; download it again",
    )


@pytest.mark.parametrize(
    ("name", "shape", "told"),
    [
        ("model.norm.weight", (7,), r"model.norm.weight would make model.norm.weight .* shape \(7,\), expected floats"),
        ("model.layers.0.attention.wqkv.weight", (60, HIDDEN), "wqkv.weight has 60 rows, expected 64 by the heads"),
    ],
)  # fmt: skip
def test_weights_of_another_shape_are_named(tmp_path: Path, name: str, shape: tuple[int, ...], told: str):
    theirs = internlm2()
    refused(
        dataclasses.replace(theirs, weights=theirs.weights | {name: torch.ones(shape)}).save(
            tmp_path / "theirs"
        ),
        told,
    )


def test_rounded_weights_are_refused(tmp_path: Path):
    theirs = qwen()
    name = "transformer.h.1.mlp.w1.weight"
    rounded = dataclasses.replace(
        theirs, weights=theirs.weights | {name: theirs.weights[name].to(torch.int8)}
    )
    refused(
        rounded.save(tmp_path / "theirs"),
        r"mlp.w1.weight would make .*up_proj.weight torch.int8 .*expected floats",
    )


@pytest.mark.parametrize(("number", "dtype"), [(float("nan"), None), (1e5, torch.float16)])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, number: float, dtype: torch.dtype | None):
    """Also those that a narrower dtype would make so."""
    theirs = qwen()
    theirs.weights["transformer.h.1.mlp.w1.weight"][3, 4] = number
    refused(
        theirs.save(tmp_path / "theirs"),
        "mlp.w1.weight has numbers that are not finite in torch.float",
        dtype=dtype,
    )


def drop_a_shard(folder: Path) -> str:
    next(folder.glob("model-00002*")).unlink()
    return "theirs lacks model-00002-of-00003.safetensors, which its index names: download it again, whole"


def truncate_a_shard(folder: Path) -> str:
    shard = next(folder.glob("model-00002*"))
    shard.write_bytes(shard.read_bytes()[:-100])
    return r"model-00002-of-00003.safetensors is damaged or no file of weights \(.*\): download it again"


def empty_a_shard(folder: Path) -> str:
    save_file({"other": torch.ones(1)}, next(folder.glob("model-00002*")))
    return "model-00002-of-00003.safetensors lacks .*, which the index says it holds: download it again"


def repeat_a_shard(folder: Path) -> str:
    shard = next(folder.glob("model-00002*"))
    other = next(folder.glob("model-00001*"))
    save_file(load_file(shard) | load_file(other), shard)
    return "weights that are there twice: model.embed_tokens.weight.*: keep one file of each"


def name_a_pickle(folder: Path) -> str:
    """With an index of safetensors, which are read without being asked for."""
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-00002-of-00003.safetensors", "pytorch_model.bin"))
    torch.save({"model.norm.weight": torch.ones(HIDDEN)}, folder / "pytorch_model.bin")
    return (
        "model.safetensors.index.json names pytorch_model.bin, expected files of this folder in .safetensors"
    )


def name_a_file_from_elsewhere(folder: Path) -> str:
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-00002", "../model-00002"))
    return "model.safetensors.index.json names ../model-00002-of-00003.safetensors, expected files of this folder"


def break_the_index(folder: Path) -> str:
    (folder / "model.safetensors.index.json").write_text("{")
    return "model.safetensors.index.json is damaged or no file of weights"


def break_the_config(folder: Path) -> str:
    (folder / "config.json").write_text("{")
    return "config.json is damaged .*: restore it from a copy, or download it again"


def list_the_config(folder: Path) -> str:
    (folder / "config.json").write_text("[]")
    return "config.json holds no settings"


def break_the_generation_config(folder: Path) -> str:
    (folder / "generation_config.json").write_text("{")
    return r"generation_config.json is damaged \(.*\): restore it from a copy, or remove it"


@pytest.mark.parametrize(
    "damage",
    [
        drop_a_shard, truncate_a_shard, empty_a_shard, repeat_a_shard, name_a_pickle, name_a_file_from_elsewhere,
        break_the_index, break_the_config, list_the_config, break_the_generation_config,
    ],
)  # fmt: skip
def test_damaged_checkpoints_are_refused(tmp_path: Path, damage: Callable[[Path], str]):
    folder = internlm().save(tmp_path / "theirs")
    refused(folder, damage(folder))


@pytest.mark.parametrize(
    ("name", "told"), [("config.json", "no config.json in "), ("model.safetensors", "no weights")]
)
def test_a_folder_that_is_no_checkpoint_is_told(tmp_path: Path, name: str, told: str):
    folder = internlm().save(tmp_path / "theirs", files=1)
    (folder / name).unlink()
    refused(folder, told, FileNotFoundError)


def test_a_hub_id_is_to_be_downloaded_first(tmp_path: Path):
    with pytest.raises(
        FileNotFoundError, match=r"no folder Qwen/Qwen-7B: .* hf download ID --local-dir FOLDER"
    ):
        wb.convert_checkpoint("Qwen/Qwen-7B", tmp_path / "ours")


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_a_folder_that_is_there_already_is_left_alone(tmp_path: Path, make: Callable[[Path], None]):
    make(tmp_path / "ours")
    with pytest.raises(FileExistsError, match="ours is there already: name a new folder, or remove it first"):
        wb.convert_checkpoint(internlm().save(tmp_path / "theirs"), tmp_path / "ours")


def test_pickled_weights_are_read_when_asked_for_alone(tmp_path: Path):
    folder = internlm().save(tmp_path / "theirs", pickled=True)
    refused(
        folder,
        r"theirs has its weights as .bin alone, which are pickles: .* with --allow-bin \(allow_bin=True\)",
    )


@dataclasses.dataclass
class Evil:
    """A pickle of it makes a folder when it is read."""

    folder: Path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize(
    "content",
    [lambda evil: evil, lambda evil: {"model.norm.weight": evil}, lambda evil: [1], lambda evil: {"step": 3}],
)
def test_a_pickle_that_holds_more_than_tensors_is_refused(tmp_path: Path, content: Callable[[Evil], Any]):
    folder = internlm().save(tmp_path / "theirs", pickled=True, files=1)
    torch.save(content(Evil(tmp_path / "ran")), folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin is damaged or no file of weights", allow_bin=True)


def test_a_pickle_that_is_not_what_its_index_says_is_refused(tmp_path: Path):
    folder = internlm().save(tmp_path / "theirs", pickled=True)
    torch.save({"model.norm.weight": torch.ones(HIDDEN)}, next(folder.glob("*00002*.bin")))
    refused(folder, "pytorch_model-00002-of-00003.bin and its index do not agree on", allow_bin=True)


def test_safetensors_are_taken_where_both_are_there(tmp_path: Path):
    theirs = internlm()
    folder = theirs.save(tmp_path / "theirs")
    (folder / "pytorch_model.bin").write_bytes(b"no pickle")
    wb.convert_checkpoint(folder, tmp_path / "ours", allow_bin=True)
    assert difference(tmp_path / "ours", theirs) <= CLOSE


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("step", [20_000, 500, 12_000])
def test_a_full_disk_is_told_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
):
    """In the first of several files of weights; in config.json, where there are no weights; in the tokenizer."""
    folder = internlm2().save(tmp_path / "theirs")
    if step != 20_000:
        monkeypatch.setattr(running, "write_shards", lambda folder, tensors: 1)
    with full_disk(step):
        refused(folder, r"could not save .*never \(.*\): nothing was changed; make room or choose", OSError)


def test_a_disk_that_is_too_full_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = internlm2().save(tmp_path / "theirs")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000))
    monkeypatch.setattr(running, "write_shards", lambda *given: pytest.fail("something was written"))
    for dtype in (None, torch.bfloat16):
        refused(
            folder, r"could not save .*never \(0.0 GB are needed, 0.0 GB are free\)", OSError, dtype=dtype
        )


def test_what_an_interrupted_run_left_is_cleared_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    theirs = internlm2()
    folder = theirs.save(tmp_path / "theirs")
    (tmp_path / ".ours.partial").mkdir()
    (tmp_path / ".ours.partial" / "0.safetensors").touch()
    wb.convert_checkpoint(folder, tmp_path / "ours")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "theirs"]

    def stop(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "write_shards", stop)
    with pytest.raises(KeyboardInterrupt):
        wb.convert_checkpoint(folder, tmp_path / "never")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "theirs"]
