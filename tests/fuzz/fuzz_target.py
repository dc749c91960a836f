"""What a target of fuzzing is, and what all targets share."""

from __future__ import annotations

import atexit
import contextlib
import copy
import dataclasses
import functools
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Target:
    """Code that reads what others wrote, and what must hold for every input.

    Attributes:
        what: What is read and what must hold, for the table in docs/reliability.md.
        seeds: Makes the first inputs: valid ones, and some that are hard.
        check: Reads an input. Any exception that it raises is an error of the code.
        words: Parts of inputs that the fuzzer puts together.
    """

    what: str
    seeds: Callable[[], Sequence[bytes]]
    check: Callable[[bytes], None]
    words: tuple[bytes, ...] = ()


@functools.cache
def scratch() -> Path:
    """Return this process's folder for the files that targets read."""
    memory = "/dev/shm"  # many files a second, which a disk would slow down
    folder = Path(tempfile.mkdtemp(prefix="clipmill-fuzz-", dir=memory if os.access(memory, os.W_OK) else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def scratch_file(name: str, data: bytes) -> Path:
    """Write an input to a file, which the next input replaces; its folder holds nothing else at first."""
    path = scratch() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@contextlib.contextmanager
def empty_folder(name: str) -> Iterator[Path]:
    """Make a folder for one input; nothing beside it may change."""
    above = scratch() / name
    shutil.rmtree(above, ignore_errors=True)
    folder, outside = above / "folder", above / "outside"
    folder.mkdir(parents=True)
    outside.write_bytes(b"kept")
    yield folder
    assert [path.name for path in sorted(above.iterdir())] == ["folder", "outside"]
    assert outside.read_bytes() == b"kept"


def text_of(data: bytes) -> str:
    """Return an input as text that may hold lone surrogates, as JSON and file names may."""
    return data.decode("utf-8", "surrogateescape")


def choice_of(data: bytes, choices: Sequence[int]) -> tuple[int, bytes]:
    """Return a number that the first byte of an input chooses, and the rest of the input."""
    return (choices[data[0] % len(choices)] if data else choices[0]), data[1:]


_DEEP = "nested 100,000 levels deep"
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 2**63, 10**400, 1.5, 1e300, math.inf, math.nan),
    *("", "x", "1", "../outside", "/", "a/b", "\ud800", "ü\n\x1b[31m", "x" * 300, "00001-x", "9" * 5000),
    *([], [None], ["x"], [["x"]], [{}], {}, {"x": None}, {"name": "../outside", "bytes": 4}, _DEEP),
)


def changed_json(base: Any, data: bytes) -> bytes:
    """Return JSON that an input describes.

    An input that begins with a bracket is the JSON itself. Of any other, each two bytes replace one value of `base`,
    however deep it is, by an odd one, or remove it. Random bytes would rarely be JSON.
    """
    if data[:1] in (b"{", b"["):
        return data
    base = copy.deepcopy(base)
    for where, what in zip(data[::2], data[1::2], strict=False):
        places = list(_places(base))
        if not places:
            break
        container, key = places[where % len(places)]
        if what < len(ODD_VALUES) * 8:
            container[key] = copy.deepcopy(ODD_VALUES[what % len(ODD_VALUES)])
        else:
            del container[key]
    return json.dumps(base).replace(json.dumps(_DEEP), "[" * 100_000 + "]" * 100_000).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield where the values in a JSON value are: their container, and their key in it."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(pairs):
        yield value, key
        yield from _places(inner)
