"""M-CLIP's vectors equal those of the backbone called directly, with an explicit mean; every comparison can fail."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mclip_weights import make_tokenizer, small_base, write_mclip
from open_clip.transform import image_transform
from pictures import photographs
from PIL import Image
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel
from weights import drawn_module, relative_error, write_safetensors

from clipmill.datasets.tables.provenance import differences, provenance_of
from clipmill.encoders import EncoderSpec, load_encoder, unload_all
from clipmill.errors import SpecError, UnknownModelError, WeightsError
from clipmill.models.catalog import mclip
from clipmill.models.towers import find_source

pytestmark = pytest.mark.usefixtures("small_architectures")

XLMR, LABSE = "M-CLIP/XLM-Roberta-Large-Vit-B-32", "M-CLIP/LABSE-Vit-L-14"
TEXTS = ["she smiled, with pain", "sie lächelte vor schmerz", "猫 写真", "x", "word " * 60, "eine katze & ÜBER 🙂"]
TOLERANCE = 1e-4
VISIBLE = 50 * TOLERANCE
EXACT = {"device": "cpu", "precision": "fp32", "runtime": "torch", "decode": "exact"}
PUBLISHED = dict(mclip.BASES)
CASES = {
    "xlm-roberta-bin": (XLMR, "bin", "stored"),
    "xlm-roberta-safetensors": (XLMR, "safetensors", "constructor"),
    "labse-bin": (LABSE, "bin", "constructor"),
}


@pytest.fixture(scope="module", autouse=True)
def _small_bases():
    """Make the text towers small; names, paths, keys and steps stay as published."""
    with pytest.MonkeyPatch.context() as patch:
        for base in list(mclip.BASES):
            patch.setitem(mclip.BASES, base, small_base(base))
        patch.setitem(
            mclip.MODELS, LABSE, dataclasses.replace(mclip.MODELS[LABSE], dim=512, image_architecture="ViT-B-32")
        )
        yield


@pytest.fixture(autouse=True)
def _forget_models():
    yield
    unload_all()


@pytest.fixture(scope="module")
def image_module() -> torch.nn.Module:
    return drawn_module("ViT-B-32", quick_gelu=True)


@pytest.fixture(scope="module")
def image_file(image_module, tmp_path_factory) -> Path:
    return write_safetensors(image_module, tmp_path_factory.mktemp("image") / "vit.safetensors")


@dataclasses.dataclass
class Case:
    """A directory, and its weights."""

    name: str
    directory: Path
    tower: torch.nn.Module
    image_file: Path

    @property
    def base(self) -> str:
        return mclip.MODELS[self.name].base

    def spec(self, **options: object) -> EncoderSpec:
        chosen = {"image_weights": str(self.image_file), **EXACT, **options}
        return EncoderSpec(f"{self.name}::{self.directory}", **chosen)

    def reference(self, texts: list[str], limit: int = 77, *, pool: str = "mean") -> np.ndarray:
        """Embed texts one by one, without padding: backbone, mean over the tokens, linear layer, in numpy."""
        tokenizer = make_tokenizer(self.base)
        tokenizer.enable_truncation(limit)
        weight, bias = (p.detach().numpy() for p in self.tower.LinearTransformation.parameters())
        vectors = []
        for text in texts:
            ids = torch.tensor([tokenizer.encode(text).ids])
            with torch.inference_mode():
                values = self.tower.transformer(ids, torch.ones_like(ids)).last_hidden_state[0].numpy()
            pooled = values.mean(0) if pool == "mean" else values[0]
            vectors.append(pooled @ weight.T + bias)
        return np.stack(vectors)


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory, image_file) -> Case:
    name, layout, spelling = CASES[request.param]
    directory = tmp_path_factory.mktemp("mclip")
    model = mclip.MODELS[name]
    return Case(
        name, directory, write_mclip(directory, model.base, model.dim, layout=layout, spelling=spelling), image_file
    )


def test_texts_equal_the_reference(case: Case) -> None:
    """Together and one by one: padding has no effect, and special tokens count in the mean."""
    encoder = load_encoder(case.spec())
    expected = case.reference(TEXTS)
    together = encoder.embed_texts(TEXTS)
    assert relative_error(together, expected) <= 1e-5
    assert relative_error(np.vstack([encoder.embed_texts([text]) for text in TEXTS]), together) <= 1e-5
    assert encoder.dim == together.shape[1] == mclip.MODELS[case.name].dim


def test_negative_controls_are_detected(case: Case) -> None:
    """The first token instead of the mean, another activation, and XLM-R's positions from 0 all differ."""
    ours, expected = load_encoder(case.spec()).embed_texts(TEXTS), case.reference(TEXTS)
    assert relative_error(ours, case.reference(TEXTS, pool="first")) > VISIBLE
    activation = case.tower.transformer.encoder.layer[1].intermediate.intermediate_act_fn
    case.tower.transformer.encoder.layer[1].intermediate.intermediate_act_fn = torch.nn.ReLU()
    changed = case.reference(TEXTS)
    case.tower.transformer.encoder.layer[1].intermediate.intermediate_act_fn = activation
    assert relative_error(ours, changed) > VISIBLE
    positions = case.tower.transformer.embeddings.position_embeddings.weight.data
    kept = positions.clone()
    positions.copy_(kept.roll(1, 0))
    shifted = case.reference(TEXTS)
    positions.copy_(kept)
    assert relative_error(ours, shifted) > VISIBLE
    assert relative_error(ours, expected) <= 1e-5


def test_a_mean_without_the_mask_is_detected(case: Case) -> None:
    """If padding counted, short texts in a batch with a long one would change."""
    from clipmill.models.towers.mclip_build import build_text

    model = mclip.MODELS[case.name]
    source = find_source(case.spec())
    tower = build_text(mclip.BASES[model.base], model.dim, source.files[:1])
    rows = [source.frontend.text.tokenizer(text)[0] for text in TEXTS]
    ids, mask = map(torch.from_numpy, source.frontend.text.batch(rows))
    assert (ids[0, len(rows[0]) :] == {"labse": 0, "xlm-roberta-large": 1}[model.base]).all() and mask[0].sum() == len(
        rows[0]
    )
    assert relative_error(tower(ids, mask), case.reference(TEXTS)) <= 1e-5
    assert relative_error(tower(ids, torch.ones_like(mask)), case.reference(TEXTS)) > VISIBLE


def test_ids_equal_transformers(case: Case) -> None:
    """Padding, mask and truncation are those of transformers' tokenizer with the same file."""
    pad = {"labse": "[PAD]", "xlm-roberta-large": "<pad>"}[case.base]
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(case.directory / "tokenizer.json"), pad_token=pad)
    text = find_source(case.spec()).frontend.text
    texts = [*TEXTS, "word " * 200]
    ids, mask = text.batch([text.tokenizer(value)[0] for value in texts])
    expected = theirs(texts, padding=True, truncation=True, max_length=77, return_tensors="np")
    np.testing.assert_array_equal(ids, expected["input_ids"])
    np.testing.assert_array_equal(mask, expected["attention_mask"])


def test_long_texts_are_cut_and_counted(case: Case) -> None:
    """To 77 tokens, or the limit in the spec, up to the 512 that the text tower reads."""
    texts = ["word " * 75, "word " * 76, "word " * 600]
    for limit, expected in ((None, [False, True, True]), (512, [False, False, True]), (5, [True, True, True])):
        outcomes = load_encoder(case.spec(max_text_tokens=limit)).embed("text", texts)
        assert [outcome.truncated for outcome in outcomes] == expected
        ours = np.stack([outcome.values for outcome in outcomes])
        assert relative_error(ours, case.reference(texts, limit or 77)) <= TOLERANCE
        unload_all()
    with pytest.raises(SpecError) as refused:
        load_encoder(case.spec(max_text_tokens=513))
    assert refused.value.option == "max_text_tokens"


def test_images_are_those_of_the_paired_tower(case: Case, image_module) -> None:
    """The image tower of a file is OpenAI's, with QuickGELU and its mean and std; its text tower is dropped."""
    pictures = list(photographs().values())[:2]
    ours = load_encoder(case.spec()).embed_images(pictures)
    prepare = image_transform(224, is_train=False)
    batch = torch.stack([prepare(Image.fromarray(picture)) for picture in pictures])
    plain = drawn_module("ViT-B-32", quick_gelu=False)
    with torch.inference_mode():
        assert relative_error(ours, image_module.encode_image(batch)) <= TOLERANCE
        assert relative_error(ours, plain.encode_image(batch)) > VISIBLE
    tower = find_source(case.spec()).build()["image"]
    assert not any("token_embedding" in name for name, _ in tower.named_parameters())


def test_clips_tokenizer_is_not_read(case: Case, monkeypatch) -> None:
    """The image tower does not need it."""
    monkeypatch.setattr("clipmill.models.towers.open_clip.ClipTokenizer", None)
    assert find_source(case.spec()).frontend.modalities == {"image", "text"}


def test_the_pairing_is_the_published_one() -> None:
    """Every model's image tower, also with image_weights, and its activation."""
    expected = {
        XLMR: "ViT-B-32::openai",
        "M-CLIP/XLM-Roberta-Large-Vit-L-14": "ViT-L-14::openai",
        "M-CLIP/XLM-Roberta-Large-Vit-B-16Plus": "ViT-B-16-plus-240::laion400m_e32",
    }
    assert {name: mclip.image_model(name) for name in expected} == expected
    plus = "M-CLIP/XLM-Roberta-Large-Vit-B-16Plus"
    assert mclip.image_model(plus, "laion400m_e31") == "ViT-B-16-plus-240::laion400m_e31"
    assert mclip.image_model(plus, "/w.pt") == "ViT-B-16-plus-240::/w.pt"
    assert mclip.image_model(XLMR, "/w.pt") == "ViT-B-32-quickgelu::/w.pt"
    quick = {name: EncoderSpec(mclip.image_model(name)).ref.quick_gelu for name in expected}
    assert list(quick.values()) == [True, True, False]
    assert EncoderSpec(plus).facts.image_size == 240
    with pytest.raises(UnknownModelError, match=r"has no weights 'nix'; known: ViT-B-32::"):
        EncoderSpec(XLMR, image_weights="nix")


def test_the_provenance_names_the_image_tower(case: Case) -> None:
    """Vectors of two image towers do not go into one index; the hash covers the files of both towers."""
    e32, e31 = (
        provenance_of(EncoderSpec("M-CLIP/XLM-Roberta-Large-Vit-B-16Plus", image_weights=tag), "image")
        for tag in (None, "laion400m_e31")
    )
    assert e32["image"]["tower"] == "ViT-B-16-plus-240::laion400m_e32"
    assert differences(e32, e31) == ["image.tower"]
    source = find_source(case.spec())
    assert source.resolved == {"image_tower": f"ViT-B-32-quickgelu::{case.image_file}"}
    assert [path.parent for path in source.files] == [case.directory, case.image_file.parent]


def test_other_models_are_refused(case: Case, tmp_path) -> None:
    """Another base, another kind of directory, another size, no projection, a missing name, no files."""
    model = mclip.MODELS[case.name]
    other = {"labse": "xlm-roberta-large", "xlm-roberta-large": "labse"}[model.base]

    def refused(directory: Path, match: str) -> None:
        with pytest.raises(WeightsError, match=match):
            load_encoder(dataclasses.replace(case.spec(), model=f"{case.name}::{directory}"))

    write_mclip(tmp_path / "other", other, model.dim)
    refused(tmp_path / "other", f"but the model needs '{model.base}'")
    write_mclip(tmp_path / "size", model.base, model.dim + 1)
    refused(tmp_path / "size", f"vectors of {model.dim + 1} values, but the image tower of {model.dim}")
    write_mclip(tmp_path / "off", model.base, model.dim)
    path = tmp_path / "off" / "pytorch_model.bin"
    state = torch.load(path)
    name = "transformer.encoder.layer.0.output.dense.bias"
    torch.save({key: value for key, value in state.items() if key != name}, path)
    refused(tmp_path / "off", rf"1 names missing \['{name}'\]")
    torch.save({key: value for key, value in state.items() if "Linear" not in key}, path)
    refused(tmp_path / "off", r"no LinearTransformation.weight: not the text tower of an M-CLIP model")
    path.unlink()
    refused(tmp_path / "off", r"no weights in .*pytorch_model.bin.* random weights are never used")
    (tmp_path / "off" / "tokenizer.json").unlink()
    torch.save(state, path)
    refused(tmp_path / "off", r"no tokenizer.json in .*AutoTokenizer")
    (tmp_path / "off" / "config.json").write_text(json.dumps({"model_type": "clip"}))
    refused(tmp_path / "off", r"no 'modelBase' \(model_type 'clip'\)")
    refused(tmp_path / "none", "there is no directory")


def test_a_published_model_is_read_from_the_hub_librarys_cache(case: Case, tmp_path, monkeypatch) -> None:
    """A bare name means its repository on the hub, whose text tower may be in the cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=rf"'config.json' of '{case.name}' could not be fetched"):
        load_encoder(dataclasses.replace(case.spec(), model=case.name, cache_dir=str(tmp_path)))
    repository = tmp_path / f"models--{case.name.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0" * 40)
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot.mkdir(parents=True)
    for path in case.directory.iterdir():
        (snapshot / path.name).symlink_to(path)
    encoder = load_encoder(dataclasses.replace(case.spec(), model=case.name, cache_dir=str(tmp_path)))
    assert relative_error(encoder.embed_texts(TEXTS), case.reference(TEXTS)) <= TOLERANCE


def test_the_weights_stay_in_their_file(case: Case) -> None:
    """Loaded weights stay in the memory-mapped file, and are not copied."""
    tower = find_source(case.spec()).build()["text"]
    words = tower.transformer.embeddings.word_embeddings.weight
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(case.directory) in line]
    ranges = [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in mapped]
    assert any(first <= words.data_ptr() < last for first, last in ranges)


@pytest.mark.parametrize(("base", "count"), [("xlm-roberta-large", 559_890_432), ("labse", 470_926_848)])
def test_the_published_bases_have_the_published_sizes(base: str, count: int) -> None:
    """The configurations in the package give as many parameters as the published files have."""
    config = dict(PUBLISHED[base])
    make_config, make_model = {"bert": (BertConfig, BertModel)}.get(
        config.pop("model_type"), (XLMRobertaConfig, XLMRobertaModel)
    )
    with torch.device("meta"):
        module = make_model(make_config(**config))
    assert sum(parameter.numel() for parameter in module.parameters()) == count
