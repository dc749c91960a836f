"""The learnt scale equals that of the reference, and weights without a scale have none."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from hugging_face_weights import EXACT, Case, drawn_clip, small_config, write_model
from mclip_weights import small_base, write_mclip
from open_clip.transform import image_transform
from pictures import encode, photographs
from PIL import Image
from scale_weights import (
    AUDIO_IMAGE,
    AUDIO_TEXT,
    FILES,
    FP32,
    KINDS,
    LEARNT,
    PAIR,
    STORED,
    TEXTS,
    make_repository,
    state_with,
    write_audioclip,
    write_safetensors,
)
from transformers import CLIPModel

from clipmill.encoders import EncoderSpec, load_encoder, unload_all
from clipmill.encoders.plans.scores import score
from clipmill.errors import WeightsError
from clipmill.models.catalog import mclip
from clipmill.models.demo import demo_directory
from clipmill.models.towers import find_source
from clipmill.models.towers.scales import clip_scales

SAME, VISIBLE = 1e-6, 1e-2


@pytest.fixture(autouse=True)
def _forget_models():
    yield
    unload_all()


@pytest.mark.parametrize("kind", KINDS)
def test_clip_scores_equal_open_clips_own_softmax(kind: str, tmp_path: Path) -> None:
    """From files to scores, compared with open_clip's logits, also with a bias; 100 and the raw parameter differ."""
    case = make_repository(kind, tmp_path)
    encoder = load_encoder(case.spec)
    files = [encode(array) for array in photographs().values()]
    prepare = image_transform(32, is_train=False)
    images = torch.stack([prepare(Image.open(io.BytesIO(file))) for file in files])
    ids = open_clip.SimpleTokenizer(context_length=20)(TEXTS)
    with torch.inference_mode():
        left = torch.nn.functional.normalize(case.module.encode_image(images), dim=-1)
        right = torch.nn.functional.normalize(case.module.encode_text(ids), dim=-1)
        logits = case.module.logit_scale.exp() * left @ right.T
        if getattr(case.module, "logit_bias", None) is not None:
            logits += case.module.logit_bias
        if kind != "coca":  # which has no such method
            torch.testing.assert_close(case.module.get_logits(images, ids)[0], logits)
        expected = logits.softmax(dim=1).numpy()
    assert set(encoder.learnt_scales) == {PAIR}
    vectors = encoder.embed_images(files), encoder.embed_texts(TEXTS)

    def error(scale: float) -> float:
        return float(np.abs(score(*vectors, scale=scale).clip_score - expected).max())

    assert error(encoder.learnt_scales[PAIR]) <= 1e-4
    assert error(100.0) > VISIBLE and error(LEARNT) > VISIBLE, "the comparison sees another scale"


# --- open_clip's files ------------------------------------------------------------------------------------------------


def scales_of_file(path: Path) -> dict:
    return dict(find_source(EncoderSpec(f"ViT-B-32::{path}")).scales())


@pytest.mark.parametrize("layout", FILES)
def test_the_scale_is_read_from_every_layout_of_a_file(layout: str, tmp_path: Path) -> None:
    """In the precision of the file, as open_clip would load it."""
    path = FILES[layout](state_with(LEARNT), tmp_path / "w.pt")
    stored = torch.tensor(LEARNT).to(STORED.get(layout, torch.float32))
    scales = scales_of_file(path)
    assert set(scales) == {PAIR}
    assert scales[PAIR] == pytest.approx(float(stored.float().exp()), rel=SAME)
    if layout in STORED:
        assert scales[PAIR] != pytest.approx(math.exp(LEARNT), rel=SAME), "rounding is seen"
    other = FILES[layout](state_with(LEARNT + 0.5), tmp_path / "other.pt")
    assert scales_of_file(other)[PAIR] / scales[PAIR] == pytest.approx(math.exp(0.5), rel=VISIBLE)


def test_a_scale_over_100_is_not_clamped(tmp_path: Path) -> None:
    """Only OpenAI's training clamped it; open_clip does not when it scores."""
    path = write_safetensors(state_with(4.75), tmp_path / "w")
    assert scales_of_file(path)[PAIR] == pytest.approx(115.584, rel=1e-5)


@pytest.mark.parametrize("layout", ["safetensors", "pickle", "safetensors-module"])
def test_no_scale_is_invented(layout: str, tmp_path: Path) -> None:
    state = state_with(LEARNT)
    del state["logit_scale"]
    assert scales_of_file(FILES[layout](state, tmp_path / "w.pt")) == {}


@pytest.mark.parametrize("layout", ["safetensors", "safetensors-bfloat16", "pickle", "torchscript"])
@pytest.mark.parametrize(
    ("learnt", "message"),
    [
        ((math.nan,), "'logit_scale' in .* is nan"),
        ((math.inf,), "is inf"),
        ((-math.inf,), "is -inf"),
        ((100.0,), "is 100.0, whose exponential is not finite"),
        ((-800.0,), "is -8.*, whose exponential is not finite and above 0"),
        ((1.0, 2.0), r"has shape \(2,\); a learnt scale or bias must be one number"),
    ],
)
def test_an_invalid_parameter_is_refused(layout: str, learnt: tuple, message: str, tmp_path: Path) -> None:
    path = FILES[layout](state_with(*learnt), tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=message):
        scales_of_file(path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("w.safetensors", "cannot be read as weights"), ("w.pt", r"is damaged, or no file of torch\.save")],
)
def test_missing_and_invalid_files_are_named(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"no weights at .*{name}"):
        scales_of_file(tmp_path / name)
    (tmp_path / name).write_text("<html>" * 9)
    with pytest.raises(WeightsError, match=f"{name}' {reason}"):
        scales_of_file(tmp_path / name)


def test_it_is_read_once_and_only_when_needed(tmp_path: Path, monkeypatch) -> None:
    """A parameter of NaN affects no vectors; two encoders of one model read the file once."""
    broken = load_encoder(make_repository("plain", tmp_path / "nan", math.nan).spec)
    assert np.isfinite(broken.embed_texts(TEXTS)).all()
    with pytest.raises(WeightsError, match="is nan, perhaps from a failed training"):
        _ = broken.learnt_scales
    unload_all()
    reads = []
    from clipmill.models.towers import scales

    real = scales._from_safetensors
    monkeypatch.setattr(scales, "_from_safetensors", lambda path, names: (reads.append(path), real(path, names))[1])
    spec = make_repository("plain", tmp_path / "good").spec
    encoder = load_encoder(spec)
    encoder.embed_texts(TEXTS)
    assert reads == []
    assert encoder.learnt_scales is encoder.learnt_scales
    assert load_encoder(spec, normalize=True).learnt_scales == encoder.learnt_scales
    assert len(reads) == 1
    with pytest.raises(TypeError, match="does not support item assignment"):
        encoder.learnt_scales[PAIR] = 1.0


# --- the other families -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["safetensors", "sharded", "bin"])
def test_hugging_faces_logits(layout: str, tmp_path: Path) -> None:
    """In every layout; the clip_scores are the softmax of transformers' logits."""
    drawn = drawn_clip(small_config())
    with torch.no_grad():
        drawn.logit_scale.fill_(LEARNT)
    case = Case(write_model(tmp_path / "m", drawn, layout=layout), None)
    module = CLIPModel.from_pretrained(case.directory).eval()
    encoder = load_encoder(case.model, **EXACT)
    assert encoder.learnt_scales == {PAIR: pytest.approx(float(module.logit_scale.detach().exp()), rel=SAME)}
    source = find_source(EncoderSpec(case.model))
    assert (len(source.files) > 1) == (layout == "sharded")
    assert [bool(clip_scales((path,))) for path in source.files].count(True) == 1, "one part alone holds it"
    assert clip_scales(source.files) == clip_scales(source.files[::-1]) == encoder.learnt_scales
    files = [encode(array) for array in photographs().values()]
    ids = torch.tensor([np.pad(source.frontend.text.tokenizer(text)[0], (0, 50))[:50].tolist() for text in TEXTS])
    with torch.inference_mode():
        logits = module(input_ids=ids, pixel_values=case.reference_pixels(files)).logits_per_image
    vectors = encoder.embed_images(files), encoder.embed_texts(TEXTS)
    expected = logits.softmax(dim=1).numpy()
    for scale, equal in ((encoder.learnt_scales[PAIR], True), (100.0, False)):
        error = np.abs(score(*vectors, scale=scale).clip_score - expected).max()
        assert error <= 1e-4 if equal else error > VISIBLE


def test_hugging_face_weights_without_a_scale(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m", drawn_clip(small_config()), layout="bin")
    state = torch.load(directory / "pytorch_model.bin")
    del state["logit_scale"]
    torch.save(state, directory / "pytorch_model.bin")
    assert find_source(EncoderSpec(f"hf:{directory}")).scales() == {}


@pytest.mark.parametrize("has_scale", [True, False])
def test_the_scale_of_mclip_is_that_of_the_image_tower(has_scale: bool, tmp_path: Path, monkeypatch) -> None:
    """Its text tower was trained to match that CLIP; a scale in the text tower's file has no meaning."""
    name = "M-CLIP/XLM-Roberta-Large-Vit-B-32"
    for base in list(mclip.BASES):
        monkeypatch.setitem(mclip.BASES, base, small_base(base))
    directory = tmp_path / "text"
    write_mclip(directory, mclip.MODELS[name].base, 512)
    decoy = torch.load(directory / "pytorch_model.bin")
    torch.save({**decoy, "logit_scale": torch.tensor(1.0)}, directory / "pytorch_model.bin")
    state = state_with(LEARNT)
    if not has_scale:
        del state["logit_scale"]
    path = write_safetensors(state, tmp_path / "vit")
    source = find_source(EncoderSpec(f"{name}::{directory}", image_weights=str(path)))
    assert source.scales() == ({PAIR: pytest.approx(math.exp(LEARNT), rel=SAME)} if has_scale else {})


def bounded(parameter: float) -> float:
    """The formula of its `forward`, in torch."""
    return float(torch.clamp(torch.tensor(parameter).exp(), min=1.0, max=100.0))


@pytest.mark.parametrize(
    ("it", "ai", "at"), [(LEARNT, 3.9924, 4.5), (200.0, -0.7, LEARNT), (4.60517, 0.25, -3.0), (-200.0, 4.7, 1.5)]
)
def test_audioclips_three_scales(it: float, ai: float, at: float, tmp_path: Path) -> None:
    """Each pair has its own scale, clamped to 1 to 100 as in the reference."""
    spec = write_audioclip(tmp_path / "a.pt", logit_scale=it, logit_scale_ai=ai, logit_scale_at=at)
    found = find_source(spec).scales()
    expected = {PAIR: bounded(it), AUDIO_IMAGE: bounded(ai), AUDIO_TEXT: bounded(at)}
    assert found == {pair: pytest.approx(scale, rel=SAME) for pair, scale in expected.items()}
    assert len({round(scale, 3) for scale in expected.values()}) == 3, "a mixed-up pair is seen"


def test_audioclips_scales_reach_the_encoder(tmp_path: Path) -> None:
    spec = write_audioclip(tmp_path / "a.pt", logit_scale=LEARNT, logit_scale_ai=3.9924, logit_scale_at=5.0)
    scales = load_encoder(spec).learnt_scales
    assert {pair: round(scale, 2) for pair, scale in scales.items()} == {
        PAIR: 23.03,
        AUDIO_IMAGE: 54.18,
        AUDIO_TEXT: 100.0,
    }


def test_missing_and_invalid_scales_of_audioclip(tmp_path: Path) -> None:
    lean = write_audioclip(tmp_path / "lean.pt", logit_scale=LEARNT, logit_scale_ai=None, logit_scale_at=None)
    assert set(find_source(lean).scales()) == {PAIR}
    for number, value in enumerate((math.nan, math.inf, -math.inf)):
        spec = write_audioclip(tmp_path / f"{number}.pt", logit_scale_at=value)
        with pytest.raises(WeightsError, match=rf"'logit_scale_at' in .*{number}\.pt' is {value}"):
            find_source(spec).scales()


def test_the_demo_models() -> None:
    module = open_clip.create_model(f"local-dir:{demo_directory()}")
    found = load_encoder("demo", **FP32).learnt_scales
    assert found == {PAIR: pytest.approx(float(module.logit_scale.detach().exp()), rel=SAME)}
    assert 20 < found[PAIR] < 99, "neither what training began with nor the constant"
