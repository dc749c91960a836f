"""Tokenizers of the published kinds with small vocabularies, as the `tokenizer.json` that repositories hold."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

import clipmill.encoders

_ROBERTA_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
_BERT_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_SIZE = 800

Made = tuple[Tokenizer, dict[str, str]]
"""A tokenizer, and what its `tokenizer_config.json` says."""


def _trained_once(make: Callable[[], Made]) -> Callable[[], Made]:
    """Train at the first call; give every caller a copy of its own."""

    @functools.cache
    def trained() -> tuple[str, dict[str, str]]:
        tokenizer, config = make()
        return tokenizer.to_str(), config

    @functools.wraps(make)
    def copy() -> Made:
        definition, config = trained()
        return Tokenizer.from_str(definition), dict(config)

    return copy


def _corpus() -> list[str]:
    files = sorted(Path(clipmill.encoders.__file__).parent.glob("*.py"))
    return [line for file in files for line in file.read_text().splitlines()] + ["日本語 テスト ünïcode naïve"] * 20


@_trained_once
def roberta() -> Made:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=_SIZE, special_tokens=_ROBERTA_TOKENS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer, {"tokenizer_class": "RobertaTokenizer"}


@_trained_once
def xlm_roberta() -> Made:
    tokenizer = Tokenizer(models.Unigram())
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    trainer = trainers.UnigramTrainer(
        vocab_size=_SIZE, special_tokens=_ROBERTA_TOKENS, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer, {"tokenizer_class": "XLMRobertaTokenizer"}


@_trained_once
def bert() -> Made:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=_SIZE, special_tokens=_BERT_TOKENS, show_progress=False)
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer, {"tokenizer_class": "BertTokenizer"}


@_trained_once
def sentencepiece() -> Made:
    """SigLIP's kind: no token in front, the end token behind, which also fills up."""
    tokenizer, _ = xlm_roberta()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return tokenizer, {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "</s>", "eos_token": "</s>"}


@_trained_once
def gemma() -> Made:
    """SigLIP 2's kind: BPE of characters with spaces as a mark, the end token behind, and padding of its own."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(
        vocab_size=_SIZE, special_tokens=["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"], show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return tokenizer, {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "<eos>"}


def files_of(made: Made) -> dict[str, bytes]:
    """Return the files of a repository with this tokenizer."""
    tokenizer, config = made
    return {"tokenizer.json": tokenizer.to_str().encode(), "tokenizer_config.json": json.dumps(config).encode()}
