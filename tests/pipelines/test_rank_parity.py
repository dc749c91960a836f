"""Ranks and scores equal those of open_clip on the same weights, in both directions; no work is done twice."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from contract import png
from open_clip.transform import image_transform
from pictures import encode, photographs
from PIL import Image
from planned import run_plan
from weights import drawn_module, write_safetensors

from clipmill.encoders import EncoderSpec, load_encoder, unload_all
from clipmill.encoders.plans.classify_plan import SUFFIX, ClassifyPlan
from clipmill.encoders.plans.embed_plan import ColumnPlan
from clipmill.encoders.plans.labels import LabelSet
from clipmill.encoders.plans.rank_plan import RankPlan
from clipmill.encoders.testing import read_log
from clipmill.metrics.stats import Stats

pytestmark = pytest.mark.usefixtures("small_architectures")

NAME = "ViT-B-32"
TOLERANCE = 1e-4
VISIBLE = 10 * TOLERANCE
TEXTS = ["a photo of a cat", "a red circle", "she smiled, with pain", "日本 🙂", "x", "word " * 90]
TEMPLATES = ["{}", "a photo of a {}.", "many, many drawings of one {}"]


@pytest.fixture(scope="module")
def module() -> torch.nn.Module:
    return drawn_module(NAME, quick_gelu=False)


@pytest.fixture(scope="module")
def spec(module, tmp_path_factory) -> Any:
    path: Path = write_safetensors(module, tmp_path_factory.mktemp("weights") / "open_clip_model.safetensors")
    yield EncoderSpec(f"{NAME}::{path}", device="cpu", runtime="torch", precision="fp32", decode="exact")
    unload_all()


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    return [encode(array[: 200 + 20 * n], "JPEG", quality=90) for n, array in enumerate(photographs().values())][:5]


def texts_of(module: torch.nn.Module, texts: list[str]) -> torch.Tensor:
    with torch.inference_mode():
        return module.encode_text(open_clip.get_tokenizer(NAME)(texts))


def images_of(module: torch.nn.Module, files: list[bytes], **transform: Any) -> torch.Tensor:
    prepare = image_transform(224, is_train=False, **transform)
    with torch.inference_mode():
        return module.encode_image(torch.stack([prepare(Image.open(io.BytesIO(file))) for file in files]))


def scores_of(queries: torch.Tensor, candidates: torch.Tensor, scale: float = 100.0) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines and clip_scores as open_clip's own example computes them."""
    unit = [vectors / vectors.norm(dim=-1, keepdim=True) for vectors in (queries, candidates)]
    cosines = unit[0] @ unit[1].T
    return cosines.numpy(), (scale * cosines).softmax(dim=-1).numpy()


def run(plan: Any, spec: EncoderSpec, rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], Stats]:
    """Do a plan to rows in one session; return what was added to each."""
    encoder, stats = load_encoder(spec), Stats()
    return [done.result.value for done in run_plan(plan, encoder, rows, stats)], stats


def ranked_scores(plan: RankPlan, spec: EncoderSpec, rows: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines and clip_scores of rows, in the candidates' order before; assert that they left sorted."""
    found, _ = run(plan, spec, rows)
    for values in found:
        assert all(one["failure"] is None for one in values["ranked"])
        clip_scores = [one["clip_score"] for one in values["ranked"]]
        assert clip_scores == sorted(clip_scores, reverse=True)
    lists = [sorted(values["ranked"], key=lambda one: one["position"]) for values in found]
    return tuple(np.array([[one[name] for one in each] for each in lists]) for name in ("cosine", "clip_score"))


def assert_equal_but_for(found: tuple[np.ndarray, np.ndarray], expected: tuple[np.ndarray, np.ndarray]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)


def misses(found: tuple[np.ndarray, np.ndarray], wrong: tuple[np.ndarray, np.ndarray]) -> bool:
    """Tell whether the clip_scores miss by far more than the tolerance."""
    return float(np.abs(found[1] - wrong[1]).max()) > VISIBLE


def test_pictures_to_texts(module, spec, files) -> None:
    """Cosines and clip_scores within 1e-4; another mean, another scale and the raw products miss."""
    plan = RankPlan("photo", "texts", "image", "text")
    found = ranked_scores(plan, spec, [{"photo": file, "texts": TEXTS} for file in files])
    images, texts = images_of(module, files), texts_of(module, TEXTS)
    assert_equal_but_for(found, scores_of(images, texts))
    assert misses(found, scores_of(images_of(module, files, mean=(0.5,) * 3, std=(0.5,) * 3), texts))
    assert misses(found, scores_of(images, texts, scale=50))
    assert misses(found, (found[0], (100 * images @ texts.T).softmax(dim=-1).numpy()))


def test_texts_to_pictures(module, spec, files) -> None:
    """The softmax is over the pictures of each text; over the texts of each picture it would be another."""
    plan = RankPlan("text", "photos", "text", "image")
    found = ranked_scores(plan, spec, [{"text": text, "photos": files} for text in TEXTS])
    images, texts = images_of(module, files), texts_of(module, TEXTS)
    assert_equal_but_for(found, scores_of(texts, images))
    assert misses(found, (found[0], scores_of(images, texts)[1].T))
    other = drawn_module(NAME, quick_gelu=True)
    assert misses(found, scores_of(texts_of(other, TEXTS), images_of(other, files)))


def test_the_scale_that_the_weights_hold(module, spec, files) -> None:
    """`scale="model"` is the exponential of `logit_scale`, which is not 100."""
    plan = RankPlan("photo", "texts", "image", "text", scale="model")
    found = ranked_scores(plan, spec, [{"photo": file, "texts": TEXTS} for file in files])
    images, texts = images_of(module, files), texts_of(module, TEXTS)
    learnt = float(module.logit_scale.detach().exp())
    assert_equal_but_for(found, scores_of(images, texts, learnt))
    assert misses(found, scores_of(images, texts, 100.0))


def test_labels_equal_a_zero_shot_classifier(module, spec, files) -> None:
    """Built as in open_clip's example: normalise, mean, normalise. One template alone misses."""
    labels = ["cat", "red circle", "street in the rain", "plate of food"]
    own = LabelSet.of(labels, templates=TEMPLATES, top_k=4)
    plan = ClassifyPlan(ColumnPlan.of({"photo": "image"}, suffix=SUFFIX), own)
    found, _ = run(plan, spec, [{"photo": file} for file in files])
    weights, plain = [], []
    for label in labels:
        vectors = texts_of(module, [template.replace("{}", label) for template in TEMPLATES])
        weights.append((vectors / vectors.norm(dim=-1, keepdim=True)).mean(dim=0))
        plain.append(vectors[0])
    expected = scores_of(images_of(module, files), torch.stack(weights))
    by_label = [{one["label"]: one for one in values["photo_labels"]} for values in found]
    ours = tuple(
        np.array([[each[label][n] for label in labels] for each in by_label]) for n in ("cosine", "clip_score")
    )
    assert_equal_but_for(ours, expected)
    assert misses(ours, scores_of(images_of(module, files), torch.stack(plain)))
    for values, clip_scores in zip(found, expected[1], strict=True):
        assert [one["label"] for one in values["photo_labels"]] == [labels[n] for n in np.argsort(-clip_scores)]


# --- work not done twice ---------------------------------------------------------------------------------------------


def test_many_pictures_and_the_same_labels(tmp_path) -> None:
    """30,000 candidates are 150 texts to encode; the pictures share micro-batches among themselves."""
    unload_all()
    labels = [f"{chr(97 + n % 26)}{n} label" for n in range(150)]
    pictures = [png(1, 1, (n % 256, n // 256, 0)) for n in range(200)]
    spec = EncoderSpec(f"fake::dim=8&log={tmp_path}", max_batch_rows=32)
    plan = RankPlan("photo", "labels", "image", "text", top_k=1)
    found, stats = run(plan, spec, [{"photo": picture, "labels": labels} for picture in pictures])
    assert len(found) == 200 and all(len(values["ranked"]) == 1 for values in found)
    log = read_log(tmp_path)
    assert {kind: sum(n for k, n in log.batches if k == kind) for kind in ("text", "image")} == {
        "text": 150,
        "image": 200,
    }
    assert stats.cache_misses == 350
    assert stats.cache_hits == 199 * 150
    assert len(log.batches) <= 350 / 32 + 10
