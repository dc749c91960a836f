"""Directories with an M-CLIP text tower of any size, in the layout of its repositories, on weights that matter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, XLMRobertaConfig, XLMRobertaModel

from clipmill.models.catalog import mclip

WORDS = [
    "she",
    "smiled",
    "with",
    "pain",
    "eine",
    "katze",
    "sie",
    "lächelte",
    "vor",
    "schmerz",
    "猫",
    "写真",
    "x",
    "word",
]
_CLASSES: dict[str, Any] = {"xlm-roberta": (XLMRobertaConfig, XLMRobertaModel), "bert": (BertConfig, BertModel)}
_NAMES = {"xlm-roberta-large": "xlm-roberta-large", "labse": "sentence-transformers/LaBSE"}


def small_base(base: str) -> dict[str, Any]:
    """Return a base's configuration with few layers and a small vocabulary, all else as published."""
    small = {"vocab_size": 200, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    return {**mclip.BASES[base], **small, "intermediate_size": 96}


def drawn_backbone(base: str, seed: int = 0, gain: float = 1.5) -> torch.nn.Module:
    """Build a backbone, of the size that the catalog says, whose positions, biases and activations show."""
    config = dict(mclip.BASES[base])
    make_config, make_model = _CLASSES[config.pop("model_type")]
    torch.manual_seed(seed)
    module = make_model(make_config(**config)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "LayerNorm" in name and name.endswith(".weight"):
                parameter.copy_(1 + 0.2 * noise)
            elif name.endswith(".bias"):
                parameter.copy_(0.2 * noise)
            elif "embeddings" in name:
                parameter.copy_(0.5 * noise)
            else:
                # what attention adds stays small, or after 24 layers all tokens of a text are the same
                scale = 0.2 * gain if "attention.output" in name else gain
                parameter.copy_(scale * noise / parameter.shape[1] ** 0.5)
    return module


def write_mclip(
    directory: Path, base: str, dim: int, *, seed: int = 0, layout: str = "bin", spelling: str = "stored"
) -> torch.nn.Module:
    """Write a text tower's directory: configuration, weights, tokenizer.

    Args:
        directory: Where to; made if need be.
        base: A name of `BASES`, which says the size.
        dim: Values in a vector.
        seed: Of the weights.
        layout: `bin` (with the `position_ids` of older versions) or `safetensors`.
        spelling: Of the configuration's fields: `stored`, or `constructor` (those of the class's arguments).

    Returns:
        The whole tower, as the file has it: `transformer` (with its pooler) and `LinearTransformation`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config = mclip.BASES[base]
    sizes = ("transformerDimensions", "numDims") if spelling == "stored" else ("transformerDimSize", "imageDimSize")
    fields = {"modelBase": _NAMES[base], sizes[0]: config["hidden_size"], sizes[1]: dim, "model_type": "M-CLIP"}
    (directory / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    whole = torch.nn.Module()
    whole.transformer = drawn_backbone(base, seed)
    whole.LinearTransformation = torch.nn.Linear(config["hidden_size"], dim)
    with torch.no_grad():
        whole.LinearTransformation.bias.normal_(generator=torch.Generator().manual_seed(seed))
    state = whole.state_dict()
    if layout == "bin":
        positions = torch.arange(config["max_position_embeddings"])[None]
        torch.save({"transformer.embeddings.position_ids": positions, **state}, directory / "pytorch_model.bin")
    else:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, str(directory / "model.safetensors"))
    make_tokenizer(base).save(str(directory / "tokenizer.json"))
    return whole.eval()


def make_tokenizer(base: str) -> Tokenizer:
    """Make a tokenizer with a few words, in the layout of the base's own: XLM-R's Unigram or BERT's WordPiece."""
    letters = sorted({letter for word in WORDS for letter in word} | set("abcdefghijklmnopqrstuvwxyz,.'&;"))
    if base == "labse":
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *(x for x in letters if x not in WORDS)]
        words += [f"##{letter}" for letter in letters]
        model = models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]")
        tokenizer = Tokenizer(model)
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        return tokenizer
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces += [(f"▁{word}", -2.0 - number / 10) for number, word in enumerate(WORDS)]
    pieces += [(letter, -8.0 - number / 10) for number, letter in enumerate(letters)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    return tokenizer
