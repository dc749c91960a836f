"""A Hugging Face model's vectors equal those of transformers itself, and every comparison can fail."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pytest
import torch
from hugging_face_weights import (
    EXACT,
    NEW_PROCESSOR,
    OLD_PROCESSOR,
    TEXTS,
    Case,
    drawn_clip,
    small_config,
    write_model,
    write_processor,
    write_tokenizer,
)
from pictures import encode, photographs
from PIL import Image
from transformers import AutoTokenizer, CLIPModel
from weights import relative_error

from clipmill.encoders import EncoderSpec, load_encoder, unload_all
from clipmill.errors import SpecError, WeightsError

TOLERANCE = 1e-4
VISIBLE = 50 * TOLERANCE


VARIANTS = {
    "quick_gelu-eos2-old": ({"hidden_act": "quick_gelu", "eos_token_id": 2}, OLD_PROCESSOR, "bin"),
    "gelu-eos49407-new": ({"hidden_act": "gelu", "eos_token_id": 49407}, NEW_PROCESSOR, "safetensors"),
    "quick_gelu-eos49407-sharded": ({"hidden_act": "quick_gelu", "eos_token_id": 49407}, NEW_PROCESSOR, "sharded"),
}


@pytest.fixture(autouse=True)
def _forget_models():
    yield
    unload_all()


@pytest.fixture(scope="module", params=VARIANTS)
def case(request, tmp_path_factory) -> Case:
    options, processor, layout = VARIANTS[request.param]
    directory = tmp_path_factory.mktemp("model")
    write_model(directory, drawn_clip(small_config(**options)), processor=processor, layout=layout)
    return Case(directory, CLIPModel.from_pretrained(directory).eval())


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Case:
    directory = write_model(tmp_path_factory.mktemp("small"), drawn_clip(small_config()))
    return Case(directory, CLIPModel.from_pretrained(directory).eval())


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    pictures = photographs()
    first = next(iter(pictures.values()))
    gray = np.ascontiguousarray(first[:, :, 0])
    found = [encode(array, "JPEG", quality=90) for array in pictures.values()]
    found += [encode(gray), encode(first[:17, :290]), encode(first[:1, :1]), encode(first[:301, :224])]
    found += [encode(first[:65, :64]), encode(first[:67, :64]), encode(first[:64, :65])]
    found += [
        _saved(Image.fromarray(first).quantize(64), "GIF"),
        _saved(Image.fromarray(first).convert("CMYK"), "JPEG"),
    ]
    found += [
        _saved(Image.fromarray(np.dstack([first, gray])), "PNG"),
        _saved(Image.fromarray(gray).convert("1"), "PNG"),
    ]
    found += [_saved(Image.fromarray(np.dstack([gray, 255 - gray])), "PNG")]
    found += [_saved(Image.fromarray(first).quantize(16), "PNG", transparency=3)]
    return found


def _saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def test_images_equal_the_reference(case: Case, files: list[bytes]) -> None:
    """Encoded files of many modes (including transparent ones) and sizes: relative error at most 1e-4."""
    encoder = load_encoder(case.model, **EXACT)
    assert encoder.dim == case.module.config.projection_dim
    assert relative_error(encoder.embed_images(files), case.reference_images(files)) <= TOLERANCE


def test_texts_equal_the_reference(case: Case) -> None:
    """Short, long, accented and emoji texts and entities, in one batch and alone: relative error at most 1e-4."""
    encoder = load_encoder(case.model, **EXACT)
    reference = case.reference_texts(TEXTS)
    assert relative_error(encoder.embed_texts(TEXTS), reference) <= TOLERANCE
    assert relative_error(np.vstack([encoder.embed_texts([text]) for text in TEXTS]), reference) <= TOLERANCE


def test_negative_controls_are_detected(case: Case, files: list[bytes]) -> None:
    """The other activation, a second projection, another mean, and ignoring alpha all differ."""
    encoder = load_encoder(case.model, **EXACT)
    photos = files[:3]
    images, texts = encoder.embed_images(photos), encoder.embed_texts(TEXTS)
    config = case.module.config.to_dict()
    for tower in ("text_config", "vision_config"):
        config[tower]["hidden_act"] = {"gelu": "quick_gelu", "quick_gelu": "gelu"}[config[tower]["hidden_act"]]
    other = Case(case.directory, drawn_clip(config))
    other.module.load_state_dict(case.module.state_dict())
    assert relative_error(texts, other.reference_texts(TEXTS)) > VISIBLE
    assert relative_error(images, other.reference_images(photos)) > VISIBLE
    twice = torch.from_numpy(texts) @ case.module.text_projection.weight.detach().T
    assert relative_error(texts, twice) > VISIBLE
    assert relative_error(images, case.reference_images(photos, image_mean=[0.5] * 3)) > VISIBLE
    layered = [f for f in files if _has_alpha(Image.open(io.BytesIO(f)))]  # RGBA, grey with alpha, one palette colour
    opaque = [encode(np.array(Image.open(io.BytesIO(f)).convert("RGB"))) for f in layered]
    assert len(layered) == 3 and relative_error(encoder.embed_images(layered), case.reference_images(opaque)) > VISIBLE


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA") or "transparency" in image.info


def test_crops_have_the_offsets_of_the_reference(small: Case) -> None:
    """Half a pixel is rounded down, and images are converted to RGB before resizing, as in transformers."""
    from clipmill.media.preprocess import crop_image

    ours = EncoderSpec(small.model).facts.preprocessing
    picture = photographs()["astronaut"]
    for height in (65, 67, 69, 71):
        image = Image.fromarray(picture[:height, :64])
        expected = _grey_levels(small.reference_pixels([encode(picture[:height, :64])])[0])
        assert np.abs(crop_image(image, ours) - expected).max() < 0.01
    image = Image.fromarray(picture[:67, :64])
    expected = _grey_levels(small.reference_pixels([encode(picture[:67, :64])])[0])
    assert np.abs(crop_image(image, dataclasses.replace(ours, crop_offset="even")) - expected).max() > 5
    ribbon = np.tile(picture[:3], (1, 12, 1))  # so long that it is resized only inside the crop
    expected = _grey_levels(small.reference_pixels([encode(ribbon)])[0])
    assert np.abs(crop_image(Image.fromarray(ribbon), ours) - expected).max() < 1.01
    palette = Image.fromarray(picture).quantize(64)
    expected = _grey_levels(small.reference_pixels([_saved(palette, "PNG")])[0])
    assert np.abs(crop_image(palette, ours) - expected).max() < 0.01
    assert np.abs(crop_image(palette, dataclasses.replace(ours, rgb="last")) - expected).max() > 5


def _grey_levels(pixels: torch.Tensor) -> np.ndarray:
    """Invert a reference's normalisation: (3, S, S) to (S, S, 3), 0 to 255."""
    mean, std = torch.tensor(NEW_PROCESSOR["image_mean"]), torch.tensor(NEW_PROCESSOR["image_std"])
    return ((pixels.permute(1, 2, 0) * std + mean) * 255).numpy()


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"size": {"shortest_edge": 96}}, True),
        ({"size": {"height": 64, "width": 64}, "do_center_crop": False}, True),
        ({"size": {"height": 80, "width": 80}}, True),
        ({"size": [64, 64], "crop_size": [64, 64]}, True),
        ({"size": 64, "crop_size": 64, "do_pad": None}, False),
        ({"resample": 2}, True),
        ({"do_normalize": False}, True),
        ({"do_convert_rgb": False}, False),
        ({"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}, True),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("nested", [False, True], ids=["own-file", "processor_config"])
def test_settings_of_image_processors_are_used(small: Case, tmp_path, changes, differs: bool, nested: bool) -> None:
    """Supported settings give the reference's pixels, in preprocessor_config.json and in processor_config.json."""
    settings = {**NEW_PROCESSOR, **changes}
    config = (small.directory / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    write_processor(tmp_path, settings, 64)
    reference = Case(tmp_path, small.module)
    pictures = [encode(array[:333, :250]) for array in photographs().values()]
    expected = reference.reference_images(pictures)
    if nested:
        written = json.loads((tmp_path / "preprocessor_config.json").read_text())
        (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": written}))
        write_processor(tmp_path, {**NEW_PROCESSOR, "do_normalize": False, "resample": 2}, 64)
    spec = EncoderSpec(small.model, base_image_processor=str(tmp_path), **EXACT)
    assert relative_error(load_encoder(spec).embed_images(pictures), expected) <= TOLERANCE
    unload_all()
    plain = load_encoder(small.model, **EXACT).embed_images(pictures)
    assert (relative_error(plain, expected) > 10 * TOLERANCE) is differs


@pytest.mark.parametrize(
    "changes",
    [
        {"do_resize": False},
        {"do_rescale": False},
        {"rescale_factor": 0.5},
        {"resample": 0},
        {"do_center_crop": False},
        {"do_pad": True},
        {"crop_size": {"height": 64, "width": 32}},
        {"crop_size": 32, "size": 32},
        {"crop_size": 64, "size": 32},
        {"size": {"shortest_edge": 64, "longest_edge": 128}},
        {"size": {"longest_edge": 64}},
        {"image_mean": 0.5},
        {"image_mean": None},
        {"size": None},
        {"image_processor_type": "ViTImageProcessor"},
    ],
    ids=lambda changes: "-".join(f"{name}" for name in changes),
)
def test_unsupported_image_processors_are_refused(small: Case, tmp_path, changes: dict) -> None:
    """The message has the file, the setting, its value and the allowed values; nothing is guessed."""
    write_processor(tmp_path, {**NEW_PROCESSOR, **changes}, 64)
    with pytest.raises(WeightsError) as error:
        _ = EncoderSpec(small.model, base_image_processor=str(tmp_path)).dim
    assert (
        next(iter(changes)) in str(error.value) and "allowed" in str(error.value) and str(tmp_path) in str(error.value)
    )


@pytest.mark.parametrize("whole", [True, False], ids=["tokenizer.json", "vocab.json-merges.txt"])
def test_ids_equal_the_references(tmp_path, whole: bool) -> None:
    """Token by token, also for truncated texts, from either layout; and truncated texts are counted."""
    from clipmill.models.catalog.hugging_face import read_config
    from clipmill.models.tokenizers.hugging_face import find_tokenizer

    write_tokenizer(tmp_path, whole=whole)
    (tmp_path / "config.json").write_text(json.dumps(small_config()))
    ours = find_tokenizer(str(tmp_path), read_config(str(tmp_path)), 77, None)
    reference = AutoTokenizer.from_pretrained(tmp_path)
    texts = [*TEXTS, "<|endoftext|> and <|startoftext|>", "x" * 5000, "don't  stop\tNOW 1234", "e\u0301", "İ ﬁ"]
    for text in texts:
        ids, cut = ours(text)
        assert ids.tolist() == reference(text, max_length=77, truncation=True).input_ids
        assert cut == (len(reference(text).input_ids) > 77)


def test_long_texts_are_cut_and_counted(small: Case) -> None:
    """To the context of 77, or the limit in the spec; a limit above the context is an error."""
    texts = ["word " * 75, "word " * 76, "a b c d", "a b"]
    for limit, expected in ((None, [False, True, False, False]), (4, [True, True, True, False])):
        encoder = load_encoder(small.model, **EXACT, max_text_tokens=limit)
        outcomes = encoder.embed("text", texts)
        assert [outcome.truncated for outcome in outcomes] == expected
        tokenizer = AutoTokenizer.from_pretrained(small.directory)
        inputs = tokenizer(texts, padding=True, truncation=True, max_length=limit or 77, return_tensors="pt")
        with torch.inference_mode():
            reference = small.module.get_text_features(**inputs).pooler_output
        assert relative_error(np.stack([outcome.values for outcome in outcomes]), reference) <= TOLERANCE
        unload_all()
    with pytest.raises(SpecError, match="at most 77"):
        load_encoder(small.model, **EXACT, max_text_tokens=78)
