"""What is done to a text before it is tokenized, by the names that open_clip's configurations use."""

from __future__ import annotations

import html
import string
from collections.abc import Callable

import ftfy

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def clean_whitespace(text: str) -> str:
    """Repair mojibake, resolve HTML entities (twice), collapse white space."""
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


def clean_lower(text: str) -> str:
    """Do what `clean_whitespace` does, and lower the case."""
    return clean_whitespace(text).lower()


def canonicalize(text: str) -> str:
    """Do what `clean_lower` does, and remove ASCII punctuation (`_` becomes a space): as SigLIP was trained."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.replace("_", " ").translate(_NO_PUNCTUATION).lower().split())


CLEANERS: dict[str, Callable[[str], str]] = {
    "whitespace": clean_whitespace,
    "lower": clean_lower,
    "canonicalize": canonicalize,
}
