"""jina-clip-v2 from its published layout: its vectors equal a reference in numpy and those of the published code."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

import jina_clip_weights
import numpy as np
import pytest
import torch
from hugging_face_weights import EXACT, TEXTS
from jina_clip_reference import Weights, image_vector, pixels, text_vector
from jina_clip_weights import PROCESSOR, SCALE, TASKS, drawn_state, write_config, write_model
from pictures import encode, photographs
from safetensors.torch import save_file
from tokenizers import Tokenizer
from weights import relative_error

from clipmill.datasets.tables.provenance import provenance_of
from clipmill.encoders import EncoderSpec, load_encoder, unload_all
from clipmill.errors import SpecError, WeightsError
from clipmill.models.catalog.hugging_face import read_config
from clipmill.models.exporting import export_model
from clipmill.models.towers.hugging_face import find_source

TOLERANCE = 1e-5
GRAPH_TOLERANCE = 1e-4
VISIBLE = 50 * GRAPH_TOLERANCE
LIMIT, CONTEXT = 512, 1024
WIDE = {"text__hidden_size": 512, "text_config__embed_dim": 512}

FIXED_IDS = [[0, 17, 250, 33, 2], [0, 400, 2, 1, 1]]
FIXED_COLUMNS = [0, 1, 20, 63]
FIXED_TEXTS = [
    [-0.7933732867240906, -1.5482059717178345, 2.155653953552246, 1.470678448677063],
    [-0.7391331195831299, -1.420273780822754, 2.120940923690796, 1.5386348962783813],
]
FIXED_IMAGES = [
    [0.8156394958496094, 0.2914482355117798, 0.6127715706825256, 0.01766340062022209],
    [0.17725339531898499, 0.13084958493709564, 0.9882789254188538, -0.04445740953087807],
]
"""Values of vectors that the published code (jinaai/jina-clip-implementation with jinaai/xlm-roberta-flash-
implementation, on transformers 4.48.3) returned for `drawn_state`, `CONFIG` with the rotary base of
jina-embeddings-v3 (20000), `FIXED_IDS`, and two images of `2 sin(0.37 n)`."""


@pytest.fixture(autouse=True)
def _forget_models():
    yield
    unload_all()


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("jina"))


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    pictures = photographs()
    first = next(iter(pictures.values()))
    found = [encode(array, "JPEG", quality=90) for array in pictures.values()]
    grey, clear = np.ascontiguousarray(first[:, :, 0]), np.dstack((first, first[:, :, 0]))
    return [*found, encode(first[:17, :290]), encode(first[:33, :32]), encode(grey), encode(clear)]


def _images(files: list[bytes], interpolation: str = "bicubic", **options: Any) -> np.ndarray:
    return np.stack([_image(file, interpolation, **options) for file in files])


@functools.cache
def _image(file: bytes, interpolation: str, **options: Any) -> np.ndarray:
    return image_vector(pixels(file, interpolation, PROCESSOR), Weights(drawn_state()), **options)


def _texts(
    directory: Path, texts: list[str], limit: int = LIMIT, task: str | None = TASKS[1], **options: Any
) -> np.ndarray:
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.enable_truncation(limit)
    return np.stack([_text(tuple(tokenizer.encode(text).ids), task, **options) for text in texts])


@functools.cache
def _text(ids: tuple[int, ...], task: str | None, **options: Any) -> np.ndarray:
    return text_vector(list(ids), Weights(drawn_state(), task), **options)


def test_vectors_equal_the_reference(directory: Path, files: list[bytes]) -> None:
    """Of photographs in several shapes, and of texts in one batch and alone."""
    encoder = load_encoder(f"hf:{directory}", **EXACT)
    assert encoder.dim == EncoderSpec(f"hf:{directory}").dim == 64
    assert relative_error(encoder.embed_images(files), _images(files)) <= TOLERANCE
    reference = _texts(directory, TEXTS)
    assert relative_error(encoder.embed_texts(TEXTS), reference) <= TOLERANCE
    assert relative_error(np.vstack([encoder.embed_texts([text]) for text in TEXTS]), reference) <= TOLERANCE


def test_vectors_equal_those_of_the_published_code(directory: Path) -> None:
    towers = find_source(EncoderSpec(f"hf:{directory}")).build()
    pixels = 2 * np.sin(np.arange(2 * 3 * 64 * 64).reshape(2, 3, 64, 64) * 0.37)
    with torch.inference_mode():
        texts = towers["text"](torch.tensor(FIXED_IDS)).numpy()
        images = towers["image"](torch.from_numpy(pixels.astype(np.float32))).numpy()
    assert np.allclose(texts[:, FIXED_COLUMNS], FIXED_TEXTS, rtol=0, atol=2e-5)
    assert np.allclose(images[:, FIXED_COLUMNS], FIXED_IMAGES, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "other",
    [
        {"base": 10000.0},
        {"rope": False},
        {"pooling": "first"},
        {"task": None},
        {"task": TASKS[0]},
    ],
    ids=str,
)
def test_negative_controls_of_texts_are_detected(directory: Path, other: dict) -> None:
    """Another base of the positions, no positions, another pooling, and no adapter or another one all differ."""
    texts = TEXTS[:4]
    ours = load_encoder(f"hf:{directory}", **EXACT).embed_texts(texts)
    assert relative_error(ours, _texts(directory, texts)) <= TOLERANCE
    assert relative_error(ours, _texts(directory, texts, **other)) > VISIBLE


@pytest.mark.parametrize(
    "other", [{"base": 20000.0}, {"rope": False}, {"stretched": False}, {"interpolation": "bilinear"}], ids=str
)
def test_negative_controls_of_images_are_detected(directory: Path, files: list[bytes], other: dict) -> None:
    """Another base of the positions, no positions, positions of another grid, and another resizing all differ."""
    ours = load_encoder(f"hf:{directory}", **EXACT).embed_images(files[:2])
    assert relative_error(ours, _images(files[:2])) <= TOLERANCE
    assert relative_error(ours, _images(files[:2], **other)) > VISIBLE


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_graphs_equal_the_reference(directory: Path, files: list[bytes], runtime: str) -> None:
    """In ONNX Runtime and OpenVINO, for texts of several lengths."""
    encoder = load_encoder(f"hf:{directory}", **{**EXACT, "runtime": runtime})
    assert relative_error(encoder.embed_images(files), _images(files)) <= GRAPH_TOLERANCE
    assert relative_error(encoder.embed_texts(TEXTS), _texts(directory, TEXTS)) <= GRAPH_TOLERANCE


def test_an_exported_directory_has_the_same_vectors(directory: Path, files: list[bytes], tmp_path: Path) -> None:
    """With its own copy of the tokenizer, and what the model was trained for."""
    export_model(EncoderSpec(f"hf:{directory}"), tmp_path / "exported")
    model = f"onnx:{tmp_path / 'exported'}"
    encoder = load_encoder(model, runtime="onnx", device="cpu", decode="exact")
    assert relative_error(encoder.embed_texts(TEXTS), _texts(directory, TEXTS)) <= GRAPH_TOLERANCE
    assert relative_error(encoder.embed_images(files), _images(files)) <= GRAPH_TOLERANCE
    assert EncoderSpec(model).facts.least_dimensions == 16


def test_texts_are_cut_at_the_published_limit(directory: Path) -> None:
    """At 512 tokens; at more if the spec says so, up to the context."""
    model, text = f"hf:{directory}", "a b c d " * 300
    short = load_encoder(model, **EXACT)
    assert [outcome.truncated for outcome in short.embed("text", [text, "a b"])] == [True, False]
    ours = short.embed_texts([text])
    assert relative_error(ours, _texts(directory, [text], LIMIT)) <= TOLERANCE
    assert relative_error(ours, _texts(directory, [text], LIMIT + 1)) > TOLERANCE
    unload_all()
    longer = load_encoder(model, **EXACT, max_text_tokens=CONTEXT).embed_texts([text])
    assert relative_error(longer, _texts(directory, [text], CONTEXT)) <= TOLERANCE
    assert relative_error(longer, ours) > TOLERANCE
    with pytest.raises(SpecError, match=f"at most {CONTEXT}"):
        load_encoder(model, **EXACT, max_text_tokens=CONTEXT + 1)


def test_the_whole_context_is_the_published_one(tmp_path: Path) -> None:
    """8192 tokens, of a configuration that leaves the text tower's sizes to jina-embeddings-v3."""
    own = jina_clip_weights.CONFIG["text_config"]["hf_model_config_kwargs"]
    kept = {name: own[name] for name in ("lora_adaptations", "lora_alpha", "lora_rank")}
    write_model(tmp_path)
    write_config(
        tmp_path,
        text_config__hf_model_config_kwargs=kept,
        text_config__embed_dim=1024,
        vision_config__embed_dim=1024,
        vision_config__width=1024,
    )
    facts = EncoderSpec(f"hf:{tmp_path}").facts
    assert (facts.dim, facts.context_length, facts.least_dimensions) == (1024, LIMIT, 16)
    assert read_config(str(tmp_path)).context_length == 8192


def test_the_provenance_says_where_texts_were_cut(directory: Path) -> None:
    limits = {None: LIMIT, LIMIT: LIMIT, CONTEXT: CONTEXT}
    for given, expected in limits.items():
        spec = EncoderSpec(f"hf:{directory}", max_text_tokens=given)
        assert provenance_of(spec, "text")["text"]["context_length"] == expected


def test_vectors_may_be_cut_to_what_the_model_was_trained_for(directory: Path) -> None:
    whole = load_encoder(f"hf:{directory}", **EXACT).embed_texts(TEXTS)
    assert np.array_equal(load_encoder(f"hf:{directory}", **EXACT, dimensions=16).embed_texts(TEXTS), whole[:, :16])
    with pytest.raises(SpecError, match="at least 16 of 64"):
        load_encoder(f"hf:{directory}", **EXACT, dimensions=15)


def test_neither_transformers_nor_published_code_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a pickled state dict, with the learnt scale in it, and beside code that would fail."""
    write_model(tmp_path, layout="bin")
    (tmp_path / "modeling_clip.py").write_text("raise SystemExit(3)")
    monkeypatch.setitem(sys.modules, "transformers", None)
    encoder = load_encoder(f"hf:{tmp_path}", **EXACT)
    assert relative_error(encoder.embed_texts(TEXTS[:2]), _texts(tmp_path, TEXTS[:2])) <= TOLERANCE
    assert encoder.learnt_scales == {frozenset({"text", "image"}): pytest.approx(np.exp(SCALE))}


def test_a_model_without_a_default_task_uses_no_adapter(tmp_path: Path) -> None:
    write_model(tmp_path, text_config__default_lora_task=None)
    ours = load_encoder(f"hf:{tmp_path}", **EXACT).embed_texts(TEXTS[:3])
    assert relative_error(ours, _texts(tmp_path, TEXTS[:3], task=None)) <= TOLERANCE


@pytest.mark.parametrize(
    ("part", "message"),
    [("mlp.fc1", "no LoRA adapter of 'text_model.layers.1.fc1.weight'"), ("word_embeddings", "word_embeddings")],
)
def test_weights_that_lack_an_adapter_are_refused(tmp_path: Path, part: str, message: str) -> None:
    """The weights without it would give other vectors."""
    write_model(tmp_path)
    state = drawn_state()
    lacking = [name for name in state if "lora_A" in name and part in name][-1]
    save_file({name: tensor for name, tensor in state.items() if name != lacking}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=message):
        load_encoder(f"hf:{tmp_path}", **EXACT)


def test_adapters_of_another_size_are_refused(tmp_path: Path) -> None:
    write_model(tmp_path)
    state = drawn_state()
    name = next(name for name in state if name.endswith("Wqkv.parametrizations.weight.0.lora_A"))
    state[name] = torch.zeros(2, 3, 64)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="LoRA adapters"):
        load_encoder(f"hf:{tmp_path}", **EXACT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_config__hf_model_name_or_path": "jinaai/jina-bert-flash-implementation"}, "jina-clip-v1.*jina-clip-v2"),
        ({"text_config__hf_model_name_or_path": "bert-base-uncased"}, "bert-base-uncased"),
        ({"text_config__default_instruction_task": "retrieval.query"}, "default_instruction_task"),
        ({"text_config__default_lora_task": "other"}, "lora_adaptations"),
        ({"text_config__pooler_type": "cls_pooler"}, "pooler_type of text_config is 'cls_pooler'"),
        ({"text_config__embed_dim": 48, "vision_config__embed_dim": 48}, "projections"),
        ({"text__position_embedding_type": "alibi"}, "only 'rotary'"),
        ({"text__num_attention_heads": 0}, "from 1 to"),
        ({"text__num_hidden_layers": 2**40}, "from 1 to 256"),
        ({"text__max_position_embeddings": 2**40}, "from 1 to"),
        ({"vision_config__mlp_ratio": 1e5}, "mlp_ratio"),
        ({"vision_config__patch_size": 128}, "at least patch_size"),
        ({"text__num_attention_heads": 5}, "num_attention_heads"),
        ({"text__rotary_emb_base": "x"}, "number above 0"),
        ({"text__vocab_size": 799}, "does not fit"),
        ({"text__pad_token_id": -1}, "pad_token_id"),
        ({"vision_config__subln": False}, "only True"),
        ({"vision_config__head_width": 24}, "head_width"),
        ({"vision_config__intp_freq": False}, "pt_hw_seq_len"),
        ({"vision_config__image_size": 70}, "70"),
        ({"add_projections": True}, "add_projections"),
        ({"truncate_dim": 32}, "truncate_dim"),
        ({"vision_config__image_size": 2**12, "vision_config__patch_size": 1}, "times head_width is 2"),
        ({"text__max_position_embeddings": 2**16, "text__num_attention_heads": 1, **WIDE}, "max_position_emb"),
        ({"matryoshka_dimensions": [0]}, "matryoshka_dimensions"),
        ({"matryoshka_dimensions": [96]}, "96"),
        ({"text_config": 3}, "must be an object"),
    ],
)
def test_what_is_not_supported_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    """With the setting, and what works."""
    write_model(tmp_path)
    write_config(tmp_path, **changes)
    with pytest.raises(WeightsError, match=message):
        load_encoder(f"hf:{tmp_path}", **EXACT)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("size", 32), ("size", True), ("resize_mode", "crop"), ("interpolation", "random")),
        *(("fill_color", 300), ("mean", [0.5]), ("std", "x"), ("image_processor_type", "OtherImageProcessor")),
    ],
)
def test_preprocessing_that_is_not_supported_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    write_model(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, name: value}))
    with pytest.raises(WeightsError, match=str(value) if isinstance(value, str) else name):
        load_encoder(f"hf:{tmp_path}", **EXACT)
