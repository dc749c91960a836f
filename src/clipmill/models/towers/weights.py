"""Read weight files safely, and load them into networks without holding them twice."""

from __future__ import annotations

import pickle
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ...errors import WeightsError
from ..weight_files import is_torchscript
from .torchscript import read_archive

_ARCHIVE_EXTRAS = ("input_resolution", "context_length", "vocab_size")
"""Entries of OpenAI's TorchScript archives that describe the model and are not parameters."""


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict without running code from the file.

    Args:
        path: safetensors, a pickled state dict (at the top or under `state_dict`, with or without the prefix `module.`
            of names), or a TorchScript archive.

    Returns:
        Tensors by name, on the CPU, in the file's precision.

    Raises:
        WeightsError: If there is no such file, or it is in none of these formats.
    """
    if not path.is_file():
        raise WeightsError(f"no weights at {str(path)!r} on this machine; random weights are never used")
    try:
        state = _read(path)
    except WeightsError:
        raise
    except Exception as err:  # errors of unpickling, zip and safetensors: all are about this file
        raise WeightsError(f"{str(path)!r} cannot be read as weights: {err}") from err
    if not state or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise WeightsError(f"{str(path)!r} does not have a state dict (names and tensors)")
    if next(iter(state)).startswith("module."):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def read_shards(files: tuple[Path, ...]) -> dict[str, torch.Tensor]:
    """Read a state dict from one file or several shards.

    Raises:
        WeightsError: If one cannot be read, or two have the same name.
    """
    state: dict[str, torch.Tensor] = {}
    for path in files:
        shard = read_weights(path)
        if repeated := sorted(state.keys() & shard.keys()):
            raise WeightsError(f"{str(path)!r} has {repeated[0]!r}, which another shard of these weights has too")
        state.update(shard)
    return state


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(str(path))
    if is_torchscript(path):
        return {name: tensor for name, tensor in read_archive(path).items() if name not in _ARCHIVE_EXTRAS}
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as err:  # its text advises to run the code of the file
        if "global" not in str(err).lower():
            raise WeightsError(f"{str(path)!r} is damaged, or no file of torch.save") from err
        raise WeightsError(
            f"{str(path)!r} holds objects made by code, such as a whole module, instead of tensors alone",
            hint="save the tensors: torch.save(model.state_dict(), path)",
        ) from err
    if isinstance(loaded, dict) and "state_dict" in loaded:
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict):
        raise WeightsError(f"{str(path)!r} has {type(loaded).__name__}, not a state dict")
    return dict(loaded)


_build_lock = threading.RLock()


@contextmanager
def empty_parameters() -> Iterator[None]:
    """Build networks inside this block with parameters without memory, which `fit_weights` replaces with real ones.

    Buffers are real: the constructors compute masks and tables that are in no file. One thread builds at a time;
    networks that other threads build meanwhile are not affected.
    """
    with _build_lock:
        register, builder = torch.nn.Module.register_parameter, threading.get_ident()

        def register_empty(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
            if threading.get_ident() == builder and parameter is not None and parameter.device.type != "meta":
                parameter = torch.nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
            register(module, name, parameter)

        torch.nn.Module.register_parameter = register_empty  # type: ignore[assignment, method-assign]
        try:
            yield
        finally:
            torch.nn.Module.register_parameter = register  # type: ignore[assignment, method-assign]


def fit_weights(
    module: torch.nn.Module,
    state: dict[str, torch.Tensor],
    path: Path,
    *,
    may_miss: Callable[[str], bool] = lambda name: name.endswith("num_batches_tracked"),
    may_have: Callable[[str], bool] = lambda name: name.endswith("position_ids"),
) -> None:
    """Load weights into a module, strictly: every name and shape must match.

    The module uses the tensors themselves, in float32; those of a memory-mapped file stay mapped.

    Args:
        module: Built inside `empty_parameters`.
        state: Tensors by name; it is emptied, so that converted tensors are not held twice.
        path: The file, for the message.
        may_miss: Returns whether a name need not be in the file (such as a buffer that the module has anyway).
        may_have: Returns whether a name in the file may be ignored.

    Raises:
        WeightsError: If they do not fit; the message has the first missing and unexpected names.
    """
    own = module.state_dict()
    ready: dict[str, torch.Tensor] = {}
    for name in list(state):
        tensor = state.pop(name)
        # Others are refused below, without a copy: a file of a few bytes may claim any shape.
        is_converted = name in own and own[name].numel() == tensor.numel()
        if is_converted and tensor.is_floating_point():
            tensor = tensor.float()
        if is_converted and tensor.numel() == 1:
            tensor = tensor.reshape(own[name].shape)  # scalars in older files have shape (1,)
        ready[name] = tensor
    try:
        missing, unexpected = module.load_state_dict(ready, strict=False, assign=True)
    except RuntimeError as err:
        raise WeightsError(f"{str(path)!r} does not fit the architecture: {str(err)[:600]}") from err
    missing = [name for name in missing if not may_miss(name)]
    unexpected = [name for name in unexpected if not may_have(name)]
    if missing or unexpected:
        raise WeightsError(
            f"{str(path)!r} does not fit the architecture: {len(missing)} names missing {missing[:3]},"
            f" {len(unexpected)} unexpected {unexpected[:3]}"
        )
    module.eval().requires_grad_(False)
