"""The torch runtime: executes the towers directly, on a CPU or a CUDA device."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ...errors import DeviceError, OutOfMemoryError, ran_out_of_memory
from ...media.options import Preprocessing
from ...messages import setting
from ..support_matrix import has_native_bfloat16

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_REDUCED_MODULES = (torch.nn.Linear, torch.nn.modules.conv._ConvNd, torch.nn.MultiheadAttention)
"""Modules whose weights are converted to the reduced precision; the rest (norms, embeddings) costs little."""


class TorchRuntime:
    """Executes the towers directly.

    Images are uint8 crops, normalised on the device with the operations of the reference in the same order (divide by
    255, subtract the mean, divide by the standard deviation), so that float32 results are bit-identical.

    In bf16 and fp16, multiplications run in that precision, on weights converted to it. Residual sums, norms and
    softmax stay in float32, which costs little and keeps the vectors close.
    """

    name = "torch"
    streams = 1  # of its calls, each has all cores
    kept = ()

    def __init__(
        self,
        towers: Mapping[str, torch.nn.Module],
        preprocessing: Preprocessing | None,
        device: str,
        precision: str = "fp32",
    ) -> None:
        """Move the towers to their device.

        Args:
            towers: By modality, in float32. With another precision their weights are converted to it, in place.
            preprocessing: Has the mean and standard deviation of images; None without an image tower.
            device: `cpu` or `cuda:X`.
            precision: `fp32`, `bf16` or `fp16` (on CUDA).

        Raises:
            DeviceError: If the device does not support the precision natively.
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

    def encode(self, model_input: str, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """See `Runtime.encode`."""
        tower = self._images if model_input == "image" else self._towers[model_input.removeprefix("normalised_")]
        return self._run(tower, inputs)

    def _images(self, crops: torch.Tensor) -> torch.Tensor:
        # contiguous (n, 3, S, S) like the reference's batches, since the memory layout affects the choice of kernels
        values = crops.permute(0, 3, 1, 2).contiguous().to(torch.float32).div_(255)
        return self._towers["image"](values.sub_(self._mean).div_(self._std))

    def _run(self, tower: Any, inputs: Sequence[np.ndarray]) -> np.ndarray:
        try:
            with torch.inference_mode(), self._arithmetic():
                vectors = tower(*(self._move(array, position) for position, array in enumerate(inputs)))
                return vectors.float().cpu().numpy()
        except RuntimeError as err:
            if not isinstance(err, torch.OutOfMemoryError) and not ran_out_of_memory(err):
                if isinstance(err, getattr(torch, "AcceleratorError", ())):  # not in every torch
                    raise DeviceError(f"{self.device} failed, and so will every later call: {err}") from err
                raise
            message = f"{self.device}: {err}"
        # outside the handler, since the error's traceback would keep the memory that is released here
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        raise OutOfMemoryError(message)

    def _move(self, array: np.ndarray, position: int) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self._staging is None else self._staging.move(tensor, position)

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
                    setting("precision", "bf16") + " needs a GPU with native bfloat16;"
                    f" {torch.cuda.get_device_name(self._device)} has none; use fp16 or fp32"
                )
        elif self.precision != "bf16":
            raise DeviceError(setting("precision", self.precision) + f" runs on a CUDA device, not on {self.device}")
        elif not has_native_bfloat16():
            raise DeviceError(
                setting("precision", "bf16")
                + " needs a processor with native bfloat16 (avx512_bf16, amx_bf16 or Arm's bf16),"
                " which this one does not have; use fp32"
            )


class _Staging:
    """Page-locked buffers for copies of arrays to a GPU, reused for every call.

    Copies run on a separate stream, so that they do not wait for kernels of earlier calls.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._buffers: dict[int, torch.Tensor] = {}
        self._copied: dict[int, torch.cuda.Event] = {}

    def move(self, tensor: torch.Tensor, position: int) -> torch.Tensor:
        """Return a copy on the device, ready for kernels of the current stream.

        Args:
            tensor: On the CPU, contiguous.
            position: The index of the input in the call; each has its own buffer.
        """
        nbytes = tensor.numel() * tensor.element_size()
        if position in self._copied:
            self._copied[position].synchronize()  # the previous copy from the buffer must be done
        buffer = self._buffers.get(position)
        if buffer is None or buffer.numel() < nbytes:
            buffer = self._buffers[position] = torch.empty(max(nbytes, 1), dtype=torch.uint8, pin_memory=True)
        staged = buffer[:nbytes].view(tensor.dtype).view(tensor.shape)
        staged.copy_(tensor)
        current = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            moved = staged.to(self._device, non_blocking=True)
            self._copied[position] = self._stream.record_event()
        current.wait_event(self._copied[position])
        moved.record_stream(current)  # its memory is not reused before these kernels are done
        return moved


def _reduce(tower: torch.nn.Module, dtype: torch.dtype) -> None:
    """Convert the weights of modules that multiply to a reduced precision."""
    for module in tower.modules():
        if isinstance(module, _REDUCED_MODULES):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)


def resolve_device(device: str) -> str:
    """Resolve the device of a spec on this machine.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:X`.

    Returns:
        `cpu` or `cuda:X`.

    Raises:
        DeviceError: If the requested GPU does not exist; the message lists those that do.
    """
    if device == "cpu":
        return device
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return f"cuda:{torch.cuda.current_device()}" if count else "cpu"
    index = int(device.partition(":")[2]) if ":" in device else (torch.cuda.current_device() if count else 0)
    if index >= count:
        present = ", ".join(f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(count)) or "none"
        raise DeviceError(setting("device", device) + f" does not exist; CUDA devices here: {present}")
    return f"cuda:{index}"


def use_exact_float32() -> None:
    """Turn off reduced-precision float32 in this process, since float32 results are promised within 1e-4.

    On GPUs, torch's convolutions round to TF32 (10 bits of mantissa) by default. So do matrix products, to TF32 or on
    CPUs to bfloat16, if the program has allowed it.
    """
    cudnn: Any = torch.backends.cudnn  # only partly typed
    cudnn.allow_tf32 = False
    if hasattr(cudnn, "conv"):  # from torch 2.9
        # overrides torch.backends.fp32_precision; both are set, since torch raises on reading allow_tf32 if they differ
        cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = "ieee"
    torch.set_float32_matmul_precision("highest")


def use_threads(count: int) -> None:
    """Set torch's intra-op threads: engines leave misleading defaults (Spark: OMP_NUM_THREADS=1)."""
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
