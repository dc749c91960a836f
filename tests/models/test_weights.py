"""Weight files: every published layout loads without running its code, and an unreachable hub is reported."""

from __future__ import annotations

import json
import pickle
import threading

import open_clip
import pytest
import torch
from weights import drawn_module, relative_error, write_safetensors

from clipmill.encoders import load_encoder, unload_all
from clipmill.errors import WeightsError
from clipmill.models import weight_files as files
from clipmill.models.towers.weights import empty_parameters, read_weights
from clipmill.models.weight_files import sha256_of

pytestmark = pytest.mark.usefixtures("small_architectures")

NAME = "ViT-B-32"
TEXTS = ["a photo of a cat", "she smiled, with pain"]
FP32 = {"device": "cpu", "runtime": "torch", "precision": "fp32"}


@pytest.fixture(scope="module")
def module() -> torch.nn.Module:
    return drawn_module(NAME, quick_gelu=True)


@pytest.fixture(autouse=True)
def _forget_models():
    yield
    unload_all()


def _reference(module: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return module.encode_text(open_clip.get_tokenizer(NAME)(TEXTS))


class _Archive(torch.nn.Module):
    """Like OpenAI's archives: parameters with the published names, mixed precision, three more entries."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        for name, tensor in module.state_dict().items():
            half = tensor.ndim >= 2 and "embedding" not in name
            _put(self, name, tensor.half() if half else tensor)
        for name, value in (("input_resolution", 224), ("context_length", 77), ("vocab_size", 49408)):
            self.register_buffer(name, torch.tensor(value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def _put(root: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    *path, leaf = name.split(".")
    for part in path:
        if not hasattr(root, part):
            root.add_module(part, torch.nn.Module())
        root = getattr(root, part)
    root.register_buffer(leaf, tensor.clone())


@pytest.mark.parametrize("layout", ["safetensors", "bare", "state_dict", "module-prefix"])
def test_published_layouts_load(layout: str, module: torch.nn.Module, tmp_path) -> None:
    """safetensors; a state dict at the top, under `state_dict`, or with the prefix `module.`."""
    path = tmp_path / ("w.safetensors" if layout == "safetensors" else "w.pt")
    state = module.state_dict()
    if layout == "safetensors":
        write_safetensors(module, path)
    elif layout == "bare":
        torch.save(dict(state), path)
    elif layout == "state_dict":
        torch.save({"epoch": 32, "state_dict": dict(state)}, path)
    else:
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
    vectors = load_encoder(f"{NAME}-quickgelu::{path}", **FP32).embed_texts(TEXTS)
    assert relative_error(vectors, _reference(module)) <= 1e-4


def test_openais_archive_is_quickgelu_under_either_name(module: torch.nn.Module, tmp_path) -> None:
    """A TorchScript archive has mixed precision and three more entries, and determines its activation."""
    torch.jit.script(_Archive(module)).save(str(tmp_path / "ViT-B-32.pt"))
    plain = load_encoder(f"{NAME}::{tmp_path}/ViT-B-32.pt", **FP32).embed_texts(TEXTS)
    named = load_encoder(f"{NAME}-quickgelu::{tmp_path}/ViT-B-32.pt", **FP32).embed_texts(TEXTS)
    assert relative_error(plain, named) == 0
    halves = drawn_module(NAME, quick_gelu=True)
    halves.load_state_dict({n: t.float() for n, t in _Archive(module).state_dict().items() if n in module.state_dict()})
    assert relative_error(plain, _reference(halves)) <= 1e-4
    assert relative_error(plain, _reference(module)) > 1e-6  # the float16 values come from the archive


class _Evil:
    def __reduce__(self):
        return (print, ("this must never be printed",))


def test_no_code_of_a_file_is_run(tmp_path, capsys) -> None:
    """A pickle that would call a function is refused."""
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"state_dict": _Evil()}))
    torch.save({"w": _Evil()}, tmp_path / "evil2.pt")
    reasons = {"evil.pt": r"is damaged, or no file of torch\.save", "evil2.pt": "holds objects made by code"}
    for name, reason in reasons.items():
        with pytest.raises(WeightsError, match=reason):
            read_weights(tmp_path / name)
    assert "never be printed" not in capsys.readouterr().out


def test_files_without_weights_are_named(tmp_path) -> None:
    """Another kind of file or object is an error with its name."""
    (tmp_path / "page.pt").write_text("<html>")
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("page.pt", "list.pt"):
        with pytest.raises(WeightsError, match=name):
            read_weights(tmp_path / name)


def test_another_architecture_is_refused(module: torch.nn.Module, tmp_path) -> None:
    """Different shapes are an error, never a partial load."""
    path = write_safetensors(module, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="does not fit the architecture"):
        load_encoder(f"ViT-B-16::{path}", **FP32)


def test_another_grid_is_refused(module: torch.nn.Module, tmp_path) -> None:
    """Positions of another image size are an error, never interpolated: the vectors would match no model."""
    state = dict(module.state_dict())
    state["visual.positional_embedding"] = torch.zeros(10 * 10 + 1, 768)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"(?s)does not fit the architecture.*visual\.positional_embedding"):
        load_encoder(f"{NAME}::{tmp_path}/w.pt", **FP32)


def test_networks_of_other_threads_are_not_affected() -> None:
    """With two models that load at once and an unrelated network, parameters are empty only inside the blocks."""
    first_is_in, first_may_go = threading.Event(), threading.Event()
    kinds: dict[str, str] = {}

    def build(name: str) -> None:
        with empty_parameters():
            first_is_in.set()
            first_may_go.wait(1)  # until the other thread waits for the lock
            kinds[name] = torch.nn.Linear(2, 2).weight.device.type

    threads = [threading.Thread(target=build, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    first_is_in.wait()
    kinds["unrelated"] = torch.nn.Linear(2, 2).weight.device.type
    first_may_go.set()
    for thread in threads:
        thread.join()
    kinds["later"] = torch.nn.Linear(2, 2).weight.device.type
    assert kinds == {"unrelated": "cpu", "one": "meta", "two": "meta", "later": "cpu"}


def test_a_file_that_changes_while_it_is_hashed_is_hashed_again(tmp_path, monkeypatch) -> None:
    """The hash of the old content is not stored for the new one."""
    path = tmp_path / "weights.bin"
    path.write_bytes(b"old")
    real = files.hashlib.file_digest

    def slowly(*arguments):
        digest = real(*arguments)
        path.write_bytes(b"newer")
        return digest

    with monkeypatch.context() as patch:
        patch.setattr(files.hashlib, "file_digest", slowly)
        before = sha256_of(path)
    assert sha256_of(path) != before


def test_the_hash_is_computed_once(tmp_path) -> None:
    """It is stored next to the file with size and time, and updated when the file changes."""
    path = tmp_path / "w.bin"
    path.write_bytes(b"abc")
    digest = sha256_of(path)
    note = tmp_path / ".w.bin.sha256"
    assert json.loads(note.read_text())["sha256"] == digest
    note.write_text(json.dumps({**json.loads(note.read_text()), "sha256": "remembered"}))
    assert sha256_of(path) == "remembered"
    path.write_bytes(b"abcd")
    assert sha256_of(path) not in (digest, "remembered")


@pytest.mark.parametrize("model", ["ViT-B-32::openai", "hf-hub:nobody/nothing"])
def test_weights_that_cannot_be_fetched_are_an_error(model: str, tmp_path, monkeypatch) -> None:
    """The message has host and repository; random weights are never used."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"could not be fetched from https://huggingface\.co") as caught:
        load_encoder(model, cache_dir=str(tmp_path), **FP32)
    assert str(tmp_path) in str(caught.value)


def test_a_missing_gpu_is_an_error() -> None:
    """There is no silent fallback to the CPU."""
    from clipmill.errors import DeviceError

    missing = f"cuda:{torch.cuda.device_count() + 7}"
    with pytest.raises(DeviceError) as refused:
        load_encoder("demo", device=missing)
    assert refused.value.option == "device"
