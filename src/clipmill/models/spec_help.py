"""What the fields of a spec are, in the words of its docstring, for help and documentation elsewhere."""

from __future__ import annotations

import inspect
import re

from .spec import EncoderSpec

_ENTRY = re.compile(r"^ {4}(\w+): (.*(?:\n {8,}\S.*)*)", re.MULTILINE)


def descriptions() -> dict[str, str]:
    """Return what each field of a spec is, as its docstring says, for help and documentation elsewhere."""
    section = (inspect.getdoc(EncoderSpec) or "").partition("Attributes:")[2].partition("Raises:")[0]
    return {name: re.sub(r"\s+", " ", text).replace("`", "") for name, text in _ENTRY.findall(section)}
