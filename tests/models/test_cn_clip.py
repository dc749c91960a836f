"""Chinese-CLIP by clip-as-service's five names, and RN50 from its authors' file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import tiny_tokenizers
import torch
from hugging_face_weights import EXACT, drawn
from pictures import encode, photographs
from torchvision.transforms import InterpolationMode, v2
from transformers import BertConfig, BertModel, BertTokenizer
from weights import relative_error

from clipmill.datasets.tables.provenance import differences, provenance_of, spec_of_provenance
from clipmill.encoders import EncoderSpec, load_encoder, unload_all
from clipmill.errors import SpecError, UnknownModelError, WeightsError
from clipmill.models.catalog import cn_clip
from clipmill.models.catalog.names import named_models, resolve_model
from clipmill.models.exporting import export_model

TEXTS = ["一张猫的照片", "a photo of a cat", "x", "word " * 100, "日本語 テスト naïve"]
VISION = {"layers": (1, 1, 1, 1), "width": 16, "heads": 8}
TEXT = {"vocab_size": 800, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
VISIBLE = 1e-2


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    for name, value in VISION.items():
        monkeypatch.setitem(cn_clip.VISION, name, value)
    for name, value in TEXT.items():
        monkeypatch.setitem(cn_clip.TEXT, name, value)
    yield
    unload_all()


class Reference:
    """The model put together from other parts than ours: open_clip's whole CLIP for images, BERT for texts."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        vision = {"layers": list(VISION["layers"]), "width": VISION["width"], "image_size": 224, "patch_size": None}
        text = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 1, "layers": 1}
        self.visual: Any = drawn(open_clip.CLIP(cn_clip.DIM, {**vision, "head_width": 64}, text).visual)
        options = {"layer_norm_eps": 1e-12, "max_position_embeddings": 512, "type_vocab_size": 2}
        self.bert: Any = drawn(BertModel(BertConfig(**TEXT, **options)), 1)
        self.projection = torch.randn(64, cn_clip.DIM, generator=torch.Generator().manual_seed(2)) / 8

    def write(self, directory: Path) -> None:
        state = {f"module.visual.{name}": value for name, value in self.visual.state_dict().items()}
        state |= {f"module.bert.{name}": value for name, value in self.bert.state_dict().items()}
        state["module.bert.embeddings.position_ids"] = torch.arange(512)[None]
        state |= {"module.text_projection": self.projection, "module.logit_scale": torch.tensor(4.6052)}
        torch.save({"epoch": 1, "name": "CN", "state_dict": state}, directory / cn_clip.RESNET_FILE)
        tokenizer, _ = tiny_tokenizers.bert()
        words = tokenizer.get_vocab()
        (directory / "vocab.txt").write_text("\n".join(sorted(words, key=words.__getitem__)), encoding="utf-8")

    def images(self, arrays: list[np.ndarray]) -> torch.Tensor:
        mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
        steps = [v2.Resize((224, 224), interpolation=InterpolationMode.BICUBIC), v2.Normalize(mean, std)]
        rows = []
        for array in arrays:
            image = v2.functional.to_pil_image(array)
            values = v2.functional.to_dtype(v2.functional.to_image(steps[0](image)), torch.float32, scale=True)
            rows.append(steps[1](values))
        with torch.inference_mode():
            return self.visual(torch.stack(rows))

    def texts(self, directory: Path, texts: list[str], *, masked: bool = True, position: int = 0) -> torch.Tensor:
        tokenizer = BertTokenizer(vocab=str(directory / "vocab.txt"))
        inputs = tokenizer(texts, padding="max_length", truncation=True, max_length=52, return_tensors="pt")
        mask = inputs.attention_mask if masked else None
        with torch.inference_mode():
            return self.bert(inputs.input_ids, attention_mask=mask).last_hidden_state[:, position] @ self.projection


def test_its_names_are_those_of_clip_as_service() -> None:
    """In any case; four are files of transformers, and what does not exist is refused with the names that do."""
    for name in ("ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-H-14", "RN50"):
        assert resolve_model(f"CN-CLIP/{name}").family in ("hf", "cn-clip")
    assert "CN-CLIP/RN50" in named_models()
    assert resolve_model("cn-clip/vit-l-14-336").name == "hf:OFA-Sys/chinese-clip-vit-large-patch14-336px"
    assert resolve_model("CN-CLIP/RN50").family == "cn-clip" and EncoderSpec("CN-CLIP/RN50").dim == 1024
    with pytest.raises(UnknownModelError, match="CN-CLIP/ViT-H-14"):
        resolve_model("CN-CLIP/ViT-B-32")
    with pytest.raises(SpecError, match="hf:"):
        resolve_model("CN-CLIP/ViT-B-16::./directory")
    with pytest.raises(SpecError, match=r"vocab\.txt"):
        resolve_model("CN-CLIP/RN50::")


def test_the_provenance_says_where_texts_were_cut() -> None:
    """At 52 tokens, unless the spec says more; a search cuts its queries where the texts were cut."""
    default = provenance_of(EncoderSpec(cn_clip.RESNET), "text")
    assert default == provenance_of(EncoderSpec(cn_clip.RESNET, max_text_tokens=52), "text")
    longer = provenance_of(EncoderSpec(cn_clip.RESNET, max_text_tokens=512), "text")
    assert differences(default, longer) == ["text.context_length"]
    assert [spec_of_provenance(one).max_text_tokens for one in (default, longer)] == [None, 512]


@pytest.mark.parametrize("runtime", ["torch", "onnx", "openvino"])
def test_vectors_equal_the_reference(tmp_path: Path, runtime: str) -> None:
    """Of squashed photographs, and of texts cut to 52 tokens, in every runtime."""
    reference = Reference()
    reference.write(tmp_path)
    arrays = [*photographs().values(), next(iter(photographs().values()))[:60, :290]]
    encoder = load_encoder(f"CN-CLIP/RN50::{tmp_path}", **{**EXACT, "runtime": runtime})
    tolerance = 1e-5 if runtime == "torch" else 1e-4
    images, texts = encoder.embed_images([encode(array) for array in arrays]), encoder.embed_texts(TEXTS)
    assert relative_error(images, reference.images(arrays)) <= tolerance
    assert relative_error(texts, reference.texts(tmp_path, TEXTS)) <= tolerance
    assert [outcome.truncated for outcome in encoder.embed("text", TEXTS)] == [False, False, False, True, False]
    if runtime == "torch":  # what must not go unnoticed
        assert relative_error(images[-1:], reference.images([arrays[0][:60, :60]])) > VISIBLE
        assert relative_error(texts, reference.texts(tmp_path, TEXTS, masked=False)) > VISIBLE
        assert relative_error(texts, reference.texts(tmp_path, TEXTS, position=1)) > VISIBLE


def test_it_can_be_exported(tmp_path: Path) -> None:
    """To a directory that needs none of its files."""
    reference = Reference()
    (tmp_path / "files").mkdir()
    reference.write(tmp_path / "files")
    export_model(EncoderSpec(f"CN-CLIP/RN50::{tmp_path / 'files'}"), tmp_path / "exported")
    expected = reference.texts(tmp_path / "files", TEXTS)
    (tmp_path / "files" / cn_clip.RESNET_FILE).unlink()
    encoder = load_encoder(f"onnx:{tmp_path / 'exported'}", runtime="onnx", device="cpu")
    assert relative_error(encoder.embed_texts(TEXTS), expected) <= 1e-4
    assert encoder.spec.facts.context_length == 52
    with pytest.raises(SpecError) as refused:
        load_encoder(f"onnx:{tmp_path / 'exported'}", runtime="onnx", device="cpu", max_text_tokens=513)
    assert refused.value.option == "max_text_tokens"


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """The file of weights, the vocabulary, and weights of another model."""
    with pytest.raises(WeightsError, match=cn_clip.RESNET_FILE):
        load_encoder(f"CN-CLIP/RN50::{tmp_path}", **EXACT)
    Reference().write(tmp_path)
    with pytest.raises(SpecError, match="512"):
        load_encoder(f"CN-CLIP/RN50::{tmp_path}", **EXACT, max_text_tokens=513)
    torch.save({"state_dict": {"visual.conv1.weight": torch.zeros(8, 3, 3, 3)}}, tmp_path / cn_clip.RESNET_FILE)
    with pytest.raises(WeightsError, match="does not fit"):
        load_encoder(f"CN-CLIP/RN50::{tmp_path}", **EXACT)
    (tmp_path / "vocab.txt").unlink()
    with pytest.raises(WeightsError, match=r"vocab\.txt"):
        load_encoder(f"CN-CLIP/RN50::{tmp_path}", **EXACT)
