"""What the files of an input are: by their names or, where a name says nothing, by their first bytes."""

from __future__ import annotations

import functools
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from ...files.arrow_stream import CONTINUATION, MAGIC
from ...files.compression import CompressionError, decompressed
from ...files.file_systems import open_input, raise_failing_store
from ...files.json_text import parse_json
from .lines import JSON_OVER_LINES, json_problem
from .listing import Kind, Lister, kind_of, list_inputs, name_with_ending, uncompressed_name
from .samples import AUDIO_EXTENSIONS
from .sidecars import IMAGE_EXTENSIONS
from .walking import Listed

_OPENERS = 16
"""Files that are opened in parallel; the threads mostly wait for disks and object stores."""
_MAX_REMOTE = 10_000
"""Maximum files of object stores that are opened: each costs a request, and millions may have no ending."""
_START_BYTES = 4096
_AT_ONCE = 1000
"""Files that are held while some of them are opened."""
_TAR_MARK = slice(257, 262)
_URI = re.compile(r"(?:https?://|data:)\S+|(?!https?:)[A-Za-z][A-Za-z0-9+.-]*://\S.*", re.IGNORECASE)
"""A whole line. Names of objects may have spaces; behind an address, a space begins something else: a caption."""
_READ_COMPRESSED = ("jsonl", "uris", "tar")
"""Kinds that are recognised in a compressed file."""


class InputFile(NamedTuple):
    """A file of the input, and how it is read.

    Attributes:
        file: The file.
        kind: How it is read.
        problem: What the file is, with a hint, if it holds nothing to embed; "" otherwise.
    """

    file: Listed
    kind: Kind
    problem: str = ""


def recognised_inputs(
    inputs: Sequence[str], *, kind: Kind | None = None, list_input: Lister | None = None, allow_empty: bool = False
) -> Iterator[InputFile]:
    """List the files of all inputs, and decide how each is read; they are taken, and held, a few at a time.

    The ending of a name decides, if it is that of a table, an archive, an image or audio. Any other file is opened, and
    its first bytes decide: Parquet, Arrow, tar, JSON lines, a list of URIs, an image or audio. Of object stores, the
    first 10,000 such files are opened; the rest are taken for images or audio.

    Args:
        inputs: See `list_inputs`.
        kind: Read every file as this kind, whatever it is.
        list_input: See `list_inputs`.
        allow_empty: See `list_inputs`.

    Raises:
        DatasetError: See `list_inputs`.
    """
    files = list_inputs(inputs, list_input=list_input, allow_empty=allow_empty)
    if kind is not None:
        yield from (InputFile(file, kind) for file in files)
        return
    remote = 0
    with ThreadPoolExecutor(_OPENERS) as pool:
        while some := list(itertools.islice(files, _AT_ONCE)):
            found: dict[str, InputFile] = {}
            kinds = [_clear_kind(name_with_ending(file.path)) for file in some]
            if unclear := [file for file, clear in zip(some, kinds, strict=True) if clear is None and file.size != 0]:
                opened = _few_remote(unclear, _MAX_REMOTE - remote)
                remote += sum("://" in file.path for file in opened)
                found = {one.file.path: one for one in pool.map(recognised, opened)}
            for file, clear in zip(some, kinds, strict=True):
                yield InputFile(file, clear) if clear else found.get(file.path) or InputFile(file, kind_of(file.path))


def recognised(file: Listed) -> InputFile:
    """Return how a file is read, by its first bytes; one that cannot be opened is left to its reader."""
    by_name = kind_of(file.path)
    try:
        with open_input(file.path) as opened:
            start = opened.read(_START_BYTES)
            opened.seek(0)
            content, compression = decompressed(opened)
            inside = content.read(_START_BYTES) if compression else start
    except CompressionError as err:
        return InputFile(file, by_name, f"a file that is not read: {err}")
    except Exception as err:  # drivers and codecs raise errors of their own; the reader reports them as failures
        raise_failing_store(err, file.path)
        return InputFile(file, by_name)
    if not start:
        return InputFile(file, by_name)
    if by_name != "files":
        if compression and by_name in ("parquet", "arrow"):
            return InputFile(file, by_name, f"a table compressed with {compression}: decompress it")
        is_json = uncompressed_name(file.path).endswith(".json")  # `.jsonl` promises lines: any other is a failure
        problem = json_problem(inside) if is_json else ""
        return InputFile(file, "files" if problem else by_name, problem)
    kind, problem = _kind_of_content(inside)
    if compression and kind not in _READ_COMPRESSED:
        what = "a table" if kind in ("parquet", "arrow") else "a file"
        return InputFile(file, "files", f"{what} compressed with {compression}: decompress it")
    return InputFile(file, kind, problem)


@functools.lru_cache(maxsize=4096)
def _clear_kind(name: str) -> Kind | None:
    """Return how a file is read if the ending of its name says so. `.json` does not: it may be an array."""
    if (kind := kind_of(name)) != "files":
        return kind if uncompressed_name(name) == name.lower() and not name.lower().endswith(".json") else None
    ending = os.path.splitext(name)[1].lower().lstrip(".")
    return kind if ending in IMAGE_EXTENSIONS or ending in AUDIO_EXTENSIONS else None


def _few_remote(files: Iterable[Listed], most: int) -> list[Listed]:
    opened, remote = [], 0
    for file in files:
        remote += "://" in file.path
        if "://" not in file.path or remote <= most:
            opened.append(file)
    return opened


def _kind_of_content(start: bytes) -> tuple[Kind, str]:
    """Return how a file that begins with these bytes is read, and its problem if it holds nothing to embed."""
    from ...media.audio import sniff_audio_type
    from ...media.images import sniff_media_type

    if start.startswith(b"PAR1"):
        return "parquet", ""
    if start.startswith((MAGIC, CONTINUATION)):
        return "arrow", ""
    if start[_TAR_MARK] == b"ustar":
        return "tar", ""
    if sniff_media_type(start) or sniff_audio_type(start[:16]):
        return "files", ""
    for recognise in (_json_kind, _list_kind):
        if kind := recognise(start):
            return kind
    return "files", _described(start)


def _json_kind(start: bytes) -> tuple[Kind, str] | None:
    if problem := json_problem(start):
        return "files", problem
    line, _, rest = start.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")
    if not line.startswith(b"{"):
        return None
    try:
        parse_json(line)
    except ValueError:
        if rest:
            return "files", JSON_OVER_LINES
    return "jsonl", ""  # a whole line, or the beginning of a long one


def _list_kind(start: bytes) -> tuple[Kind, str] | None:
    """Recognise a list of URIs, one on each line."""
    try:
        text = start.decode("utf-8-sig", errors="strict" if len(start) < _START_BYTES else "ignore")
    except UnicodeDecodeError:
        return None
    lines = [line.strip() for line in text.splitlines()]
    whole = lines if len(start) < _START_BYTES or len(lines) == 1 else lines[:-1]
    if not any(whole) or not _URI.match(next(filter(None, whole))):
        return None
    other = next((number for number, line in enumerate(whole, 1) if line and not _URI.fullmatch(line)), None)
    if other is None:
        return "uris", ""
    return "files", f"a list of URIs whose line {other} is none: remove it, or give JSON lines with a field 'uri'"


def _described(start: bytes) -> str:
    from ...media.images import described_other

    described = described_other(start)
    if described and described.startswith("a text"):
        return "a text: a table needs an ending such as .csv or .tsv; give texts as JSON lines or CSV"
    return described or "no table, archive, image or audio of a known format"
