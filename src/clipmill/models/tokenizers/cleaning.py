"""Functions that clean a text before it is tokenized, by their names in open_clip's configurations."""

from __future__ import annotations

import html
import string
from collections.abc import Callable

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _repaired(text: str) -> str:
    """Repair mojibake, resolve HTML entities (twice).

    Printable ASCII without `&` has neither: most captions are such texts, and need not wait for ftfy, nor its import.
    """
    if text.isascii() and text.isprintable() and "&" not in text:
        return text
    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text)))


def clean_whitespace(text: str) -> str:
    """Repair mojibake, resolve HTML entities (twice), collapse white space."""
    return " ".join(_repaired(text).split())


def clean_lower(text: str) -> str:
    """Clean like `clean_whitespace`, and convert to lower case."""
    return clean_whitespace(text).lower()


def canonicalize(text: str) -> str:
    """Clean like `clean_lower`, and remove ASCII punctuation (`_` becomes a space), as in SigLIP's training."""
    return " ".join(_repaired(text).replace("_", " ").translate(_NO_PUNCTUATION).lower().split())


def clean_siglip(text: str) -> str:
    """Convert to lower case, remove ASCII punctuation, collapse white space, as transformers' tokenizer of SigLIP."""
    return " ".join(text.lower().translate(_NO_PUNCTUATION).split())


CLEANERS: dict[str, Callable[[str], str]] = {
    "whitespace": clean_whitespace,
    "lower": clean_lower,
    "canonicalize": canonicalize,
    "siglip": clean_siglip,
    "lowercase": str.lower,
}
