"""Reading weight files safely, and knowing them by their hash."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch

from ..errors import WeightsError

_ARCHIVE_EXTRAS = ("input_resolution", "context_length", "vocab_size")
"""Entries of OpenAI's TorchScript archives that describe the model and are none of its parameters."""


def is_torchscript(path: Path) -> bool:
    """Tell whether a file is a TorchScript archive, as OpenAI published its weights."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict, running none of the file's code.

    Args:
        path: safetensors, a pickled state dict (bare, or under `state_dict`, with or without `module.` before the
            names), or a TorchScript archive.

    Returns:
        Tensors by name, on the CPU, in the file's own precision.

    Raises:
        WeightsError: If there is no such file, or it is none of these.
    """
    if not path.is_file():
        raise WeightsError(f"no weights at {str(path)!r} on this machine; nothing is run with random weights")
    try:
        state = _read(path)
    except WeightsError:
        raise
    except Exception as err:  # unpickling, zip, safetensors and jit errors: all mean this file
        raise WeightsError(f"{str(path)!r} cannot be read as weights: {err}") from err
    if not state or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise WeightsError(f"{str(path)!r} holds no state dict (names and tensors)")
    if next(iter(state)).startswith("module."):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(str(path))
    if is_torchscript(path):
        state = torch.jit.load(str(path), map_location="cpu").state_dict()
        return {name: tensor for name, tensor in state.items() if name not in _ARCHIVE_EXTRAS}
    loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    if isinstance(loaded, dict) and "state_dict" in loaded:
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict):
        raise WeightsError(f"{str(path)!r} holds {type(loaded).__name__}, not a state dict")
    return dict(loaded)


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256, computed once and kept beside it (`.<name>.sha256`) with its size and time.

    Where the file's folder cannot be written, the hash is computed at every call.
    """
    status = path.stat()
    stamp = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    note = path.with_name(f".{path.name}.sha256")
    try:
        known = json.loads(note.read_text())
        if all(known[key] == value for key, value in stamp.items()):
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as draft:
            json.dump({**stamp, "sha256": digest}, draft)
        os.chmod(draft.name, 0o644)  # other users' workers read the same weights
        os.replace(draft.name, note)
    except OSError:
        pass  # a read-only folder: the hash is right all the same
    return digest
