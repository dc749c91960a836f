"""The learnt bias, logits and sigmoids of pairs equal those of the references; weights without a bias have none."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from mclip_weights import small_base, write_mclip
from open_clip.transform import image_transform
from pictures import encode, photographs
from PIL import Image
from safetensors.torch import save_file
from scale_weights import FILES, LEARNT, PAIR, STORED, TEXTS, make_repository, state_with, write_safetensors
from transformers import SiglipConfig, SiglipModel

from clipmill.encoders import EncoderSpec, load_encoder, unload_all
from clipmill.encoders.encoder import Encoder
from clipmill.encoders.outcome import Vector
from clipmill.encoders.plans.ranking import Scorer
from clipmill.encoders.plans.scores import sigmoid
from clipmill.errors import SpecError, WeightsError
from clipmill.models.catalog import mclip
from clipmill.models.catalog.manifest import FILE, read_manifest, write_manifest
from clipmill.models.exporting import export_model
from clipmill.models.towers import find_source
from clipmill.models.towers.scales import clip_biases, clip_scales

BIAS = -1.7
"""The bias in the files here: not what constructors begin with (-9.5 and -10), and near enough to see each logit."""
SAME, VISIBLE = 1e-5, 1e-2


@pytest.fixture(autouse=True)
def _forget_models():
    yield
    unload_all()


def scores_of(encoder: Encoder, score: str, images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Return what a `Scorer` gives for each image and each text: its `clip_score`, or the logit of each pair."""
    scorer = Scorer(encoder, 100.0, score)
    left = [Vector(one, modality="image") for one in images]
    right = [Vector(one, modality="text") for one in texts]
    if score == "logit":
        return np.array([[logit for _, logit in scorer.pairs([one] * len(right), right)] for one in left])
    ranked = [sorted(scorer.rank(one, right), key=lambda each: each.position) for one in left]
    return np.array([[each.clip_score for each in row] for row in ranked])


# --- open_clip and transformers as references -------------------------------------------------------------------------


def test_logits_and_sigmoids_equal_open_clips(tmp_path: Path) -> None:
    """From files to scores; without the bias, with that of the configuration, or with another scale, they differ."""
    case = make_repository("with-a-bias", tmp_path, bias=BIAS)
    encoder = load_encoder(case.spec)
    files = [encode(array) for array in photographs().values()]
    prepare = image_transform(32, is_train=False)
    images = torch.stack([prepare(Image.open(io.BytesIO(file))) for file in files])
    with torch.inference_mode():
        logits = case.module.get_logits(images, open_clip.SimpleTokenizer(context_length=20)(TEXTS))[0]
    vectors = encoder.embed_images(files), encoder.embed_texts(TEXTS)
    assert encoder.learnt_biases == {PAIR: pytest.approx(BIAS, abs=1e-6)}
    np.testing.assert_allclose(scores_of(encoder, "logit", *vectors), logits.numpy(), atol=1e-4)
    expected = torch.sigmoid(logits.double()).numpy()
    assert np.abs(scores_of(encoder, "sigmoid", *vectors) - expected).max() <= SAME
    cosines = (logits.double().numpy() - BIAS) / encoder.learnt_scales[PAIR]
    for scale, bias in ((encoder.learnt_scales[PAIR], 0.0), (encoder.learnt_scales[PAIR], -9.5), (100.0, BIAS)):
        assert np.abs(sigmoid(scale * cosines + bias) - expected).max() > VISIBLE, "the comparison sees it"


def test_logits_and_sigmoids_equal_transformers(tmp_path: Path) -> None:
    """Scale and bias from the files of a `SiglipModel`, whose forward gives `logits_per_image`."""
    side = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**side, "vocab_size": 50, "max_position_embeddings": 12, "projection_size": 32}
    torch.manual_seed(0)
    vision = {**side, "image_size": 32, "patch_size": 8}
    module = SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval()
    with torch.no_grad():
        module.logit_scale.fill_(LEARNT)
        module.logit_bias.fill_(BIAS)
    module.save_pretrained(tmp_path)
    files = sorted(tmp_path.glob("*.safetensors"))
    ids, pixels = torch.randint(2, 50, (5, 12)), torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        found = module(input_ids=ids, pixel_values=pixels)
    (scale,), (bias,) = clip_scales(files).values(), clip_biases(files).values()
    encoder = load_encoder(f"fake::dim=32&scale={scale!r}&bias={bias!r}")
    vectors = found.image_embeds.numpy(), found.text_embeds.numpy()
    logits = found.logits_per_image.double()
    np.testing.assert_allclose(scores_of(encoder, "logit", *vectors), logits.numpy(), atol=1e-5)
    expected = torch.sigmoid(logits).numpy()
    assert np.abs(scores_of(encoder, "sigmoid", *vectors) - expected).max() <= SAME
    for other in (f"scale={scale!r}&bias=0", f"scale=10&bias={bias!r}"):
        wrong = scores_of(load_encoder(f"fake::dim=32&{other}"), "sigmoid", *vectors)
        assert np.abs(wrong - expected).max() > VISIBLE, "the comparison sees it"


# --- files ------------------------------------------------------------------------------------------------------------


def with_bias(*bias: float) -> dict:
    """A few tensors, the bias among them; the others must not be taken for it."""
    parameter = torch.tensor(bias[0] if len(bias) == 1 else bias)
    return {**state_with(LEARNT), "visual.logit_bias": torch.tensor(5.0), "logit_bias": parameter}


def biases_of_file(path: Path) -> dict:
    return dict(find_source(EncoderSpec(f"ViT-B-32::{path}")).biases())


@pytest.mark.parametrize("layout", [name for name in FILES if name != "torchscript"])
def test_the_bias_is_read_from_every_layout_of_a_file(layout: str, tmp_path: Path) -> None:
    """In the precision of the file; the archives of OpenAI, of CLIP alone, have none."""
    path = FILES[layout](with_bias(-12.93), tmp_path / "w.pt")
    stored = float(torch.tensor(-12.93).to(STORED.get(layout, torch.float32)))
    assert biases_of_file(path) == {PAIR: pytest.approx(stored, rel=1e-7)}


@pytest.mark.parametrize("layout", FILES)
def test_no_bias_is_invented(layout: str, tmp_path: Path) -> None:
    assert biases_of_file(FILES[layout](state_with(LEARNT), tmp_path / "w.pt")) == {}


@pytest.mark.parametrize("layout", ["safetensors", "safetensors-bfloat16", "pickle"])
@pytest.mark.parametrize(
    ("bias", "message"),
    [
        ((math.nan,), "'logit_bias' in .* is nan"),
        ((-math.inf,), "is -inf"),
        ((1.0, 2.0), r"has shape \(2,\); a learnt scale or bias must be one number"),
    ],
    ids=["nan", "inf", "shape"],
)
def test_an_invalid_bias_is_refused(layout: str, bias: tuple, message: str, tmp_path: Path) -> None:
    path = FILES[layout](with_bias(*bias), tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=message):
        biases_of_file(path)


def test_the_first_of_several_files_that_has_it(tmp_path: Path) -> None:
    names = ("a.safetensors", "b.safetensors")
    save_file({"w": torch.zeros(2)}, str(tmp_path / names[0]))
    save_file({"logit_bias": torch.tensor([BIAS])}, str(tmp_path / names[1]))
    files = [tmp_path / name for name in names]
    assert clip_biases(files) == clip_biases(files[::-1]) == {PAIR: pytest.approx(BIAS)}


def test_the_bias_of_mclip_is_that_of_the_image_tower(tmp_path: Path, monkeypatch) -> None:
    name = "M-CLIP/XLM-Roberta-Large-Vit-B-32"
    for base in list(mclip.BASES):
        monkeypatch.setitem(mclip.BASES, base, small_base(base))
    write_mclip(tmp_path / "text", mclip.MODELS[name].base, 512)
    path = write_safetensors(with_bias(BIAS), tmp_path / "vit")
    source = find_source(EncoderSpec(f"{name}::{tmp_path / 'text'}", image_weights=str(path)))
    assert source.biases() == {PAIR: pytest.approx(BIAS)}


# --- exported directories, the fake, custom encoders ------------------------------------------------------------------


def test_an_exported_directory_has_the_bias_of_its_model(tmp_path: Path) -> None:
    """Bit-identical; directories of earlier exports have none, and invalid ones are refused."""
    case = make_repository("with-a-bias", tmp_path / "cache", bias=BIAS)
    folder = tmp_path / "out"
    manifest = export_model(dataclasses.replace(case.spec, runtime="onnx"), folder)
    learnt = find_source(case.spec).biases()
    assert manifest["learnt_biases"] == {"image-text": learnt[PAIR]}
    assert json.loads((folder / FILE).read_text())["learnt_biases"] == manifest["learnt_biases"]
    spec = EncoderSpec(f"onnx:{folder}", device="cpu", runtime="onnx", precision="fp32")
    assert load_encoder(spec).learnt_biases == learnt == load_encoder(case.spec).learnt_biases
    for written, message in (
        ({"image-text": math.nan}, "the learnt bias of image and text is nan, not a finite number"),
        ({"image-sound": 1.0}, "learnt_biases has .*allowed are frozensets"),
        ([1.0], "learnt_biases is .*numbers by pair"),
    ):
        write_manifest(folder, {**read_manifest(folder), "learnt_biases": written})
        with pytest.raises(WeightsError, match=message):
            find_source(spec).biases()
    write_manifest(folder, {name: value for name, value in manifest.items() if name != "learnt_biases"})
    assert find_source(spec).biases() == {}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", {}),
        ("scale=7.5&bias=-2.5", {PAIR: -2.5}),
        (
            "modalities=text,image,audio&bias_at=3&bias_ai=0",
            {frozenset({"audio", "text"}): 3.0, frozenset({"audio", "image"}): 0.0},
        ),
    ],
)
def test_the_fake_has_the_given_biases(options: str, expected: dict) -> None:
    assert load_encoder(f"fake::{options}").learnt_biases == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("bias=x", "bias='x' is not a finite number"),
        ("bias=-inf", "bias='-inf' is not"),
        ("bias=nan", "bias='nan' is not"),
        ("bias_ai=2", "bias_ai is between audio and image; modalities=image,text"),
    ],
)
def test_an_invalid_fake_bias_is_refused_when_the_spec_is_made(options: str, message: str) -> None:
    with pytest.raises(SpecError, match=f"model 'fake::{options}': {message}"):
        EncoderSpec(f"fake::{options}")


OWN = """
import numpy as np
from clipmill.encoders import Model

PAIR = frozenset({"text", "image"})

class Silent(Model):
    dim, modalities = 4, frozenset({"text", "image"})
    def encode(self, modality, payloads):
        return np.ones((len(payloads), 4), np.float32)

class Biased(Silent):
    def learnt_scales(self):
        return {PAIR: 12.5}
    def learnt_biases(self):
        return {PAIR: np.float32(-1.5)}

class Wrong(Silent):
    def learnt_biases(self):
        return {PAIR: "much"}

class Unrelated:
    dim, modalities, device, resolved = 4, frozenset({"text"}), "cpu", {}
    prepare = encode = lambda *_: None
"""


def test_custom_encoders(tmp_path: Path, monkeypatch) -> None:
    """They have none by default, subclass or not; theirs are checked and returned as plain numbers."""
    (tmp_path / "own_biases.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("Silent", "Unrelated"):
        assert load_encoder(f"custom:own_biases:{name}").learnt_biases == {}
    biases = load_encoder("custom:own_biases:Biased").learnt_biases
    assert biases == {PAIR: -1.5} and type(biases[PAIR]) is float
    with pytest.raises(WeightsError, match="own_biases:Wrong: the learnt bias of image and text is 'much'"):
        _ = load_encoder("custom:own_biases:Wrong").learnt_biases
