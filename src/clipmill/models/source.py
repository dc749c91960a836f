"""`ModelSource`: the files and settings of one model, located but not loaded; `Graphs`: a folder of graphs."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.json_text import parse_json
from .frontend import Frontend
from .support_matrix import RUNTIMES
from .weight_files import sha256_of

if TYPE_CHECKING:
    import torch


NOTE = "graphs.json"
"""Written last: a folder without it is incomplete."""


@dataclasses.dataclass(frozen=True)
class Graphs:
    """A folder of graphs.

    Attributes:
        folder: The folder.
        files: File names by model input. Without `image`, crops are normalised and passed to `normalised_image`.
        kind: `float`, or the type of converted weights: `fp16`, `int8` (by ONNX Runtime), `int8-openvino`.
        runtime: The runtime that they were exported for, which `auto` resolves to.
        precision: The precision that they were exported for, which `auto` resolves to.
    """

    folder: Path
    files: Mapping[str, str]
    kind: str = "float"
    runtime: str = "auto"
    precision: str = "auto"

    def path(self, model_input: str) -> Path:
        """Return the file of a model input."""
        return self.folder / self.files[model_input]

    def write_note(self) -> None:
        """Mark the folder as complete, with the sizes of its files."""
        sizes = {path.name: path.stat().st_size for path in self.folder.iterdir()}
        note = {"files": dict(self.files), "kind": self.kind, "sizes": sizes}
        (self.folder / NOTE).write_text(json.dumps(note), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Graphs | None:
        """Return the graphs of a folder; None if there are none, or the folder is incomplete."""
        try:
            note = parse_json((folder / NOTE).read_text(encoding="utf-8"))
            is_complete = all((folder / name).stat().st_size == size for name, size in note["sizes"].items())
            return cls(folder, note["files"], note["kind"]) if is_complete else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """One model: how its values are prepared, the files of its weights, and how its networks are built.

    Finding a source does not import torch, so that a process with cached graphs starts without it.

    Attributes:
        frontend: How values are prepared.
        files: The files with the weights, in a fixed order.
        build: Returns the towers by modality, with weights loaded, in float32 on the CPU and in eval mode. The
            `forward` of a tower takes the arrays of the model input of the same name (see
            `clipmill.models.model.Runtime`) and returns (n, dim); `image` takes normalised (n, 3, S, S) float32, since
            the runtime normalises.
        settings: Other settings that affect the vectors (activation, mode, …): plain values, part of the graphs' key.
        resolved: Values for the provenance besides the weights' hash.
        runtimes: The runtimes that support its towers.
        auto_precision: The meaning of `precision="auto"` for this model, if a check on a few probes does not suffice;
            None leaves it to the check.
        graphs: Existing graphs, instead of towers.
        float_graphs: Graphs of the kind `float` that come with the weights, equal to the towers: none have to be made,
            and they run without torch. Other kinds are made from the towers.
        scales: Returns the learnt scales of cosines, by pair of modalities. It may open the weights, and raises
            `WeightsError` if a scale is invalid; see `clipmill.models.towers.scales`.
        biases: Returns the learnt biases of logits in the same way; none for most models.
    """

    frontend: Frontend
    files: tuple[Path, ...]
    build: Callable[[], Mapping[str, torch.nn.Module]]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    resolved: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    runtimes: tuple[str, ...] = RUNTIMES[1:]
    auto_precision: str | None = None
    graphs: Graphs | None = None
    float_graphs: Graphs | None = None
    scales: Callable[[], Mapping[frozenset[str], float]] = dict
    biases: Callable[[], Mapping[frozenset[str], float]] = dict

    @functools.cached_property
    def weights_sha256(self) -> str:
        """The hash of the weights file; for several files, the hash of their hashes, one per line."""
        hashes = [sha256_of(path) for path in self.files]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()

    @functools.cached_property
    def key(self) -> str:
        """Identifies the computation of the towers: equal for equal weights and settings."""
        settings = json.dumps(dict(self.settings), sort_keys=True)
        return hashlib.sha256(f"{self.weights_sha256}\n{settings}".encode()).hexdigest()
