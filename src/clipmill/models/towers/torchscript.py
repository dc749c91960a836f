"""Read the tensors of a TorchScript archive without running its program.

An archive holds a program, and a pickle with its objects. `torch.jit.load` runs `__setstate__` of the program's
classes, whose operators may write files. Here only the pickle is read, by an unpickler that knows tensors, plain values
and objects without behaviour. The program is text that says which tensors of a module are parameters and buffers.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from ...errors import WeightsError

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_LISTS = ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist")
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
_PROGRAM = "__torch__"
# As `torch.jit.save` prints a module; archives of torch 1.4 and before have no line of buffers.
_MODULE = re.compile(
    r'^class (\w+)\(Module\):\n  __parameters__ = \[([\w", ]*)\]\n(?:  __buffers__ = \[([\w", ]*)\]\n)?', re.MULTILINE
)
_MAX_BYTES = 64 * 2**20
"""Of the pickle, and of a file of the program; the largest CLIP models have about 1 MB of them."""
_MAX_MODULES = 20_000


def read_archive(path: Path) -> dict[str, torch.Tensor]:
    """Return the parameters and buffers of an archive: the values of `torch.jit.load(path).state_dict()`.

    Args:
        path: An archive that `torch.jit.save` wrote.

    Raises:
        WeightsError: If it holds anything else than modules with tensors.
        Exception: Errors of zip files and pickles, if it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        root = next(name for name in names if name.endswith("/constants.pkl")).removesuffix("constants.pkl")
        if f"{root}byteorder" in names and _read(archive, f"{root}byteorder") != b"little":
            raise WeightsError("it was written on a machine with another order of bytes")
        objects = _Objects(archive, root)
        return dict(_tensors(objects.load(), _Program(archive, root)))


class _Object:
    """An object of the program, with its attributes. Each archive has classes of its own, by their names."""

    qualified = ""

    def __init__(self, *arguments: Any) -> None:
        """Ignore what an enumeration is made of."""


class _Program:
    """The names of parameters and buffers of the program's modules."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self._archive = archive
        self._root = root
        self._files: dict[str, dict[str, tuple[set[str], set[str] | None]]] = {}

    def names_of(self, qualified: str) -> tuple[set[str], set[str] | None] | None:
        """Return the parameters and buffers of a class; None for no module; no set of buffers if they are not told."""
        folder, _, name = qualified.rpartition(".")
        file = f"{self._root}code/{folder.replace('.', '/')}.py"
        if file not in self._files:
            there = file in self._archive.NameToInfo
            text = _read(self._archive, file).decode("utf-8") if there else ""
            self._files[file] = {
                found[1]: (_words(found[2]), None if found[3] is None else _words(found[3]))
                for found in _MODULE.finditer(text)
            }
        return self._files[file].get(name)


def _words(listed: str) -> set[str]:
    return set(re.findall(r'"(\w+)"', listed))


class _Objects(pickle.Unpickler):
    """Unpickles the objects of an archive. Whatever the pickle names, it gets one of the things below."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        content = _read(archive, f"{root}data.pkl")
        for operation, number, _ in pickletools.genops(content):
            # The unpickler makes room for all numbers up to this one.
            if operation.name in _PUTS and int(number or 0) > len(content):
                raise WeightsError(f"its pickle has the number {number:,}, which no archive needs")
        super().__init__(io.BytesIO(content))
        self._archive = archive
        self._root = root
        self._classes: dict[str, type] = {}
        self._storages: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return what the pickle calls by this name."""
        if module == _PROGRAM or module.startswith(f"{_PROGRAM}."):
            qualified = f"{module}.{name}"
            return self._classes.setdefault(qualified, type("Object", (_Object,), {"qualified": qualified}))
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        found: dict[tuple[str, str], Callable[..., Any]] = {
            ("torch._utils", "_rebuild_tensor_v2"): lambda flat, start, size, stride, *_: torch.as_strided(
                flat, size, stride, start
            ),
            ("torch.jit._pickle", "restore_type_tag"): lambda value, *_: value,
            ("torch", "device"): lambda *words: words,
            **{("torch.jit._pickle", listed): lambda values: values for listed in _LISTS},
        }
        if (module, name) not in found:
            raise WeightsError(f"its pickle names {module}.{name}, which is no part of plain weights")
        return found[module, name]

    def persistent_load(self, pid: Any) -> torch.Tensor:
        """Return a storage as a tensor with one dimension."""
        _, dtype, key, _, _ = pid
        if not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise WeightsError(f"its pickle has the storage {pid!r}, which is none of plain weights")
        if (key, dtype) not in self._storages:
            data = bytearray(_read(self._archive, f"{self._root}data/{key}", stored=True))
            self._storages[key, dtype] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return self._storages[key, dtype]


def _read(archive: zipfile.ZipFile, name: str, *, stored: bool = False) -> bytes:
    """Return a file of an archive: one that is stored as it is, or a small one that may be compressed."""
    info = archive.getinfo(name)
    if stored and info.compress_type != zipfile.ZIP_STORED:
        raise WeightsError(f"{name!r} in it is compressed, which TorchScript never does")
    if not stored and info.file_size > _MAX_BYTES:
        raise WeightsError(f"{name!r} in it has {info.file_size:,} bytes; at most {_MAX_BYTES:,} are read")
    return archive.read(info)


def _tensors(root: Any, program: _Program) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield parameters and buffers by name, with the dots of their path."""
    waiting, seen = [("", root)], 0
    while waiting:
        prefix, module = waiting.pop()
        known = program.names_of(type(module).qualified) if isinstance(module, _Object) else None
        if known is None:
            continue
        seen += 1
        if seen > _MAX_MODULES:
            raise WeightsError(f"it has over {_MAX_MODULES:,} modules")
        parameters, buffers = known
        for name, value in vars(module).items():
            if not isinstance(value, torch.Tensor):
                waiting.append((f"{prefix}{name}.", value))
            elif name in parameters or buffers is None or name in buffers:
                yield prefix + name, value
