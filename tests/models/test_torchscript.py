"""TorchScript archives: their tensors are read, and their programs are never run."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from torchscript_files import Layer, Network, changed_archive, write_archive

from clipmill.errors import WeightsError
from clipmill.models.towers.scales import clip_scales
from clipmill.models.towers.torchscript import read_archive
from clipmill.models.towers.weights import fit_weights, read_weights
from clipmill.models.weight_files import is_torchscript


class _Writes(torch.nn.Module):
    """A module whose program writes a file when it is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(2, 2))

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return (self.w, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        torch.ops.aten.save(state[0], "mark.pt")
        self.w = state[0]
        self.training = state[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.w


@pytest.mark.parametrize("traced", [False, True], ids=["scripted", "traced"])
def test_an_archive_gives_the_state_dict_that_torch_reads(traced: bool, tmp_path: Path) -> None:
    path = write_archive(Network(), tmp_path / "w.pt", traced=traced)
    expected = torch.jit.load(str(path)).state_dict()
    found = read_archive(path)
    assert found.keys() == expected.keys() and "attn_mask" not in found
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype, name


def test_buffers_of_old_archives_are_all_their_tensors(tmp_path: Path) -> None:
    """Programs of torch 1.4 do not list them."""
    path = changed_archive(
        write_archive(Layer(), tmp_path / "w.pt"), code=lambda text: text.replace(b"  __buffers__ = []\n", b"")
    )
    assert read_archive(path).keys() == {"linear.weight", "linear.bias", "empty"}


def test_the_program_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_archive(_Writes(), tmp_path / "w.pt")
    (tmp_path / "mark.pt").unlink(missing_ok=True)
    with pytest.raises(WeightsError):  # its state is whatever its program makes of it
        read_weights(path)
    assert not (tmp_path / "mark.pt").exists()
    torch.jit.load(str(path))
    assert (tmp_path / "mark.pt").exists()  # so it would have been


class _Call:
    def __init__(self, function: object, *arguments: object) -> None:
        self._parts = function, arguments

    def __reduce__(self) -> tuple:
        return self._parts


@pytest.mark.parametrize(
    "content",
    [
        _Call(os.mkdir, "mark"),
        _Call(eval, "__import__('os').mkdir('mark')"),
        _Call(getattr, "", "join"),
        _Call(torch.load, "mark"),
        _Call(torch.jit.load, "mark"),
        _Call(torch.hub.load, "owner/name", "mark"),
        {"state": _Call(shutil.copyfile, "w.pt", "mark")},
    ],
    ids=["mkdir", "eval", "getattr", "torch.load", "torch.jit.load", "torch.hub.load", "copyfile"],
)
def test_a_pickle_inside_calls_nothing(content: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = changed_archive(write_archive(Layer(), tmp_path / "w.pt"), pickled=pickle.dumps(content, protocol=2))
    assert is_torchscript(path)
    with pytest.raises(WeightsError, match="no part of plain weights"):
        read_weights(path)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"not a pickle",
        pickle.dumps([1, 2]),
        pickle.dumps(None),
        b"\x80\x02X\x07\x00\x00\x00storageQ.",
        b"\x80\x02(X\x07\x00\x00\x00storagecbuiltins\nobject\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ.",
        b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x05\x00\x00\x00../..X\x03\x00\x00\x00cpuK\x04tQ.",
        b"\x80\x02]r\xff\xff\xff\x7f.",
        b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",
    ],
    ids=["garbage", "list", "none", "no-storage", "other-type", "outside", "memory", "deep"],
)
def test_odd_pickles_are_no_weights(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(WeightsError):
        read_weights(changed_archive(write_archive(Layer(), tmp_path / "w.pt"), pickled=content))


def test_endless_modules_are_refused(tmp_path: Path) -> None:
    """A module that contains itself; and modules that each hold the next twice: 2 to the 40th paths."""
    named = b"c__torch__\nRoot\n)\x81"
    itself = b"\x80\x02" + named + b"q\x00}X\x01\x00\x00\x00ah\x00sb."
    chain = named + b"}b"
    for _ in range(40):
        chain += b"q\x01" + named + b"}(X\x01\x00\x00\x00ah\x01X\x01\x00\x00\x00bh\x01ub"
    code = b"class Root(Module):\n  __parameters__ = []\n  __buffers__ = []\n"
    for number, content in enumerate((itself, b"\x80\x02" + chain + b".")):
        path = write_archive(Layer(), tmp_path / f"{number}.pt")
        with pytest.raises(WeightsError, match="modules"):
            read_weights(changed_archive(path, pickled=content, code=lambda _: code))


def test_a_view_outside_of_its_storage_is_refused(tmp_path: Path) -> None:
    path = write_archive(Layer(), tmp_path / "w.pt")
    with zipfile.ZipFile(path) as archive:
        content = archive.read("w/data.pkl")
    assert content.count(b"(K\x02K\x03t") == 1
    for size in (b"K\xff", b"J\xff\xff\xff\x7f", b"J\xff\xff\xff\xff"):
        with pytest.raises(WeightsError):
            read_weights(changed_archive(path, pickled=content.replace(b"(K\x02K\x03t", b"(K\x02" + size + b"t", 1)))


def test_compressed_tensors_are_refused(tmp_path: Path) -> None:
    """A few kB could expand to any size."""
    path = write_archive(Layer(), tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="compressed"):
        read_weights(changed_archive(path, compress=True))


def test_a_shape_that_a_file_only_claims_is_not_made(tmp_path: Path) -> None:
    """One value that stands for 2 to the 50th would need 4 PiB."""
    torch.save({"weight": torch.ones(1).half().expand(2**50)}, tmp_path / "w.pt")
    for target in (torch.nn.Linear(2, 2), torch.nn.Identity()):
        with pytest.raises(WeightsError, match="does not fit the architecture"):
            fit_weights(target, read_weights(tmp_path / "w.pt"), tmp_path / "w.pt")
    torch.save({"logit_scale": torch.ones(1).half().expand(2**50)}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="must be one number"):
        clip_scales([tmp_path / "w.pt"])
