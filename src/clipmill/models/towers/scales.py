"""Read the learnt scales and biases of logits from weight files, without torch if the format allows it.

CLIP's logit is exp(logit_scale) · cosine. OpenAI clamps exp(logit_scale) to 100 in training only; open_clip and
transformers do not clamp it either, so the value in the file is used. AudioCLIP has a parameter for each pair of
modalities and clamps all three whenever it computes logits. SigLIP's models add a `logit_bias`, so that the sigmoid of
a logit is the probability that a pair matches (Zhai et al. 2023, arXiv:2303.15343). It is the same for all candidates
of a query, so softmax cancels it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import WeightsError
from ..model import checked_biases, checked_scales

AUDIOCLIP_BOUNDS = (1.0, 100.0)
"""The bounds to which AudioCLIP's own code clamps its scales."""

_MAX_SCALE = float(np.finfo(np.float32).max)
"""Larger scales are infinity in the references."""

_NUMPY_DTYPES = ("F16", "F32", "F64")
"""Dtypes of safetensors that numpy supports; bfloat16 needs torch."""

_ALL_PAIRS = {
    frozenset({"text", "image"}): "logit_scale",
    frozenset({"audio", "image"}): "logit_scale_ai",
    frozenset({"audio", "text"}): "logit_scale_at",
}
_PAIR = {frozenset({"text", "image"}): "logit_scale"}
_PAIR_BIAS = {frozenset({"text", "image"}): "logit_bias"}
_CLAP_PAIR = {frozenset({"audio", "text"}): "logit_scale_a"}


def clip_scales(files: Collection[Path]) -> dict[frozenset[str], float]:
    """Return the scale of a CLIP model, by its one pair of modalities; empty if the files lack it.

    Args:
        files: The weights of open_clip, OpenAI or transformers, in one file or several shards.

    Raises:
        WeightsError: If a file cannot be read, or its scale is not a finite number above 0.
    """
    return _read_scales(files, _PAIR, (0.0, math.inf))


def clip_biases(files: Collection[Path]) -> dict[frozenset[str], float]:
    """Return the bias of a CLIP model, by its one pair of modalities; empty if the files lack it: SigLIP's have it.

    Args:
        files: The weights of open_clip or transformers, in one file or several shards.

    Raises:
        WeightsError: If a file cannot be read, or its bias is not a finite number.
    """
    return {pair: _finite(array, what) for pair, array, what in _find(files, _PAIR_BIAS)}


def audioclip_scales(files: Collection[Path]) -> dict[frozenset[str], float]:
    """Return the scales of AudioCLIP, by pair of modalities; those that the file lacks are left out.

    Raises:
        WeightsError: If a file cannot be read, or a parameter is not a finite number.
    """
    return _read_scales(files, _ALL_PAIRS, AUDIOCLIP_BOUNDS)


def clap_scales(files: Collection[Path]) -> dict[frozenset[str], float]:
    """Return the scale of CLAP for audio and texts; empty if the files lack it.

    CLAP has one scale for the texts of a clip and another for the clips of a text. This is the first: it is the one of
    zero-shot classification.

    Raises:
        WeightsError: If a file cannot be read, or its scale is not a finite number above 0.
    """
    return _read_scales(files, _CLAP_PAIR, (0.0, math.inf))


def _read_scales(
    files: Collection[Path], names: Mapping[frozenset[str], str], bounds: tuple[float, float]
) -> dict[frozenset[str], float]:
    return {pair: _scale(array, bounds, what) for pair, array, what in _find(files, names)}


def _find(
    files: Collection[Path], names: Mapping[frozenset[str], str]
) -> Iterator[tuple[frozenset[str], np.ndarray, str]]:
    """Yield the parameter of each pair from the first file that has it, with its name for messages."""
    wanted = dict(names)
    for path in files:
        found = _read_parameters(path, wanted.values()) if wanted else {}
        for pair, name in list(wanted.items()):
            if name in found:
                yield pair, found[name], f"{name!r} in {str(path)!r}"
                del wanted[pair]


def _check_shape(shape: Collection[int], name: str, path: Path) -> None:
    """Refuse all but one number, before it is converted: a file of a few bytes may claim any shape."""
    if math.prod(shape) != 1:
        what = f"{name!r} in {str(path)!r}"
        raise WeightsError(f"{what} has shape {tuple(shape)}; a learnt scale or bias must be one number")


def _finite(parameter: np.ndarray, what: str) -> float:
    value = float(parameter.astype(np.float32).item())  # the precision in which models are loaded
    if not math.isfinite(value):
        raise WeightsError(f"{what} is {value!r}, perhaps from a failed training; use scores that do not need it")
    return value


def _scale(parameter: np.ndarray, bounds: tuple[float, float], what: str) -> float:
    value = float(parameter.astype(np.float32).item())  # the precision in which models are loaded
    if not math.isfinite(value):
        raise WeightsError(f"{what} is {value!r}, perhaps from a failed training; give a number instead")
    with np.errstate(over="ignore", under="ignore"):
        scale = min(max(float(np.exp(value)), bounds[0]), bounds[1])
    if not 0 < scale <= _MAX_SCALE:
        raise WeightsError(f"{what} is {value!r}, whose exponential is not finite and above 0; give a number instead")
    return scale


def _read_parameters(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Return the parameters that a file has, by name.

    Raises:
        WeightsError: If it cannot be read.
    """
    if path.suffix == ".safetensors" and path.is_file():
        return _from_safetensors(path, names)
    try:
        from .weights import read_weights
    except ImportError as err:
        raise WeightsError(
            f"reading {str(path)!r} needs torch, which is not installed: pip install 'clipmill[torch]'"
        ) from err
    found = {name: tensor for name, tensor in read_weights(path).items() if name in names}
    for name, tensor in found.items():
        _check_shape(tensor.shape, name, path)
    return {name: tensor.float().numpy() for name, tensor in found.items()}


def _from_safetensors(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    from safetensors import safe_open

    try:
        with safe_open(str(path), framework="np") as file:
            stored_names = {name.removeprefix("module."): name for name in file.keys()}  # noqa: SIM118 - not a mapping
            found = {name: stored_names[name] for name in names if name in stored_names}
            for name, stored in found.items():
                _check_shape(file.get_slice(stored).get_shape(), name, path)
            if all(file.get_slice(stored).get_dtype() in _NUMPY_DTYPES for stored in found.values()):
                return {name: file.get_tensor(stored) for name, stored in found.items()}
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(stored).float().numpy() for name, stored in found.items()}
    except WeightsError:
        raise
    except Exception as err:  # the Rust library's errors and those of the operating system: all are about this file
        raise WeightsError(f"{str(path)!r} cannot be read as weights: {err}") from err


def scales_as_dict(scales: Mapping[frozenset[str], float]) -> dict[str, float]:
    """Return scales or biases in the form of a manifest: `{"image-text": 100.0}`."""
    return {"-".join(sorted(pair)): scale for pair, scale in sorted(scales.items(), key=lambda item: sorted(item[0]))}


def scales_of_dict(written: Any, modalities: Collection[str], where: str) -> dict[frozenset[str], float]:
    """Parse the result of `scales_as_dict`.

    Args:
        written: A manifest's entry; None in manifests of versions that wrote none.
        modalities: The model's modalities.
        where: The manifest, for messages.

    Raises:
        WeightsError: If it is invalid.
    """
    return _parsed(written, modalities, where, "learnt_scales", checked_scales)


def biases_of_dict(written: Any, modalities: Collection[str], where: str) -> dict[frozenset[str], float]:
    """Parse the biases of a manifest, which `scales_as_dict` wrote; see `scales_of_dict`."""
    return _parsed(written, modalities, where, "learnt_biases", checked_biases)


def _parsed(
    written: Any,
    modalities: Collection[str],
    where: str,
    entry: str,
    checked: Callable[[Mapping[frozenset[str], float], Collection[str], str], dict[frozenset[str], float]],
) -> dict[frozenset[str], float]:
    if written is None:
        return {}
    if not isinstance(written, dict):
        raise WeightsError(f"{where}: {entry} is {written!r}; it must have numbers by pair, like {{'image-text': 100}}")
    return checked({frozenset(pair.split("-")): number for pair, number in written.items()}, modalities, where)
