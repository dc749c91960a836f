"""The torch runtime: the towers themselves, on a CPU or a CUDA device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..catalog.tables import Preprocessing
from ..errors import DeviceError, OutOfMemoryError


class TorchRuntime:
    """Executes the towers as they are.

    Images arrive as uint8 crops and are normalised on the device, by the reference's own operations in its own order
    (divide by 255, subtract the mean, divide by the standard deviation), so that float32 results agree to the bit.
    """

    name = "torch"

    def __init__(
        self,
        towers: Mapping[str, torch.nn.Module],
        preprocessing: Preprocessing | None,
        device: str,
        precision: str = "fp32",
    ) -> None:
        """Move the towers to their device.

        Args:
            towers: By modality, in float32.
            preprocessing: Whose mean and standard deviation the image tower begins with.
            device: `cpu` or `cuda:X`.
            precision: `fp32`.
        """
        self.device = device
        self.precision = precision
        self._device = torch.device(device)
        self._towers = {name: tower.eval().requires_grad_(False).to(self._device) for name, tower in towers.items()}
        if preprocessing is not None:
            self._mean = torch.tensor(preprocessing.mean, device=self._device).view(1, 3, 1, 1)
            self._std = torch.tensor(preprocessing.std, device=self._device).view(1, 3, 1, 1)

    def encode(self, entrance: str, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """See `Runtime.encode`."""
        tower = self._images if entrance == "image" else self._towers[entrance.removeprefix("normalised_")]
        return self._run(tower, inputs)

    def _images(self, crops: torch.Tensor) -> torch.Tensor:
        # contiguous (n, 3, S, S), as the reference's batches are: another memory layout takes other kernels
        values = crops.permute(0, 3, 1, 2).contiguous().to(torch.float32).div_(255)
        return self._towers["image"](values.sub_(self._mean).div_(self._std))

    def _run(self, tower: Any, inputs: Sequence[np.ndarray]) -> np.ndarray:
        try:
            with torch.inference_mode():
                vectors = tower(*(torch.from_numpy(array).to(self._device) for array in inputs))
                return vectors.float().cpu().numpy()
        except torch.AcceleratorError as err:
            raise DeviceError(f"{self.device} failed, and with it every later call: {err}") from err
        except RuntimeError as err:
            if not _is_out_of_memory(err):
                raise
            message = f"{self.device}: {err}"
        # outside of the handler: the error's traceback would keep the memory that is given back here
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        raise OutOfMemoryError(message)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether memory ran out: only CUDA's allocator has an exception type of its own."""
    signs = ("DefaultCPUAllocator", "not enough memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in signs)


def resolve_device(device: str) -> str:
    """Choose the device that a spec means on this machine.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:X`.

    Returns:
        `cpu` or `cuda:X`.

    Raises:
        DeviceError: If a GPU was asked for that is not here, naming those that are.
    """
    if device == "cpu":
        return device
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return f"cuda:{torch.cuda.current_device()}" if count else "cpu"
    index = int(device.partition(":")[2]) if ":" in device else (torch.cuda.current_device() if count else 0)
    if index >= count:
        present = ", ".join(f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(count)) or "none"
        raise DeviceError(f"device={device!r} was asked for; CUDA devices here: {present}")
    return f"cuda:{index}"


def use_threads(count: int) -> None:
    """Set torch's threads inside one operation: engines leave misleading defaults (Spark: OMP_NUM_THREADS=1)."""
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
