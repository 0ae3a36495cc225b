"""Files of weights: formats, what else a file may be, and that no code of a file ever runs."""

import argparse
import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modules.runtime.errors import UserError
from modules.safetensors import read_safetensors
from modules.weight_files import StandIn, read_weight_file
from tests.support.comparing import same
from tests.support.wrappings import safetensors_bytes

CONTENT = {"state_dict": {"a": torch.arange(60.0).reshape(3, 20)}, "epoch": 3}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.save(CONTENT, tmp_path / "x.ckpt")
    assert same(read_weight_file(tmp_path / "x.ckpt").content, CONTENT)  # the control
    return tmp_path / "x.ckpt"


def rewrite(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(change(path.read_bytes()))


def in_archive(path: Path) -> None:
    data = path.read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("run/best.ckpt", data)


def in_tar(path: Path) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.add(path, "best.ckpt")
    path.write_bytes(data.getvalue())


def in_tar_gz(path: Path) -> None:
    in_tar(path)
    path.write_bytes(gzip.compress(path.read_bytes()))


def arrays(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3))


def script(path: Path) -> None:
    path.unlink()
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))


def unpacked(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        archive.extractall(path.parent / "all")
    next((path.parent / "all").iterdir()).rename(path)


def older_cut(path: Path) -> None:
    torch.save(CONTENT, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-9])


def a_folder(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.mkdir()
    (path / "best.ckpt").write_bytes(data)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
PAGE = b"<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title>"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: p.write_bytes(b""), "the file is empty (0 bytes)"),
        (lambda p: p.write_bytes(PAGE), "it is a web page"),
        (lambda p: p.write_bytes(b"\xef\xbb\xbf\r\n" + PAGE.lower()), "it is a web page"),
        (lambda p: p.write_bytes(gzip.compress(PAGE)), "a gzip file of a web page"),
        (lambda p: p.write_bytes(LFS), "a pointer of Git LFS"),
        (lambda p: p.write_bytes(LFS), "git lfs pull"),
        (lambda p: p.write_bytes(b"epoch,loss\n0,1\n"), "it is text ('epoch,loss' …)"),
        (lambda p: p.write_bytes(json.dumps({"a": 1}).encode()), "it is text"),
        (lambda p: p.write_bytes(bytes(5000)), "it begins with zeros"),
        (rewrite(lambda d: d[: len(d) // 2]), "it ends too early"),
        (rewrite(lambda d: d[:-1]), "it ends too early"),
        (lambda p: p.write_bytes(gzip.compress(p.read_bytes())[:-9]), "it ends too early"),
        (rewrite(lambda d: d.replace(b"\x00\x00\x80?", b"\x00\x00\x81?", 1)), "checksum"),
        (in_archive, "it is an archive (run/best.ckpt); unpack it, and give run/best.ckpt"),
        (in_tar, "it is a tar archive; unpack it"),
        (in_tar_gz, "it is a gzip file of a tar archive; unpack it"),
        (arrays, "it is an archive of numpy arrays (a.npy)"),
        (lambda p: p.write_bytes(b"\x93NUMPY\x01\x00"), "an array of numpy"),
        (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n"), "an HDF5 file"),
        (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n"), "a PNG image"),
        (lambda p: p.write_bytes(b"Rar!\x1a\x07"), "a RAR archive; unpack it"),
        (lambda p: p.write_bytes(b"\x28\xb5\x2f\xfdxx"), "packed with zstd"),
        (script, "a TorchScript archive"),
        (script, "torch.jit.load(FILE).state_dict()"),
        (unpacked, "unpacked as a ZIP archive"),
        (a_folder, "a folder; give one of the files in it: best.ckpt"),
        (lambda p: p.unlink(), "no such checkpoint"),
        (lambda p: (p.unlink(), os.mkfifo(p)), "not a checkpoint file"),
        (lambda p: p.write_bytes(pickle.dumps(CONTENT)), "another pickle protocol"),
        (lambda p: p.write_bytes(pickle.dumps(CONTENT, protocol=2)), "holds a Python object"),
        (lambda p: p.write_bytes(pickle.dumps({"a": 1}, protocol=5)), "pickle protocol"),
        (lambda p: torch.save(CONTENT, p, pickle_protocol=4), "another pickle protocol"),
        (lambda p: p.write_bytes(b"\x80\x02}q"), "a pickle, but not of torch.save"),
        (older_cut, "it ends too early"),
    ],
)
def test_what_a_file_is_instead(
    damage: Callable[[Path], object], words: str, path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what makes the file
        damage(path)
    with warnings.catch_warnings(), pytest.raises(UserError) as caught:
        warnings.simplefilter("error")  # one would be a line on the user's terminal
        read_weight_file(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and words in text and "\n" not in text
    assert capfd.readouterr() == ("", "")


# ---------------------------------------------------------------- no code


class Calls:
    """Unpickling it would call a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


class Marked:
    """Unpickling it would run a method of its class."""

    ran = False

    def __init__(self) -> None:
        self.weight = torch.ones(2)

    def __setstate__(self, state: Any) -> None:
        Marked.ran = True


def touched(path: Path) -> None:
    path.touch()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda target: Calls(os.mkdir, str(target)),
        lambda target: Calls(eval, f"open({str(target)!r}, 'w')"),
        lambda target: Calls(exec, f"open({str(target)!r}, 'w')"),
        lambda target: Calls(touched, target),
        lambda target: Calls(io.open, str(target), "w"),
        lambda target: Calls(Calls, Calls(touched, target)),
        lambda target: [argparse.Namespace(a=1), Calls(touched, target)],
    ],
    ids=["mkdir", "eval", "exec", "own function", "open", "nested", "after an object"],
)
def test_calls_are_refused_and_never_made(
    make: Callable[[Path], Any], zipped: bool, tmp_path: Path
) -> None:
    target, path = tmp_path / "made", tmp_path / "x.ckpt"
    content = {**CONTENT, "extra": make(target)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"x\.ckpt: holds a Python object .*could run code"):
        read_weight_file(path)
    assert not target.exists()
    torch.load(path, weights_only=False)  # the control: it would have been made
    assert target.exists()


def test_an_object_is_kept_as_what_the_file_says_of_it(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    torch.save({**CONTENT, "extra": Marked(), "args": argparse.Namespace(lr=0.5)}, path)
    content, remarks = read_weight_file(path)
    assert same(content["state_dict"], CONTENT["state_dict"])
    extra = content["extra"]
    assert isinstance(extra, StandIn) and torch.equal(extra.state["weight"], torch.ones(2))
    assert content["args"].state == {"lr": 0.5} and not isinstance(extra, Marked)
    assert remarks == [f"Python objects left out ({Marked.__module__}.Marked, argparse.Namespace)"]
    assert not Marked.ran
    torch.load(path, weights_only=False)
    assert Marked.ran  # the control


def test_what_was_allowed_for_one_file_is_not_for_the_next(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    torch.save({"args": argparse.Namespace(lr=0.5)}, path)
    before = set(torch.serialization.get_safe_globals())
    read_weight_file(path)
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


# ---------------------------------------------------------------- safetensors


def file_of(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin: int, end: int, shape: Any = (2,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


class TestSafetensors:
    def test_bytes_by_hand(self, tmp_path: Path) -> None:
        path = tmp_path / "x.safetensors"
        header = {
            "__metadata__": {"a": "b"},
            "b": entry(8, 12, [2], "F16"),
            "a": entry(0, 8, [1, 2]),
        }
        header |= {"none": entry(12, 12, [0, 3]), "one": entry(12, 20, [], "I64")}
        data = struct.pack("<2f2eq", 1.5, -2.0, 0.5, 4.0, 7)
        path.write_bytes(file_of(header, data))
        found = read_safetensors(path)
        assert found["a"].tolist() == [[1.5, -2.0]]
        assert (found["b"].dtype, found["b"].tolist()) == (torch.float16, [0.5, 4.0])
        assert (found["none"].shape, found["one"].item()) == ((0, 3), 7)
        assert list(found) == ["b", "a", "none", "one"]

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (file_of({"a": entry(0, 8)}, bytes(7)), "cut short"),
            (file_of({"a": entry(0, 8)}, bytes(9)), "bytes follow"),
            (file_of({"a": entry(4, 12)}, bytes(12)), "overlap or leave gaps"),
            (file_of({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)), "overlap or leave gaps"),
            (file_of({"a": entry(0, 8, [3])}, bytes(8)), "a has 8 bytes, not 12"),
            (file_of({"a": entry(0, 8, [-2, -1])}, bytes(8)), "does not say where a is"),
            (file_of({"a": entry(8, 0)}, bytes(8)), "does not say where a is"),
            (file_of({"a": entry(0, 8, [2**61, 2**61])}, bytes(8)), "a has 8 bytes"),
            (file_of({"a": entry(0, 8, [True, 2])}, bytes(8)), "does not say where a is"),
            (file_of({"a": entry(0, 8, dtype="F33")}, bytes(8)), "unknown kind, F33"),
            (file_of({"a": entry(0, 8, dtype=["F32"])}, bytes(8)), "unknown kind"),
            (file_of({"a": [1]}, bytes(8)), "does not say where a is"),
            (file_of(b'{"a":1,"a":2}'), "is there twice"),
            (file_of(b'{"a": '), "as safetensors: "),
            (file_of(b'{"a":' * 5000), "as safetensors: "),
            (file_of(b'{"\xff": 1}'), "as safetensors: "),
            (file_of({"a": entry(0, 8)}, bytes(8), length=10**6), "header is cut short"),
        ],
    )
    def test_each_number_is_checked(self, data: bytes, words: str, tmp_path: Path) -> None:
        path = tmp_path / "x.safetensors"
        path.write_bytes(file_of({"a": entry(0, 8)}, bytes(8)))
        read_weight_file(path)  # the control
        path.write_bytes(data)
        with pytest.raises(UserError) as caught:
            read_weight_file(path)
        assert words in str(caught.value) and "\n" not in str(caught.value)

    def test_every_cut_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "x.safetensors"
        whole = safetensors_bytes({"a": torch.ones(3), "b": torch.ones(2)})
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            with pytest.raises(UserError):
                read_weight_file(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x", "no such checkpoint; in its folder there are: x.ckpt"),
        ("none/x.ckpt", "no such checkpoint"),
        ("x.ckpt/y", "no such checkpoint"),
    ],
)
def test_what_may_have_been_meant(name: str, words: str, path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_weight_file(path.parent / name)
    assert str(caught.value) == f"{path.parent / name}: {words}"


def test_addresses_and_home_folders() -> None:
    for text, words in (
        ("https://example.org/best.ckpt", "it is an address: download the file"),
        ("~/runs/best.ckpt", "the shell did not put your home folder in place of ~"),
    ):
        with pytest.raises(UserError, match=words):
            read_weight_file(Path(text))
