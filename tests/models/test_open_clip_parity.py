"""Vectors equal those of open_clip called directly, with sensitive weights, and every comparison can fail."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import image_transform
from pictures import encode, photographs
from PIL import Image
from weights import drawn_module, relative_error, write_safetensors

from clipmill.encoders import load_encoder, unload_all
from clipmill.errors import WeightsError

pytestmark = pytest.mark.usefixtures("small_architectures")

TEXTS = ["she smiled, with pain", "a photo of a cat", "ÜBER-straße 日本 🙂", "word " * 200, "&amp; it's", "x"]
TOLERANCE = 1e-4
VISIBLE = 1e-2
EXACT = {"device": "cpu", "precision": "fp32", "decode": "exact"}


@dataclasses.dataclass
class Case:
    """One architecture with its file of weights and its reference."""

    name: str
    quick_gelu: bool
    module: torch.nn.Module
    model: str

    def reference_images(self, files: list[bytes], **transform: object) -> torch.Tensor:
        size = self.module.visual.image_size
        prepare = image_transform(size[0] if isinstance(size, tuple) else size, is_train=False, **transform)
        with torch.inference_mode():
            return self.module.encode_image(torch.stack([prepare(Image.open(io.BytesIO(f))) for f in files]))

    def reference_texts(self, texts: list[str]) -> torch.Tensor:
        with torch.inference_mode():
            return self.module.encode_text(open_clip.get_tokenizer(self.name)(texts))


@pytest.fixture(scope="module", params=[("ViT-B-32", False), ("ViT-B-32", True), ("RN50", True)], ids=str)
def case(request, tmp_path_factory) -> Case:
    name, quick_gelu = request.param
    module = drawn_module(name, quick_gelu=quick_gelu)
    path = write_safetensors(module, tmp_path_factory.mktemp("weights") / "open_clip_model.safetensors")
    yield Case(name, quick_gelu, module, f"{name}{'-quickgelu' if quick_gelu else ''}::{path}")
    unload_all()


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    pictures = photographs()
    files = [encode(array, "JPEG", quality=90) for array in pictures.values()]
    first = next(iter(pictures.values()))
    gray = np.ascontiguousarray(first[:, :, 0])
    files += [encode(gray), encode(first[:17, :290]), encode(first[:1, :1]), encode(first[:301, :224])]
    palette, rgba = io.BytesIO(), io.BytesIO()
    Image.fromarray(first).quantize(64).save(palette, "GIF")
    Image.fromarray(np.dstack([first, gray])).save(rgba, "PNG")
    cmyk = io.BytesIO()
    Image.fromarray(first).convert("CMYK").save(cmyk, "JPEG")
    return [*files, palette.getvalue(), rgba.getvalue(), cmyk.getvalue()]


def test_images_equal_the_reference(case: Case, files: list[bytes]) -> None:
    """Encoded files of many modes and sizes: relative error at most 1e-4."""
    ours = load_encoder(case.model, **EXACT).embed_images(files)
    assert relative_error(ours, case.reference_images(files)) <= TOLERANCE


def test_fast_decoding_stays_near_the_reference(case: Case, files: list[bytes]) -> None:
    """Some values of its crops differ by a grey level."""
    ours = load_encoder(case.model, **{**EXACT, "decode": "fast"}).embed_images(files)
    expected = case.reference_images(files).numpy()
    cosines = (ours * expected).sum(axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() >= 0.999
    assert relative_error(ours, expected) > 1e-6, "it is another way"


def test_texts_equal_the_reference(case: Case) -> None:
    """Short, long, accented and emoji texts: relative error at most 1e-4."""
    ours = load_encoder(case.model, **EXACT).embed_texts(TEXTS)
    assert relative_error(ours, case.reference_texts(TEXTS)) <= TOLERANCE


def test_arrays_equal_their_files(case: Case) -> None:
    """A uint8 array, a float array and a Pillow image have the vector of the lossless file."""
    array = next(iter(photographs().values()))
    encoder = load_encoder(case.model, **EXACT)
    vectors = encoder.embed_images([encode(array), array, array.astype(np.float32) / 255, Image.fromarray(array)])
    assert relative_error(vectors[1:], np.repeat(vectors[:1], 3, axis=0)) <= 1e-6


def test_batch_size_and_order_do_not_matter(case: Case, files: list[bytes]) -> None:
    """One by one, in batches of three, and backwards: the same vectors."""
    files = files[-5:]
    whole = load_encoder(case.model, **EXACT).embed_images(files)
    threes = load_encoder(case.model, **EXACT, max_batch_rows=3).embed_images(files)
    ones = load_encoder(case.model, **EXACT, max_batch_rows=1).embed_images(files[::-1])[::-1]
    assert relative_error(threes, whole) <= 1e-5
    assert relative_error(ones, whole) <= 1e-5


def test_negative_controls_are_detected(case: Case, files: list[bytes]) -> None:
    """The other activation, another mean and std, and swapped channels all differ by far more than the tolerance."""
    ours = load_encoder(case.model, **EXACT).embed_images(files[:4])
    half = case.reference_images(files[:4], mean=(0.5,) * 3, std=(0.5,) * 3)
    assert relative_error(ours, half) > VISIBLE
    swapped = [encode(np.ascontiguousarray(np.array(Image.open(io.BytesIO(f)))[:, :, ::-1])) for f in files[:4]]
    assert relative_error(ours, case.reference_images(swapped)) > VISIBLE
    other = drawn_module(case.name, quick_gelu=not case.quick_gelu)
    texts = load_encoder(case.model, **EXACT).embed_texts(TEXTS)
    with torch.inference_mode():
        assert relative_error(texts, other.encode_text(open_clip.get_tokenizer(case.name)(TEXTS))) > VISIBLE


def test_normalised_input_skips_the_normalisation(case: Case, files: list[bytes]) -> None:
    """With preprocess=False a (3, S, S) or (S, S, 3) float32 image has the vector of its file."""
    encoder = load_encoder(case.model, **EXACT, preprocess=False)
    prepare = image_transform(224, is_train=False)
    tensor = prepare(Image.open(io.BytesIO(files[0]))).numpy()
    vectors = encoder.embed_images([tensor, np.ascontiguousarray(tensor.transpose(1, 2, 0))])
    expected = case.reference_images(files[:1])
    assert relative_error(vectors, expected.repeat(2, 1)) <= TOLERANCE
    failure = encoder.embed("image", [tensor[:, :100]])[0]
    assert failure.code == "wrong_shape" and "(3, 224, 224)" in failure.message


def test_weights_that_do_not_fit_are_refused(case: Case, tmp_path) -> None:
    """A missing or unexpected name, and no file at all, are errors: random weights are never used."""
    state = dict(case.module.state_dict())
    state["visual.surprise"] = state.pop("ln_final.weight").clone()
    torch.save(state, tmp_path / "off.pt")
    with pytest.raises(WeightsError, match=r"1 names missing \['ln_final.weight'\], 1 unexpected"):
        load_encoder(f"{case.name}::{tmp_path / 'off.pt'}", device="cpu")
    with pytest.raises(WeightsError, match=r"no weights at .*random weights"):
        load_encoder(f"{case.name}::{tmp_path / 'none.pt'}", device="cpu")
