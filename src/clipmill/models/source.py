"""Everything that makes one model, found but not read yet: `ModelSource`; and its graphs, where there are some."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .frontend import Frontend
from .weight_files import sha256_of

if TYPE_CHECKING:
    import torch


NOTE = "graphs.json"
"""Written last: a folder without it is not whole."""


@dataclasses.dataclass(frozen=True)
class Graphs:
    """A folder of graphs.

    Attributes:
        folder: Where they are.
        files: File names by entrance; without `image`, crops are normalised before `normalised_image`.
        kind: `float`, or what the weights were turned into: `fp16`, `int8` (by ONNX Runtime), `int8-openvino`.
        runtime: What they were exported for; what `auto` means.
        precision: What they were exported for; what `auto` means.
    """

    folder: Path
    files: Mapping[str, str]
    kind: str = "float"
    runtime: str = "auto"
    precision: str = "auto"

    def path(self, entrance: str) -> Path:
        """Return the file behind an entrance."""
        return self.folder / self.files[entrance]

    def write_note(self) -> None:
        """Mark the folder as whole, with the size of everything in it."""
        sizes = {path.name: path.stat().st_size for path in self.folder.iterdir()}
        note = {"files": dict(self.files), "kind": self.kind, "sizes": sizes}
        (self.folder / NOTE).write_text(json.dumps(note), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Graphs | None:
        """Return the graphs of a folder; None if there are none, or not all of them."""
        try:
            note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
            whole = all((folder / name).stat().st_size == size for name, size in note["sizes"].items())
            return cls(folder, note["files"], note["kind"]) if whole else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """One model: how its values are prepared, which files hold its weights, and how its networks are built.

    Finding a source imports no torch, so that a process that runs graphs made earlier starts without it.

    Attributes:
        frontend: How values are prepared.
        files: The files with weights, in a fixed order.
        build: Returns the towers, weights loaded, in float32 on the CPU and in eval mode, by modality: modules whose
            `forward` takes what the entrance of the same name is given (`image`: normalised (n, 3, S, S) float32, since
            the normalisation is the runtime's; see `clipmill.models.model.Runtime`) and returns (n, dim).
        settings: What else decides the vectors (activation, mode, …): plain values, part of the graphs' key.
        resolved: What the provenance should say beside the weights' hash.
        runtimes: Which runtimes its towers can run in.
        auto_precision: What `precision="auto"` means for this model, where more is known than a check on a few probes
            tells; None leaves it to the check.
        graphs: Graphs that are there already, in place of towers.
        scales: Returns what the model learnt to multiply cosines by, by pair of modalities. It may open the weights,
            and raises `WeightsError` if what they hold is no scale; see `clipmill.models.towers.scales`.
    """

    frontend: Frontend
    files: tuple[Path, ...]
    build: Callable[[], Mapping[str, torch.nn.Module]]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    resolved: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    runtimes: tuple[str, ...] = ("torch", "onnx", "openvino")
    auto_precision: str | None = None
    graphs: Graphs | None = None
    scales: Callable[[], Mapping[frozenset[str], float]] = dict

    @functools.cached_property
    def weights_sha256(self) -> str:
        """The hash of the file with the weights; of several, the hash of their hashes, one a line."""
        hashes = [sha256_of(path) for path in self.files]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()

    @functools.cached_property
    def key(self) -> str:
        """Names what the towers compute: equal for equal weights and settings."""
        settings = json.dumps(dict(self.settings), sort_keys=True)
        return hashlib.sha256(f"{self.weights_sha256}\n{settings}".encode()).hexdigest()
