"""The torch runtime: the towers themselves, on a CPU or a CUDA device."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ...errors import DeviceError, OutOfMemoryError
from ...media.options import Preprocessing
from ...messages import setting
from ..support_matrix import has_native_bfloat16

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_MULTIPLYING = (torch.nn.Linear, torch.nn.modules.conv._ConvNd, torch.nn.MultiheadAttention)
"""Modules whose weights are kept in the reduced precision; the rest (norms, embeddings, positions) is cheap."""


class TorchRuntime:
    """Executes the towers as they are.

    Images arrive as uint8 crops and are normalised on the device, by the reference's own operations in its own order
    (divide by 255, subtract the mean, divide by the standard deviation), so that float32 results agree to the bit.

    In bf16 and fp16 the multiplications are done in that precision, on weights that are kept in it; sums along the
    network, norms and softmax stay in float32, which costs little and keeps the vectors near.
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
            towers: By modality, in float32. With another precision their weights are turned into it, in place.
            preprocessing: Whose mean and standard deviation the image tower begins with.
            device: `cpu` or `cuda:X`.
            precision: `fp32`, `bf16` or `fp16` (on CUDA).

        Raises:
            DeviceError: If the device does not compute in the precision itself.
        """
        self.device = device
        self.precision = precision
        self._device = torch.device(device)
        self._dtype = _DTYPES[precision]
        self._check_precision()
        if precision == "fp32":
            use_exact_float32()
        self._towers = {}
        for name, tower in towers.items():
            tower = tower.eval().requires_grad_(False)
            if self._dtype != torch.float32:
                _reduce(tower, self._dtype)
            self._towers[name] = tower.to(self._device)
        if preprocessing is not None:
            self._mean = torch.tensor(preprocessing.mean, device=self._device).view(1, 3, 1, 1)
            self._std = torch.tensor(preprocessing.std, device=self._device).view(1, 3, 1, 1)
        self._staging = _Staging(self._device) if self._device.type == "cuda" else None

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
            with torch.inference_mode(), self._arithmetic():
                vectors = tower(*(self._move(array, place) for place, array in enumerate(inputs)))
                return vectors.float().cpu().numpy()
        except RuntimeError as err:
            if not _is_out_of_memory(err):
                if isinstance(err, torch.AcceleratorError):
                    raise DeviceError(f"{self.device} failed, and with it every later call: {err}") from err
                raise
            message = f"{self.device}: {err}"
        # outside of the handler: the error's traceback would keep the memory that is given back here
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        raise OutOfMemoryError(message)

    def _move(self, array: np.ndarray, place: int) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self._staging is None else self._staging.move(tensor, place)

    def _arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        if self._dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, self._dtype)

    def _check_precision(self) -> None:
        if self.precision == "fp32":
            return
        if self._device.type == "cuda":
            # major version 8 (Ampere) is the first with bfloat16; older ones emulate it, slowly
            if self.precision == "bf16" and torch.cuda.get_device_capability(self._device)[0] < 8:
                raise DeviceError(
                    setting("precision", "bf16") + " needs a GPU that multiplies bfloat16 itself;"
                    f" {torch.cuda.get_device_name(self._device)} does not: fp16 and fp32 work on it"
                )
        elif self.precision != "bf16":
            raise DeviceError(setting("precision", self.precision) + f" runs on a CUDA device, not on {self.device}")
        elif not has_native_bfloat16():
            raise DeviceError(
                setting("precision", "bf16")
                + " needs a processor that multiplies bfloat16 itself (avx512_bf16, amx_bf16 or Arm's"
                " bf16), which this one does not: fp32 works on it"
            )


class _Staging:
    """Page-locked memory that arrays go through on their way to a GPU, used again for every call.

    The copy runs on a stream of its own, so that it does not wait for kernels of earlier calls.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._buffers: dict[int, torch.Tensor] = {}
        self._copied: dict[int, torch.cuda.Event] = {}

    def move(self, tensor: torch.Tensor, place: int) -> torch.Tensor:
        """Return a copy on the device, ready for kernels of the current stream.

        Args:
            tensor: On the CPU, contiguous.
            place: Which input of the call it is; each has its own buffer.
        """
        nbytes = tensor.numel() * tensor.element_size()
        if place in self._copied:
            self._copied[place].synchronize()  # the buffer's last content must have left it
        buffer = self._buffers.get(place)
        if buffer is None or buffer.numel() < nbytes:
            buffer = self._buffers[place] = torch.empty(max(nbytes, 1), dtype=torch.uint8, pin_memory=True)
        staged = buffer[:nbytes].view(tensor.dtype).view(tensor.shape)
        staged.copy_(tensor)
        current = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            moved = staged.to(self._device, non_blocking=True)
            self._copied[place] = self._stream.record_event()
        current.wait_event(self._copied[place])
        moved.record_stream(current)  # its memory is not given to anyone else before these kernels are done
        return moved


def _reduce(tower: torch.nn.Module, dtype: torch.dtype) -> None:
    """Keep the weights of everything that multiplies in a reduced precision."""
    for module in tower.modules():
        if isinstance(module, _MULTIPLYING):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether memory ran out: only the allocator of CUDA's memory has an exception type of its own.

    Kernels that are loaded when they are first called, and page-locked memory, fail as a CUDA error.
    """
    signs = ("DefaultCPUAllocator", "not enough memory", "ALLOC_FAILED", "CUDA error: out of memory")
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
        raise DeviceError(setting("device", device) + f" was asked for; CUDA devices here: {present}")
    return f"cuda:{index}"


def use_exact_float32() -> None:
    """Multiply float32 as float32, in this process from now on: results in it are promised to 1e-4.

    On GPUs, torch's convolutions round to TF32 (10 bits of mantissa) unless told otherwise; so do matrix products, and
    on CPUs those in bfloat16, where a program has allowed it.
    """
    cudnn: Any = torch.backends.cudnn  # typed in part
    cudnn.allow_tf32 = False
    # over torch.backends.fp32_precision; both, since torch refuses to tell allow_tf32 where they differ
    cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = "ieee"
    torch.set_float32_matmul_precision("highest")


def use_threads(count: int) -> None:
    """Set torch's threads inside one operation: engines leave misleading defaults (Spark: OMP_NUM_THREADS=1)."""
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
