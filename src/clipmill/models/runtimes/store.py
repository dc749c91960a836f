"""The cache of graphs: made once per machine, published atomically, usable read-only."""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...files.atomic import write_atomic
from ...files.cache import cache_root, locked
from ...files.json_text import parse_json
from ..installed import require_torch, versions
from ..progress import observed_step, observer
from ..source import Graphs
from .graphs import make_graphs

if TYPE_CHECKING:
    import torch

    from ..source import ModelSource

_log = logging.getLogger("clipmill")

_FORMAT = 1
"""Incremented when graphs are made in another way, so that old ones are not reused."""

_MAKERS = ("torch", "onnx", "onnxscript", "open_clip_torch", "transformers", "timm")
_CONVERTERS = {"fp16": ("onnxruntime", "onnxruntime-gpu"), "int8": ("onnxruntime", "onnxruntime-gpu")}
_CONVERTERS["int8-openvino"] = ("openvino", "nncf")


class Store:
    """The cached graphs of one model.

    The towers are built at most once, and only if a graph has to be made or checked.
    """

    def __init__(self, source: ModelSource, cache_dir: str | None, name: str = "a model") -> None:
        """Create the store, without accessing the cache.

        Args:
            source: The model.
            cache_dir: `cache_dir` of the spec.
            name: The model's name, for messages.
        """
        self.source = source
        self._name = name
        self._root = cache_root(cache_dir) / "graphs"
        self._made: set[str] = set()

    @functools.cached_property
    def towers(self) -> Mapping[str, torch.nn.Module]:
        """The towers, in float32 on the CPU.

        Raises:
            MissingExtraError: If torch is not installed.
        """
        require_torch("building the networks of a model")
        return self.source.build()

    def drop_towers(self) -> None:
        """Release the towers' memory."""
        self.__dict__.pop("towers", None)

    def key(self, kind: str) -> str:
        """Return the key of a kind of graphs: a hash of weights, settings, preprocessing and versions of the makers."""
        image = self.source.frontend.image
        text = self.source.frontend.text
        parts = {
            "format": _FORMAT,
            "model": self.source.key,
            "image": image.as_dict() if image else None,
            "text": [text.tokenizer.context_length, text.fixed_length, text.masked] if text else None,
            "kind": kind,
            "versions": versions(*_MAKERS, *_CONVERTERS.get(kind, ())),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def was_made(self, kind: str) -> bool:
        """Return whether this process made the graphs of a kind, instead of finding them in the cache."""
        return kind in self._made

    def graphs(self, kind: str) -> Graphs:
        """Return the graphs of a kind: those of the model, or else from the cache, made if they are not there.

        Args:
            kind: See `Graphs.kind`.

        Raises:
            WeightsError: If they cannot be made.
            MissingExtraError: If the packages that make them are not installed.
        """
        if self.source.graphs is not None:
            return self.source.graphs
        if kind == "float" and self.source.float_graphs is not None:
            return self.source.float_graphs
        return self._cached(kind)

    def _cached(self, kind: str) -> Graphs:
        folder = self._root / self.key(kind)
        if found := Graphs.read(folder):
            return found
        if not is_writable(self._root):
            _log.warning("%s is not writable: every process makes the graphs again", self._root)
            return self._make(_temporary_folder(folder.name), kind)
        with locked(folder.with_suffix(".lock"), f"{kind} graphs"):
            return Graphs.read(folder) or self._make(folder, kind)

    def compiled(self, kind: str) -> Path:
        """Return the folder for graphs of a kind as compiled by runtimes."""
        return self._root / self.key(kind) / "compiled"

    def _make(self, folder: Path, kind: str) -> Graphs:
        """Make graphs in a draft folder, and rename it when it is complete."""
        if found := Graphs.read(folder):
            return found
        basis = None if kind == "float" else self._cached("float")
        towers = " and ".join(sorted(self.source.frontend.modalities))
        # a warning, unless it is on the terminal: nobody sees other lines of a default log, and waits for long
        level = logging.INFO if observer().is_shown else logging.WARNING
        _log.log(level, "making %s graphs of %s (%s), once on this machine", kind, self._name, towers)
        started = time.perf_counter()
        for stale in folder.parent.glob(f"{folder.name}.draft-*"):  # of a killed process; we hold its lock
            shutil.rmtree(stale, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(prefix=f"{folder.name}.draft-", dir=folder.parent))
        try:
            os.chmod(draft, 0o755)  # other users' workers read the same graphs
            if basis is None:
                graphs = make_graphs(self.towers, self.source.frontend, draft)
            else:
                from .reduced import convert_graphs

                with observed_step(f"converting the graphs to {kind}"):
                    graphs = convert_graphs(basis, kind, self.source.frontend, draft)
            graphs.write_note()
            shutil.rmtree(folder, ignore_errors=True)  # an incomplete one
            draft.rename(folder)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        self._made.add(kind)
        _log.info("made %s graphs of %s in %.1f s: %s", kind, self._name, time.perf_counter() - started, folder)
        made = Graphs.read(folder)
        assert made is not None
        return made

    def known(self, name: str, parts: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return a cached result about this model, or None.

        Args:
            name: The kind of result.
            parts: What the result depends on besides the model.
        """
        try:
            found = parse_json(self._note(name, parts).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def remember(self, name: str, parts: Mapping[str, Any], found: dict[str, Any]) -> None:
        """Cache a result (plain values) for `known`; does nothing if the cache is read-only."""
        note = self._note(name, parts)
        if is_writable(note.parent):
            with contextlib.suppress(OSError):  # a full disk: the result is still valid
                write_atomic(note, json.dumps(found))

    @contextlib.contextmanager
    def locked_note(self, name: str, parts: Mapping[str, Any]) -> Iterator[None]:
        """Keep other processes from computing the same result at the same time."""
        note = self._note(name, parts)
        if not is_writable(note.parent):
            yield
            return
        with locked(note.with_suffix(".lock"), "a measurement of them"):
            yield

    def _note(self, name: str, parts: Mapping[str, Any]) -> Path:
        key = hashlib.sha256(json.dumps([self.key("float"), dict(parts)], sort_keys=True).encode()).hexdigest()[:32]
        return self._root / "notes" / f"{name}-{key}.json"


def is_writable(folder: Path) -> bool:
    """Create a folder if needed; return whether files can be created in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


@functools.cache
def _temporary_root() -> Path:
    root = tempfile.mkdtemp(prefix="clipmill-graphs-")
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return Path(root)


def _temporary_folder(name: str) -> Path:
    """Return a folder that is removed when this process exits."""
    return _temporary_root() / name


def smallest_cosine(vectors: np.ndarray, reference: np.ndarray) -> float:
    """Return the smallest cosine between corresponding rows of two sets of vectors."""
    return float(row_cosines(vectors, reference).min())


def row_cosines(vectors: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the cosines between corresponding rows of two sets of vectors, (n,) float64; -1 where there is none."""
    a, b = (np.asarray(values, np.float64) for values in (vectors, reference))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = (a * b).sum(axis=1) / lengths
    return np.nan_to_num(cosines, nan=-1.0)


def largest_error(vectors: np.ndarray, reference: np.ndarray) -> float:
    """Return the largest |a - b| / |b| over corresponding rows."""
    a, b = (np.asarray(values, np.float64) for values in (vectors, reference))
    with np.errstate(invalid="ignore", divide="ignore"):
        errors = np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)
    return float(np.nan_to_num(errors, nan=np.inf, posinf=np.inf).max())
