"""AudioCLIP in ONNX Runtime and OpenVINO: the vectors of its towers in torch, from a directory without them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import audioclip_reference as reference
import numpy as np
import onnx
import pytest
import torch
from audioclip_reference import sound
from pictures import encode, photographs
from weights import relative_error

from clipmill.encoders import EncoderSpec, load_encoder, unload_all
from clipmill.errors import SpecError
from clipmill.models.exporting import export_model
from clipmill.models.runtimes import start_runtime
from clipmill.models.runtimes.store import Store
from clipmill.models.support_matrix import Combination
from clipmill.models.towers import audioclip_audio, audioclip_build, find_source

RATE = 44_100
TOLERANCE, VISIBLE = 1e-4, 1e-3
GRAPHS = ["onnx", "openvino"]
STAGES = tuple((1, width, outer) for _, width, outer in audioclip_audio._STAGES)
"""One block in every stage: a graph of the whole network has the same operations, and takes half a minute to make."""
LENGTHS = [1, 1_654, 1_655, 3_000, 8_001, 12_345, 22_222]
"""Samples: a single frame, two, and widths of all stages that are even and odd."""


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    """Random weights for the network with one block in every stage."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audioclip_audio, "_STAGES", STAGES)
        patch.setattr(reference, "_AUDIO_STAGES", tuple((1, *rest) for _, *rest in reference._AUDIO_STAGES))
        patch.setitem(audioclip_build._VISION, "layers", [1, 1, 1, 1])
        patch.setitem(audioclip_build._TEXT, "layers", 1)
        state, own = reference.draw(), audioclip_build.build_module().state_dict()
        path = tmp_path_factory.mktemp("weights") / "small.pt"
        torch.save({name: tensor for name, tensor in state.items() if name in own}, path)
        yield path
        unload_all()
        path.unlink()


@pytest.fixture(scope="module")
def directory(path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "audioclip"
    export_model(EncoderSpec(f"AudioCLIP::{path}"), folder)
    return folder


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    """Mono and stereo clips of every length."""
    mono = [sound(seed, samples) for seed, samples in enumerate(LENGTHS)]
    return [*mono, np.stack([sound(8, 9_999), sound(9, 9_999)])]


@pytest.mark.parametrize("runtime", GRAPHS)
def test_an_exported_directory_gives_the_vectors_of_the_towers(path, directory, clips, runtime) -> None:
    """Of audio of all lengths, one and two channels, of images and of texts; another clip is far from each."""
    towers = load_encoder(f"AudioCLIP::{path}", device="cpu", runtime="torch", precision="fp32")
    graphs = load_encoder(f"onnx:{directory}", device="cpu", runtime=runtime)
    assert (graphs.resolved["runtime"], graphs.resolved["precision"]) == (runtime, "fp32")
    assert graphs.spec.modalities == {"text", "image", "audio"}
    given = [(clip, RATE) for clip in clips]
    right = towers.embed_audios(given)
    assert relative_error(graphs.embed_audios(given), right) <= TOLERANCE
    pictures = [encode(array, "JPEG", quality=90) for array in list(photographs().values())[:2]]
    assert relative_error(graphs.embed_images(pictures), towers.embed_images(pictures)) <= TOLERANCE
    texts = ["cat", "an alarm clock, ringing", "word " * 200]
    assert relative_error(graphs.embed_texts(texts), towers.embed_texts(texts)) <= TOLERANCE
    assert graphs.learnt_scales == towers.learnt_scales
    for one, other in itertools.combinations(right, 2):
        assert relative_error(one[None], other[None]) > VISIBLE


@pytest.mark.parametrize("runtime", GRAPHS)
def test_a_clip_has_the_same_vector_in_a_batch_and_alone(directory, runtime) -> None:
    graphs = load_encoder(f"onnx:{directory}", device="cpu", runtime=runtime)
    given = [(sound(seed, 7_000), RATE) for seed in range(5)]
    together = graphs.embed_audios(given)
    assert relative_error(together, np.concatenate([graphs.embed_audios([one]) for one in given])) <= 1e-5


def test_a_graph_that_pools_to_other_windows_is_detected(path, clips, monkeypatch) -> None:
    """Every value of a stage takes part in the attention to the next."""
    right = load_encoder(f"AudioCLIP::{path}", device="cpu", runtime="torch", precision="fp32")
    expected = right.embed_audios([(clips[4], RATE)])
    tower = audioclip_build.build(path, "reference")["audio"]
    for attention in (tower.att2, tower.att3, tower.att4):
        attention.pool = lambda values: values[:, :, ::2, ::2]
    with torch.inference_mode():
        wrong = tower(torch.from_numpy(clips[4] * np.float32(32768 / 32767.5))[None, None]).numpy()
    assert relative_error(wrong, expected) > VISIBLE


def test_auto_takes_graphs(path) -> None:
    """The check on probes finds float32 graphs close enough."""
    encoder = load_encoder(f"AudioCLIP::{path}", device="cpu", precision="fp32")
    assert encoder.resolved["runtime"] in GRAPHS


@pytest.mark.parametrize(
    "options",
    [
        {"runtime": "onnx", "precision": "int8"},
        {"runtime": "openvino", "precision": "int8"},
        {"runtime": "openvino", "precision": "bf16"},
        {"precision": "int8"},
    ],
)
@pytest.mark.parametrize("kind", ["towers", "directory"])
def test_reduced_precision_is_refused_in_graphs(path, directory, kind, options: dict[str, Any]) -> None:
    """Decibels of weak bins need float32; the message says what works."""
    name = f"AudioCLIP::{path}" if kind == "towers" else f"onnx:{directory}"
    with pytest.raises(SpecError) as refused:
        load_encoder(name, device="cpu", **options)
    allowed = str(refused.value).partition("it can in ")[2].split(", ")
    assert {"onnx fp32 on cpu", "openvino fp32 on cpu"} <= set(allowed)
    assert not {"onnx int8 on cpu", "openvino int8 on cpu", "openvino bf16 on cpu"} & set(allowed)


def test_an_export_in_reduced_precision_is_refused(path, tmp_path) -> None:
    with pytest.raises(SpecError, match="cannot be exported for onnx int8; it runs in onnx fp32, openvino fp32"):
        export_model(EncoderSpec(f"AudioCLIP::{path}", precision="int8"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_mode_of_jinas_executor_in_a_graph(path, clips) -> None:
    """The statistics of each clip, not of the batch."""
    source = find_source(EncoderSpec(f"AudioCLIP::{path}", mode="jina"))
    store = Store(source, None)
    store.__dict__["towers"] = {"audio": source.build()["audio"]}
    encode = [start_runtime(store, Combination(runtime, "fp32"), "cpu", 2).encode for runtime in ("onnx", "openvino")]
    tower = source.build()["audio"].eval()
    waves = np.stack([sound(seed, 12_345) for seed in range(3)])[:, None]
    with torch.inference_mode():
        right = tower(torch.from_numpy(waves)).numpy()
        alone = tower(torch.from_numpy(waves[:1])).numpy()
    assert relative_error(right[:1], alone) <= 1e-5
    for run in encode:
        assert relative_error(run("audio", (waves,)), right) <= TOLERANCE


def test_every_size_of_a_waveform_is_dynamic(directory) -> None:
    graph = onnx.load(str(directory / "audio.onnx"), load_external_data=False).graph
    (waveforms,) = graph.input
    assert [size.dim_param != "" for size in waveforms.type.tensor_type.shape.dim] == [True, True, True]
