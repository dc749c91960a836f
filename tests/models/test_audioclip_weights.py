"""AudioCLIP's weight files: their content, and where they are found."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import audioclip_reference as reference
import pytest
import torch

from clipmill.encoders import EncoderSpec
from clipmill.errors import SpecError, UnknownModelError, WeightsError
from clipmill.models.towers import audioclip, find_source
from clipmill.models.towers.audioclip_build import build


@pytest.fixture
def state() -> reference.State:
    """Return the published layout with one value for each tensor, so that files of it are small."""
    values = {
        name: torch.tensor(0.5 + n / 1000).expand(shape) for n, (name, shape) in enumerate(reference.layout().items())
    }
    return {name: torch.tensor(1) if name.endswith("tracked") else value for name, value in values.items()}


@pytest.fixture
def path(state, tmp_path) -> Path:
    return saved(state, tmp_path / "AudioCLIP-Full-Training.pt")


def saved(state: reference.State, path: Path, *, without: tuple[str, ...] = (), **changed: torch.Tensor) -> Path:
    kept = {name: tensor for name, tensor in state.items() if not without or not name.endswith(without)}
    torch.save(kept | {name.replace("__", "."): tensor for name, tensor in changed.items()}, path)
    return path


def test_entries_that_published_files_may_lack(state, tmp_path) -> None:
    """The empty bias, and the batch norms' counters; all other entries are used."""
    lean = saved(state, tmp_path / "lean.pt", without=("fbsp.bias", "num_batches_tracked"))
    towers = build(lean, "reference")
    audio = towers["audio"].state_dict(prefix="audio.")
    assert audio.keys() == {name for name in reference.layout() if name.startswith("audio.")} - {"audio.fbsp.bias"}
    assert all(torch.equal(audio[name], state[name]) for name in audio if not name.endswith("tracked"))
    assert torch.equal(towers["text"].core.text_projection, state["text_projection"])


@pytest.mark.parametrize(
    ("without", "changed", "message"),
    [
        (("audio.fc.bias",), {}, r"1 names missing \['audio.fc.bias'\], 0 unexpected"),
        (("att5.bn.running_mean",), {}, r"1 names missing \['audio.att5.bn.running_mean'\]"),
        (("audio.window",), {}, r"1 names missing \['audio.window'\]"),
        ((), {"audio__surprise": torch.ones(1)}, r"0 names missing \[\], 1 unexpected \['audio.surprise'\]"),
        ((), {"audio__fbsp__bias": torch.ones(3)}, r"1 unexpected \['audio.fbsp.bias'\]"),
        ((), {"audio__fbsp__m": torch.ones(5)}, "does not fit the architecture.*audio.fbsp.m"),
    ],
)
def test_weights_that_do_not_fit_are_refused(state, tmp_path, without, changed, message) -> None:
    off = saved(state, tmp_path / "off.pt", without=without, **changed)
    with pytest.raises(WeightsError, match=f"(?s){message}"):
        build(off, "reference")


def test_wavelets_that_are_not_finite_are_refused(state, tmp_path) -> None:
    """A negative bandwidth has no square root; the message has the bins."""
    broken = torch.ones(1025)
    broken[7] = -1.0
    off = saved(state, tmp_path / "off.pt", audio__fbsp__fb=broken)
    with pytest.raises(WeightsError, match=r"1 of 1023 bins are not finite \(the first are \[7\]\)"):
        build(off, "reference")


# --- where they are found --------------------------------------------------------------------------------------------


def test_names() -> None:
    assert EncoderSpec("AudioCLIP").model == EncoderSpec("audioclip::FULL").model == "AudioCLIP::full"
    spec = EncoderSpec("AudioCLIP::partial", mode="jina")
    assert (spec.dim, spec.modalities) == (1024, {"text", "image", "audio"})
    assert Path(EncoderSpec("AudioCLIP::./own.pt").ref.weights).is_absolute()
    with pytest.raises(UnknownModelError, match="AudioCLIP::partial"):
        EncoderSpec("AudioCLIP::half")
    for typo in ("AudioCLIP:partial", "AudioCLIP:./own.pt", "AudioCLIP::"):  # never mistaken for the full one
        with pytest.raises(UnknownModelError, match="AudioCLIP"):
            EncoderSpec(typo)
    with pytest.raises(SpecError) as refused:
        EncoderSpec("ViT-B-32", mode="jina")
    assert refused.value.option == "mode"


def test_a_file_where_jinas_scripts_put_it_is_used_there(path, tmp_path, monkeypatch, caplog) -> None:
    """`.cache/` of the working directory, if it has the hash; another file of that name is skipped."""
    (tmp_path / ".cache").mkdir()
    there = tmp_path / ".cache" / "AudioCLIP-Full-Training.pt"
    there.symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"AudioCLIP-Full-Training\.pt is not in the cache"):
        find_source(EncoderSpec("AudioCLIP"))
    assert f"{there} is not used: its SHA-256 does not start with 2441d35b" in caplog.text
    own = find_source(EncoderSpec(f"AudioCLIP::{path}")).weights_sha256
    published = dataclasses.replace(audioclip.PUBLISHED["full"], sha256=own)
    monkeypatch.setitem(audioclip.PUBLISHED, "full", published)
    assert find_source(EncoderSpec("AudioCLIP")).files == (there,)


def test_other_published_weights_are_downloaded_with_their_hash(tmp_path, monkeypatch) -> None:
    asked: list[tuple] = []

    def fetch_url(url, *, sha256, cache_dir):
        asked.append((url, sha256, cache_dir))
        return tmp_path / url.rpartition("/")[2]

    monkeypatch.setattr(audioclip, "fetch_url", fetch_url)
    found = find_source(EncoderSpec("AudioCLIP::partial", cache_dir=str(tmp_path)))
    name = "AudioCLIP-Partial-Training.pt"
    url = f"https://github.com/AndreyGuzhov/AudioCLIP/releases/download/v0.1/{name}"
    digest = "1921885b6c3b5de0619f2ef4a9700ecbade758a398b34eb064230c30baef0c75"
    assert asked == [(url, digest, str(tmp_path))]
    assert found.files == (tmp_path / name,)


def test_max_text_tokens(path) -> None:
    tokenizer = find_source(EncoderSpec(f"AudioCLIP::{path}", max_text_tokens=5)).frontend.text.tokenizer
    assert len(tokenizer("a b c d e f g")[0]) == 5
    with pytest.raises(SpecError) as refused:
        find_source(EncoderSpec(f"AudioCLIP::{path}", max_text_tokens=78))
    assert refused.value.option == "max_text_tokens"


def test_finding_the_model_imports_no_torch() -> None:
    script = (
        "import sys; from clipmill.encoders import EncoderSpec; from clipmill.models.towers import find_source;"
        "source = find_source(EncoderSpec('AudioCLIP::/nowhere/model.pt'));"
        "assert source.runtimes == ('torch', 'onnx', 'openvino'), source.runtimes;"
        "print(sorted({'torch', 'open_clip', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"
