"""Hashes, spaces, and files that survive a full disk and tell when they are damaged."""

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from workbench.provenance import (
    Provenance,
    Space,
    SpaceMismatch,
    content_hash,
    load_tensors,
    read_header,
    save_tensors,
    write_safely,
)

SPACE = Space(4, 32, "resid_post", "raw", "template", "vocabulary")


def test_content_hash_is_the_same_everywhere_and_tells_parts_apart():
    assert content_hash("a", 1, 0.5, None, b"x", [torch.arange(3)]) == "91b893171bcffef8"
    assert content_hash("ab", "c") != content_hash("a", "bc")
    assert content_hash("1") != content_hash(1)
    assert content_hash(["a"], "b") != content_hash(["a", "b"])
    assert content_hash(torch.zeros(4)) != content_hash(torch.zeros(2, 2))
    assert content_hash(torch.zeros(2)) != content_hash(torch.zeros(2, dtype=torch.bfloat16))
    assert content_hash(torch.arange(6).reshape(2, 3).T) == content_hash(
        torch.tensor([[0, 3], [1, 4], [2, 5]])
    )


def test_content_hash_refuses_what_it_cannot_write_down():
    with pytest.raises(TypeError, match="cannot hash a set: pass strings, bytes, numbers, tensors or lists"):
        content_hash({"a"})


def test_equal_spaces_pass():
    SPACE.require(replace(SPACE), "vectors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"d_model": 64},
            "vectors: made with d_model=64, used with d_model=32: use two models of one base, equal in depth",
        ),
        (
            {"n_layers": 6},
            "made with n_layers=6, used with n_layers=4: use two models of one base, equal in depth and width, or map "
            r"the vectors: map_vectors\(fit_map\(theirs, ours\), .*; `workbench transfer` measures what that is worth",
        ),
        ({"site": "resid_pre"}, "made with site='resid_pre', used with site='resid_post': .* the same site="),
        (
            {"processing": "fold_ln"},
            "made with processing='fold_ln', used with processing='raw': load both raw",
        ),
        ({"template_hash": "x"}, "template_hash='x'.*: the chat templates differ, .*: give both models one"),
        (
            {"tokenizer_hash": "x"},
            "tokenizer_hash='x'.*: the vocabularies differ, .* show-prompt .*: give both one tokenizer",
        ),
    ],
)
def test_another_space_is_refused_with_the_remedy(change: dict[str, int | str], message: str):
    with pytest.raises(SpaceMismatch, match=message):
        SPACE.require(replace(SPACE, **change), "vectors")


def test_provenance_survives_json():
    child = Provenance("vectors", "tiny", "0a", note="sum", parents=(Provenance("activations", prompts="p"),))
    assert Provenance.from_json(json.loads(json.dumps(child.to_json()))) == child


def test_write_safely_makes_folders_and_replaces(tmp_path: Path):
    path = tmp_path / "new" / "file.bin"
    write_safely(path, b"one")
    write_safely(path, lambda file: file.write(b"two"))
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file.bin"]


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str):
    path = tmp_path / "file.bin"
    write_safely(path, b"earlier")

    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if step != "write":
        monkeypatch.setattr(os, step, fail)
    with pytest.raises(
        OSError, match=r"could not save .*file\.bin \(No space left on device\).*make room"
    ) as caught:
        write_safely(path, fail if step == "write" else b"later")
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"earlier"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_a_folder_that_cannot_be_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"could not save .*file/v\.safetensors .*choose another folder"):
        write_safely(tmp_path / "file" / "v.safetensors", b"x")


def test_an_interrupted_save_leaves_the_earlier_file(tmp_path: Path):
    path = tmp_path / "file.bin"
    write_safely(path, b"earlier")

    def interrupt(file: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_safely(path, interrupt)
    assert path.read_bytes() == b"earlier"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_kill_9_in_the_middle_leaves_the_earlier_file(tmp_path: Path):
    path = tmp_path / "file.bin"
    write_safely(path, b"earlier")
    code = f"""
import os, signal
from workbench.provenance import write_safely

def die(file):
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)

write_safely({str(path)!r}, die)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert path.read_bytes() == b"earlier"
    write_safely(path, b"later")
    assert path.read_bytes() == b"later"


@pytest.fixture
def full_filesystem(tmp_path: Path):
    """A real filesystem of 64 KiB, where the machine lets us mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    try:
        command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_really_full_disk_leaves_the_earlier_file(full_filesystem: Path):
    path = full_filesystem / "vectors.safetensors"
    save_tensors(path, "vectors", {"values": torch.ones(8)}, {})
    with pytest.raises(OSError, match=r"could not save .*vectors\.safetensors \(No space left on device\)"):
        save_tensors(path, "vectors", {"values": torch.ones(100_000)}, {})
    assert torch.equal(load_tensors(path, "vectors")[0]["values"], torch.ones(8))
    assert os.listdir(full_filesystem) == ["vectors.safetensors"]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "v.safetensors"
    save_tensors(
        path, "vectors", {"values": torch.arange(64.0), "view": torch.ones(1).expand(3)}, {"note": "ä"}
    )
    return path


def test_tensors_and_header_come_back(saved: Path):
    tensors, header = load_tensors(saved, "vectors")
    assert torch.equal(tensors["values"], torch.arange(64.0))
    assert header["note"] == "ä" and read_header(saved) == header


@pytest.mark.parametrize("size", [0, 7, 40, 200, -1])
def test_a_truncated_file_is_refused(saved: Path, size: int):
    saved.write_bytes(saved.read_bytes()[:size])
    with pytest.raises(
        ValueError, match=r"v\.safetensors is damaged or truncated .*: restore it from a copy"
    ):
        load_tensors(saved, "vectors")


@pytest.mark.parametrize("place", [-20, "note"])
def test_a_changed_byte_is_noticed(saved: Path, place: int | str):
    content = bytearray(saved.read_bytes())
    content[place if isinstance(place, int) else content.index(place.encode())] ^= 1
    saved.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged or truncated .*does not match its hash"):
        load_tensors(saved, "vectors")


def test_other_files_are_refused(saved: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"holds vectors, expected gate: load it with load_vectors"):
        load_tensors(saved, "gate")
    foreign = tmp_path / "weights.safetensors"
    save_file({"w": torch.ones(1)}, foreign)
    with pytest.raises(ValueError, match=r"weights\.safetensors was not written by the workbench"):
        load_tensors(foreign, "vectors")
    newer = tmp_path / "newer.safetensors"
    save_tensors(newer, "vectors", {}, {"format": 9})
    with pytest.raises(ValueError, match="has format 9, this workbench reads up to 1: update"):
        load_tensors(newer, "vectors")
    with pytest.raises(FileNotFoundError, match=r"no file .*nowhere: check the path"):
        load_tensors(tmp_path / "nowhere", "vectors")


@pytest.mark.parametrize(
    "metadata", ["5", "[]", '"vectors"', "{}", '{"format": "a", "kind": "vectors"}', '{"format": 1}']
)
def test_foreign_headers_are_refused(tmp_path: Path, metadata: str):
    foreign = tmp_path / "foreign.safetensors"
    save_file({"w": torch.ones(1)}, foreign, metadata={"workbench": metadata})
    for read in (read_header, lambda path: load_tensors(path, "vectors")):
        with pytest.raises(
            ValueError,
            match=r"foreign\.safetensors was not written by the workbench: expected a file of its save",
        ):
            read(foreign)


def test_a_link_stays_a_link_and_what_it_names_is_written(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("file")
    write_safely(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_bytes() == b"new"
    (tmp_path / "dangling").symlink_to("later")
    write_safely(tmp_path / "dangling", b"new")
    assert (tmp_path / "later").read_bytes() == b"new"


def test_what_is_no_file_is_left_alone(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(
            OSError, match=f"could not save .*{name}: that is no file, nothing was changed; name a file"
        ):
            write_safely(tmp_path / name, b"x")
    assert (tmp_path / "pipe").is_fifo() and list((tmp_path / "folder").iterdir()) == []
