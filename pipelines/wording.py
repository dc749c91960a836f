"""Messages that serve users of Python and of the command line alike, with flags where they say keywords."""

from __future__ import annotations

import dataclasses
import re

from ..models.spec import EncoderSpec

_OPTIONS = (
    *(field.name for field in dataclasses.fields(EncoderSpec)),
    "top_k",
    "scale",
    "query_kind",
    "candidate_kind",
    "overwrite",
    "format",
    "content_hash",
    "resume",
    "partial",
    "skip_existing",
    "factory",
    "target_recall",
    "rows_per_shard",
    "nprobe",
    "ef_search",
)
_COLUMNS = {"text": "text", "uri": "uri", "image": "image", "audio": "audio", "id": "id", "output": "ranked"}
"""Flags that end in `-column`; meant where a message leaves the value open."""
_NAMES = "|".join(map(re.escape, _OPTIONS))
_GIVEN = re.compile(rf"(?<![^\s(;])({_NAMES})=(True(?: \(--[\w-]+\))?(?!\w)|False(?!\w)|'…'|…)?")
_OPEN = re.compile(rf"(?<![^\s(;])({'|'.join(_COLUMNS)})='…'")

_SENTENCES = (
    ("choose a name: Column('image', output='…')", "leave the old one out: --drop NAME"),
    ("columns={…}", "--column NAME=KIND"),
    ("or skip by content", "or give --skip-by content"),
    ("skip its rows by id", "leave --skip-by content out"),
    ("; templates themselves go into a list", "; templates go into a file, one a line"),
    ("; labels themselves go into a list", "; labels themselves are given as a,b,c"),
    (", or search for vectors (query_kind='vector')", ""),
    (
        "name the columns of the query and of the candidates",
        "name the columns of the query (--query-column) and of the candidates (--candidates-column)",
    ),
    (
        "Rank(by=…) on Beam and rank_groups(by=…) on Spark rank them",
        "no command ranks them: clipmill.transforms.Rank(by=…) and clipmill.udfs.rank_groups(by=…) do",
    ),
)
"""What is done otherwise in Python and on the command line."""


def in_flags(message: str) -> str:
    """Return a message with the flags of the command line for the keywords of Python.

    Args:
        message: Such as "allow_local_files=True is set", "runtime='x' is none of …", "choose a name: output='…'".
    """
    for said, instead in _SENTENCES:
        message = message.replace(said, instead)
    message = _OPEN.sub(lambda found: f"--{_COLUMNS[found[1]]}-column NAME", message)
    return _GIVEN.sub(_flag, message)


def _flag(found: re.Match[str]) -> str:
    flag, value = found[1].replace("_", "-"), found[2] or ""
    if value.startswith("True"):
        return f"--{flag}"
    return f"--no-{flag}" if value == "False" else f"--{flag} " + ("NAME" if value else "")
