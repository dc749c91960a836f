"""Linear heads: a weight and a bias that turn a vector into scores, read from files of untrusted authors.

The predictors of aesthetics that LAION published are such heads: the first (`sa_0_4_vit_l_14_linear.pth`) has `weight`
and `bias`. The second (`sac+logos+ava1-l14-linearMSE.pth`) has five linear layers with nothing but dropout, which does
nothing at inference, between them. Their product is one linear layer, which is computed here in float64.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import math
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ClipmillError, WeightsError
from .installed import require_torch

MAX_BYTES = 64 * 2**20
"""Bytes of a head's file, and of its values in float64."""

_LAION_LAYERS = (0, 2, 4, 6, 7)
"""Numbers of the linear layers of LAION's second predictor; those with activations between them have others."""
_SAFE_DTYPES = ("F16", "F32", "F64")
"""Dtypes of safetensors that numpy supports."""
_HEADERS: Mapping[tuple[int, int], Callable[..., Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclasses.dataclass(frozen=True, slots=True)
class LinearHead:
    """A weight and a bias; it compares by value, and pickles to its bytes.

    Attributes:
        outputs: Number of scores.
        dim: Number of values in a vector.
        values: (outputs, dim + 1) float64 in row-major order; the bias is the last column.
        sha256: Of the file.
    """

    outputs: int
    dim: int
    values: bytes
    sha256: str

    def apply(self, vector: np.ndarray) -> np.ndarray:
        """Return the scores of one vector or several: (outputs,) or (n, outputs) float64 for (dim,) or (n, dim)."""
        matrix = np.frombuffer(self.values, np.float64).reshape(self.outputs, self.dim + 1)
        scores: np.ndarray = np.asarray(vector, np.float64) @ matrix[:, :-1].T + matrix[:, -1]
        return scores


def read_linear_head(path: str | os.PathLike[str], dim: int) -> LinearHead:
    """Read a head without running code from its file.

    - `.safetensors`, `.npz`: `weight`, (dim,) or (outputs, dim), and `bias`, (outputs,), which may be missing; their
      names may have a common prefix, such as `linear.`
    - `.npy`: the weight alone, or with the bias as its last column: (dim + 1,) or (outputs, dim + 1)
    - `.pth`, `.pt`, `.bin`: a state dict of torch with these names, or LAION's five layers

    Args:
        path: A local file.
        dim: Number of values in the vectors that it scores.

    Raises:
        WeightsError: If the file cannot be read, is larger than `MAX_BYTES`, holds no linear head, or one for vectors
            of another length.
        MissingExtraError: If it is a file of torch, which is not installed.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise WeightsError(f"there is no file {str(path)!r} on this machine")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise WeightsError(f"{str(path)!r} has {size:,} bytes, and a head has at most {MAX_BYTES:,}")
        data = path.read_bytes()
    except OSError as err:
        raise WeightsError(f"{str(path)!r} cannot be read: {err}") from err
    try:
        tensors = _tensors(path, data)
        weight, bias = _weight_and_bias(tensors, dim, is_npy=path.suffix == ".npy")
    except WeightsError as err:
        raise WeightsError(f"{str(path)!r}: {err}") from err
    except ClipmillError:
        raise
    except Exception as err:  # errors of zip, of headers and of safetensors: all are about this file
        raise WeightsError(f"{str(path)!r} cannot be read as a head: {type(err).__name__}: {err}") from err
    values = np.concatenate([weight, bias[:, None]], axis=1)
    if not np.isfinite(values).all():
        raise WeightsError(f"{str(path)!r} has weights that are not finite")
    return LinearHead(len(bias), dim, values.tobytes(), hashlib.sha256(data).hexdigest())


def _tensors(path: Path, data: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of a file by name, in float64."""
    match path.suffix:
        case ".npy":
            return {"weight": _npy_array(data)}
        case ".npz":
            return _npz_arrays(data)
        case ".safetensors":
            return _safetensors_arrays(path)
        case ".pth" | ".pt" | ".bin":
            return _torch_arrays(path)
    raise WeightsError("a head's file ends with .safetensors, .npz, .npy, .pth, .pt or .bin")


def _npy_array(data: bytes) -> np.ndarray:
    """Return the array of a `.npy` file, whose header is compared with its size before anything is allocated."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise WeightsError(f"it is a .npy file of the version {version}")
    shape, is_fortran, dtype = _HEADERS[version](file)
    body = data[file.tell() :]
    if dtype.kind not in "fiu":
        raise WeightsError(f"it holds {dtype}, not numbers")
    if math.prod(shape) * dtype.itemsize != len(body):
        raise WeightsError(f"its header says {shape} of {dtype}, which is not what its {len(body)} bytes hold")
    _check_count(math.prod(shape))
    array = np.frombuffer(body, dtype).reshape(shape, order="F" if is_fortran else "C")
    return np.asarray(array, np.float64)


def _npz_arrays(data: bytes) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if (size := sum(info.file_size for info in archive.infolist())) > MAX_BYTES:
            raise WeightsError(f"its arrays have {size:,} bytes, and a head has at most {MAX_BYTES:,}")
        arrays: dict[str, np.ndarray] = {}
        for name in archive.namelist():
            arrays[name.removesuffix(".npy")] = _npy_array(archive.read(name))
            _check_count(sum(array.size for array in arrays.values()))
        return arrays


def _safetensors_arrays(path: Path) -> dict[str, np.ndarray]:
    from safetensors import safe_open

    with safe_open(str(path), framework="np") as file:
        names = list(file.keys())
        kinds = {name: file.get_slice(name).get_dtype() for name in names}
        if other := [name for name in names if kinds[name] not in _SAFE_DTYPES]:
            raise WeightsError(f"{other[0]!r} is {kinds[other[0]]}; it must be one of {', '.join(_SAFE_DTYPES)}")
        _check_count(sum(math.prod(file.get_slice(name).get_shape()) for name in names))
        return {name: np.asarray(file.get_tensor(name), np.float64) for name in names}


def _torch_arrays(path: Path) -> dict[str, np.ndarray]:
    require_torch(f"{path.name}, a file of torch,")
    from .towers.weights import read_weights

    state = read_weights(path)
    _check_count(sum(tensor.numel() for tensor in state.values()))  # a file of a few bytes may claim any shape
    return {name: tensor.double().numpy() for name, tensor in state.items()}


def _check_count(values: int) -> None:
    """Refuse too many values before they are converted: float64 may take eight times the bytes of a file."""
    if values * 8 > MAX_BYTES:
        raise WeightsError(f"its values have over {MAX_BYTES:,} bytes in float64")


def _weight_and_bias(tensors: Mapping[str, np.ndarray], dim: int, *, is_npy: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the weight, (outputs, dim), and the bias, (outputs,)."""
    weight, bias = _laion_layers(tensors) or _single_layer(tensors)
    rows = weight[None] if weight.ndim == 1 else weight
    if is_npy and rows.ndim == 2 and rows.shape[1] == dim + 1:
        rows, bias = rows[:, :-1], rows[:, -1]
    if rows.ndim != 2 or not rows.size:
        raise WeightsError(f"the weight has the shape {weight.shape}; it must be (dim,) or (outputs, dim)")
    if rows.shape[1] != dim:
        raise WeightsError(f"it takes vectors of {rows.shape[1]} values, and these have {dim}")
    offsets = np.zeros(len(rows)) if bias is None else bias
    if offsets.size != len(rows):
        raise WeightsError(f"the bias has the shape {offsets.shape}, and the weight has {len(rows)} outputs")
    return rows, offsets.reshape(-1)


def _single_layer(tensors: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
    weights = [name for name in tensors if name.rpartition(".")[2] == "weight"]
    prefix = weights[0].removesuffix("weight") if weights else ""
    if len(weights) != 1 or not set(tensors) <= {f"{prefix}weight", f"{prefix}bias"}:
        raise WeightsError(
            f"it has {', '.join(map(repr, list(tensors)[:6])) or 'no arrays'}; a linear head has one 'weight' and, "
            "optionally, one 'bias' (networks with more layers, or with activations between them, are not supported)"
        )
    return tensors[weights[0]], tensors.get(f"{prefix}bias")


def _laion_layers(tensors: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the product of the layers of LAION's second predictor, which has one score; None for another file.

    It is computed from the last layer, whose single row keeps every product small, whatever the shapes in a file.
    """
    names = [(f"layers.{number}.weight", f"layers.{number}.bias") for number in _LAION_LAYERS]
    if set(tensors) != {name for pair in names for name in pair}:
        return None
    for layer, offset in names:
        if tensors[layer].ndim != 2 or tensors[offset].ndim != 1:
            shapes = f"{tensors[layer].shape} and {tensors[offset].shape}"
            raise WeightsError(f"{layer!r} and {offset!r} have the shapes {shapes}; they must be a matrix and a vector")
    weight, bias = (tensors[name] for name in names[-1])
    if len(weight) != 1:
        raise WeightsError(f"{names[-1][0]!r} has the shape {weight.shape}; it must be (1, values)")
    for layer, offset in reversed(names[:-1]):
        weight, bias = weight @ tensors[layer], weight @ tensors[offset] + bias
    return weight, bias
