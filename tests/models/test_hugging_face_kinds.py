"""Models of transformers other than CLIP: their vectors equal those of transformers, and every comparison can fail."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_tokenizers
import torch
import transformers
from hugging_face_weights import EXACT, NEW_PROCESSOR, TEXTS, drawn, write_processor
from pictures import encode, photographs
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer
from weights import relative_error

from clipmill.encoders import EncoderSpec, load_encoder, unload_all
from clipmill.errors import SpecError, WeightsError
from clipmill.models.catalog.hugging_face import read_config
from clipmill.models.exporting import export_model

TOLERANCE = 1e-5
GRAPH_TOLERANCE = 1e-4
VISIBLE = 50 * GRAPH_TOLERANCE
LIMIT = 800
"""Words in the vocabularies of `tiny_tokenizers`."""

TOWER = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION = {**TOWER, "image_size": 32, "patch_size": 8}
SIGLIP_PROCESSOR = {
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "SiglipImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 224, "width": 224},
}
"""The settings of `google/siglip-base-patch16-224`, but bilinear as those of SigLIP 2."""
CHINESE_PROCESSOR = {
    "do_center_crop": False,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "ChineseCLIPFeatureExtractor",
    "image_mean": NEW_PROCESSOR["image_mean"],
    "image_std": NEW_PROCESSOR["image_std"],
    "resample": 3,
    "size": {"height": 224, "width": 224},
}
"""The settings of `OFA-Sys/chinese-clip-vit-base-patch16`."""


def _siglip_clean(text: str) -> str:
    return " ".join(text.lower().translate(str.maketrans("", "", string.punctuation)).split())


@dataclasses.dataclass(frozen=True)
class Published:
    """How a kind is published, in small, and how transformers' documentation uses it."""

    config: dict[str, Any]
    tokenizer: Callable[[], tiny_tokenizers.Made]
    processor: dict[str, Any]
    padding: dict[str, Any]
    clean: Callable[[str], str] = str


PUBLISHED = {
    "siglip": Published(
        {
            "model_type": "siglip",
            "text_config": {**TOWER, "vocab_size": LIMIT, "max_position_embeddings": 16},
            "vision_config": VISION,
        },
        tiny_tokenizers.sentencepiece,
        SIGLIP_PROCESSOR,
        {"padding": "max_length", "max_length": 16},
        _siglip_clean,
    ),
    "siglip2": Published(
        {
            "model_type": "siglip",
            "text_config": {**TOWER, "vocab_size": LIMIT, "max_position_embeddings": 16, "projection_size": 128},
            "vision_config": {**VISION, "hidden_size": 128},
        },
        tiny_tokenizers.gemma,
        SIGLIP_PROCESSOR,
        {"padding": "max_length", "max_length": 16},
        str.lower,
    ),
    "metaclip2": Published(
        {
            "model_type": "metaclip_2",
            "text_config": {**TOWER, "vocab_size": LIMIT, "eos_token_id": 2, "max_position_embeddings": 24},
            "vision_config": VISION,
            "projection_dim": 48,
        },
        tiny_tokenizers.xlm_roberta,
        NEW_PROCESSOR,
        {"padding": True, "max_length": 24},
    ),
    "chinese-clip": Published(
        {
            "model_type": "chinese_clip",
            "text_config": {**TOWER, "vocab_size": LIMIT, "max_position_embeddings": 128},
            "vision_config": VISION,
            "projection_dim": 48,
        },
        tiny_tokenizers.bert,
        CHINESE_PROCESSOR,
        {"padding": True, "max_length": 52},
    ),
    "altclip": Published(
        {
            "model_type": "altclip",
            "text_config": {**TOWER, "vocab_size": LIMIT, "max_position_embeddings": 130, "project_dim": 56},
            "vision_config": VISION,
            "projection_dim": 48,
        },
        tiny_tokenizers.xlm_roberta,
        NEW_PROCESSOR,
        {"padding": True, "max_length": 77},
    ),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A directory, and transformers' own model of it."""

    directory: Path
    module: Any
    published: Published

    @property
    def model(self) -> str:
        return f"hf:{self.directory}"

    def images(self, files: list[bytes]) -> torch.Tensor:
        processor = AutoImageProcessor.from_pretrained(self.directory, backend="pil")
        pixels = [
            processor(Image.open(io.BytesIO(file)).convert("RGB"), return_tensors="pt").pixel_values for file in files
        ]
        with torch.inference_mode():
            return self.module.get_image_features(torch.cat(pixels)).pooler_output

    def texts(self, texts: list[str], clean: Callable[[str], str] | None = None, **padding: Any) -> torch.Tensor:
        tokenizer = AutoTokenizer.from_pretrained(self.directory)
        cleaned = [(clean or self.published.clean)(text) for text in texts]
        options = {**self.published.padding, **padding}
        inputs = tokenizer(cleaned, truncation=True, return_tensors="pt", **options)
        accepted = {"input_ids", "attention_mask"} if self.published.padding["padding"] is True else {"input_ids"}
        with torch.inference_mode():
            given = {name: inputs[name] for name in accepted}
            return self.module.get_text_features(**given).pooler_output


@pytest.fixture(autouse=True)
def _forget_models():
    yield
    unload_all()


def _write(directory: Path, published: Published) -> Case:
    torch.manual_seed(0)
    config = AutoConfig.for_model(**published.config)
    module = drawn(transformers.AutoModel.from_config(config))
    with torch.no_grad():
        module.logit_scale.fill_(1.5)
    module.save_pretrained(directory)
    write_processor(directory, published.processor, 32)
    for name, content in tiny_tokenizers.files_of(published.tokenizer()).items():
        (directory / name).write_bytes(content)
    return Case(directory, module, published)


@pytest.fixture(scope="module", params=PUBLISHED)
def case(request, tmp_path_factory) -> Case:
    return _write(tmp_path_factory.mktemp(request.param), PUBLISHED[request.param])


@pytest.fixture(scope="module", params=[name for name in PUBLISHED if name != "siglip2"])
def graphed(request, tmp_path_factory) -> Case:
    """Every kind whose graphs are its own; those of SigLIP and SigLIP 2 are made in the same way."""
    return _write(tmp_path_factory.mktemp(request.param), PUBLISHED[request.param])


@pytest.fixture(scope="module")
def siglip(tmp_path_factory) -> Case:
    return _write(tmp_path_factory.mktemp("siglip"), PUBLISHED["siglip"])


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    pictures = photographs()
    first = next(iter(pictures.values()))
    found = [encode(array, "JPEG", quality=90) for array in pictures.values()]
    return [*found, encode(first[:17, :290]), encode(first[:33, :32]), encode(np.ascontiguousarray(first[:, :, 0]))]


def test_vectors_equal_the_reference(case: Case, files: list[bytes]) -> None:
    """Of photographs in several shapes, and of texts in one batch and alone."""
    encoder = load_encoder(case.model, **EXACT)
    assert encoder.dim == EncoderSpec(case.model).dim == case.images(files[:1]).shape[1]
    assert relative_error(encoder.embed_images(files), case.images(files)) <= TOLERANCE
    reference = case.texts(TEXTS)
    assert relative_error(encoder.embed_texts(TEXTS), reference) <= TOLERANCE
    assert relative_error(np.vstack([encoder.embed_texts([text]) for text in TEXTS]), reference) <= TOLERANCE


def test_negative_controls_are_detected(case: Case, files: list[bytes]) -> None:
    """Another padding or cleaning of texts, another pooling, and another resizing of images all differ."""
    encoder = load_encoder(case.model, **EXACT)
    ours = encoder.embed_texts(["Don't  STOP, now", "a photo of a cat"])
    texts = ["Don't  STOP, now", "a photo of a cat"]
    assert relative_error(ours, case.texts(texts)) <= TOLERANCE
    others = {
        "siglip": [lambda: case.texts(texts, padding=True), lambda: case.texts(texts, str)],
        "metaclip_2": [lambda: case.texts([f"{text} end" for text in texts])],
        "chinese_clip": [lambda: _pooled(case, texts, 1)],
        "altclip": [lambda: _pooled(case, texts, 1)],
    }[case.published.config["model_type"]]
    for other in others:
        assert relative_error(ours, other()) > VISIBLE
    vectors = encoder.embed_images(files[:2])
    altered = case.directory.parent / f"{case.directory.name}-altered"
    shutil.copytree(case.directory, altered)
    processor = {"image_mean": [0.4, 0.5, 0.6], "resample": 5 - case.published.processor["resample"]}
    for name, value in processor.items():
        write_processor(altered, {**case.published.processor, name: value}, 32)
        assert relative_error(vectors, dataclasses.replace(case, directory=altered).images(files[:2])) > VISIBLE


def _pooled(case: Case, texts: list[str], position: int) -> torch.Tensor:
    """Return the reference's vectors as if they were of another token."""
    tokenizer = AutoTokenizer.from_pretrained(case.directory)
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        found = case.module.text_model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask)
        return case.module.text_projection(found.last_hidden_state[:, position])


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_graphs_equal_the_reference(graphed: Case, files: list[bytes], runtime: str) -> None:
    """In ONNX Runtime and OpenVINO, for texts of several lengths."""
    encoder = load_encoder(graphed.model, **{**EXACT, "runtime": runtime})
    assert relative_error(encoder.embed_images(files), graphed.images(files)) <= GRAPH_TOLERANCE
    assert relative_error(encoder.embed_texts(TEXTS), graphed.texts(TEXTS)) <= GRAPH_TOLERANCE


def test_an_exported_directory_has_the_same_vectors(graphed: Case, files: list[bytes], tmp_path: Path) -> None:
    """With its own copy of the tokenizer, its cleaning and its padding."""
    export_model(EncoderSpec(graphed.model), tmp_path / "exported")
    encoder = load_encoder(f"onnx:{tmp_path / 'exported'}", runtime="onnx", device="cpu", decode="exact")
    assert relative_error(encoder.embed_texts(TEXTS), graphed.texts(TEXTS)) <= GRAPH_TOLERANCE
    assert relative_error(encoder.embed_images(files), graphed.images(files)) <= GRAPH_TOLERANCE


def test_texts_are_cut_where_the_training_cut_them(case: Case) -> None:
    """At the kind's own limit; up to the context if the spec says so, and no further."""
    limit, context = case.published.padding["max_length"], _context(case)
    encoder = load_encoder(case.model, **EXACT)
    assert [outcome.truncated for outcome in encoder.embed("text", ["a " * 200, "a b"])] == [True, False]
    if limit < context:
        unload_all()
        longer = load_encoder(case.model, **EXACT, max_text_tokens=context)
        text = "a b c d " * (context // 8 + 4)
        assert relative_error(longer.embed_texts([text]), case.texts([text], max_length=context)) <= TOLERANCE
        assert relative_error(longer.embed_texts([text]), encoder.embed_texts([text])) > VISIBLE
    with pytest.raises(SpecError, match=f"at most {context}"):
        load_encoder(case.model, **EXACT, max_text_tokens=context + 1)


def _context(case: Case) -> int:
    positions: int = case.published.config["text_config"]["max_position_embeddings"]
    return positions - 2 if case.published.config["model_type"] == "altclip" else positions


def test_vocabularies_of_bert_alone(tmp_path: Path) -> None:
    """As `OFA-Sys/chinese-clip-…` is published: a vocab.txt and no tokenizer.json."""
    case = _write(tmp_path, PUBLISHED["chinese-clip"])
    expected = load_encoder(case.model, **EXACT).embed_texts(["一张 cat 的照片", "Ünïcode NAÏVE"])
    words = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(words, key=words.get)) + "\n", encoding="utf-8")
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").unlink()
    unload_all()
    assert np.array_equal(load_encoder(case.model, **EXACT).embed_texts(["一张 cat 的照片", "Ünïcode NAÏVE"]), expected)


def _change(directory: Path, **changes: Any) -> None:
    config = json.loads((directory / "config.json").read_text())
    for name, value in changes.items():
        part, _, inner = name.partition("__")
        if inner:
            config[part][inner] = value
        else:
            config[part] = value
    (directory / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "siglip2"}, "NaFlex"),
        ({"model_type": "siglip_text_model"}, "text tower alone"),
        ({"model_type": "gpt2"}, "SiglipModel"),
        ({"text_config__projection_size": 32}, "32"),
        ({"text_config__pad_token_id": "x"}, "SiglipModel that transformers can build"),
        ({"vision_config__vision_use_head": False}, "vision_use_head"),
        ({"vision_config__image_size": 40}, "40"),
        ({"vision_config__image_size": [-5, -5]}, "image_size is -5"),
        ({"vision_config__image_size": [32.0, 32.0]}, r"image_size is 32\.0"),
        ({"vision_config__image_size": ["x", "x"]}, "image_size is 'x'"),
        ({"vision_config__image_size": [None, None]}, "image_size is"),
        ({"text_config__vocab_size": 799}, "does not fit"),
    ],
)
def test_what_does_not_fit_is_refused(siglip: Case, tmp_path: Path, changes: dict, message: str) -> None:
    """With the file and what is allowed; what is not read here, transformers refuses."""
    directory = tmp_path / "model"
    shutil.copytree(siglip.directory, directory)
    _change(directory, **changes)
    with pytest.raises(WeightsError, match=message):
        load_encoder(f"hf:{directory}", **EXACT)


@pytest.mark.parametrize("positions", [1, 2])
def test_a_text_tower_that_reads_no_token_is_refused(tmp_path: Path, positions: int) -> None:
    """Positions up to that of the padding are no token's."""
    config = {**PUBLISHED["altclip"].config}
    config["text_config"] = {**config["text_config"], "max_position_embeddings": positions, "pad_token_id": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=f"max_position_embeddings is {positions}, too few"):
        _ = read_config(str(tmp_path)).context_length


def test_a_tokenizer_without_its_padding_is_refused(siglip: Case, tmp_path: Path) -> None:
    """SigLIP's towers see the padding, so it is not guessed."""
    directory = tmp_path / "model"
    shutil.copytree(siglip.directory, directory)
    (directory / "tokenizer_config.json").write_text('{"pad_token": "<nothing>"}')
    with pytest.raises(WeightsError, match="<nothing>"):
        load_encoder(f"hf:{directory}", **EXACT)
    (directory / "tokenizer.json").unlink()
    with pytest.raises(WeightsError, match="base_tokenizer"):
        load_encoder(f"hf:{directory}", **EXACT)


def test_naflex_names_the_model_with_images_of_one_size() -> None:
    """By the repository's name, which the hub's copy has."""
    from clipmill.models.catalog.twins import twin_of

    assert twin_of("google/siglip2-base-patch16-naflex") == "ViT-B-16-SigLIP2-256::webli"
