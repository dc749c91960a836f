"""Which runtime supports which precision on which kind of device, known without importing any of them.

What this machine lacks (a library, a GPU, an instruction) is not checked here: the runtimes report it when a model
loads.
"""

from __future__ import annotations

import platform
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ..errors import SpecError

RUNTIMES = ("auto", "torch", "onnx", "openvino")
GRAPH_RUNTIMES = ("onnx", "openvino")
"""Runtimes that execute graphs instead of towers."""
PACKAGES = {"torch": ("torch",), "onnx": ("onnxruntime", "onnxruntime-gpu"), "openvino": ("openvino",)}
"""The distributions that provide a runtime; any of them suffices."""
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")

_SUPPORTED = {
    ("torch", "cpu"): ("fp32", "bf16"),
    ("torch", "cuda"): ("fp32", "bf16", "fp16"),
    ("onnx", "cpu"): ("fp32", "int8"),
    ("onnx", "cuda"): ("fp32", "fp16"),
    ("openvino", "cpu"): ("fp32", "bf16", "int8"),
}

_CPUINFO, _DEVICES = Path("/proc/cpuinfo"), Path("/dev")
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Flags in /proc/cpuinfo of processors with native bfloat16 multiplication, on x86 and Arm."""


class Combination(NamedTuple):
    """One way to run a model.

    Attributes:
        runtime: `torch`, `onnx` or `openvino`.
        precision: `fp32`, `bf16`, `fp16` or `int8`.
    """

    runtime: str
    precision: str

    def __str__(self) -> str:
        return f"{self.runtime} {self.precision}"


def combinations(runtime: str, precision: str, device: str) -> list[tuple[Combination, str]]:
    """Return the supported combinations that match a choice; `auto` matches all.

    Args:
        runtime: `auto` or one of the runtimes.
        precision: `auto` or one of the precisions.
        device: `auto`, `cpu`, `cuda` or `cuda:X`.

    Returns:
        (runtime and precision, kind of device: `cpu` or `cuda`), in no order of preference.
    """
    kind = device.partition(":")[0]
    return [
        (Combination(name, supported), place)
        for (name, place), precisions in _SUPPORTED.items()
        for supported in precisions
        if runtime in ("auto", name) and precision in ("auto", supported) and kind in ("auto", place)
    ]


def check_combination(runtime: str, precision: str, device: str) -> None:
    """Refuse a combination that no machine supports.

    Args:
        runtime: `auto` or one of the runtimes.
        precision: `auto` or one of the precisions.
        device: `auto`, `cpu`, `cuda` or `cuda:X`.

    Raises:
        SpecError: If it is not supported; the message lists what the runtime (or else the device) supports.
    """
    if combinations(runtime, precision, device):
        return
    given = " with ".join(
        f"{name}={value!r}"
        for name, value in (("runtime", runtime), ("precision", precision), ("device", device))
        if value != "auto"
    )
    supported: dict[str, list[str]] = {}
    for found, place in combinations(runtime, "auto", "auto"):
        supported.setdefault(f"{found.runtime} on {place}", []).append(found.precision)
    choice = "; ".join(f"{name}: {', '.join(precisions)}" for name, precisions in supported.items())
    raise SpecError(f"{given} is not supported; supported: {choice}")


@cache
def processor() -> str:
    """Return the processor's name and its features that affect speed or results, as one string."""
    found = _cpuinfo("model name") or _cpuinfo("CPU part") or platform.processor() or platform.machine()
    features = sorted(_flags() & {*_BFLOAT16_FLAGS, "avx512_vnni", "avx_vnni", "avx2", "avx512f", "amx_int8"})
    return " ".join([found, *features])


def has_native_bfloat16() -> bool:
    """Return whether this processor multiplies bfloat16 natively; emulated, it is slower than float32."""
    return bool(_flags() & _BFLOAT16_FLAGS)


@cache
def _flags() -> frozenset[str]:
    return frozenset((_cpuinfo("flags") or _cpuinfo("Features")).split())


def _cpuinfo(key: str) -> str:
    """Return the first value of a key in /proc/cpuinfo, "" if there is none."""
    try:
        found = re.search(rf"^{key}\s*:\s*(.*)$", _CPUINFO.read_text(errors="replace"), re.MULTILINE)
    except OSError:
        return ""
    return found.group(1).strip() if found else ""


def may_have_gpu() -> bool:
    """Return whether a GPU driver is loaded, without importing anything: without one there is no CUDA device."""
    patterns = ("nvidia*", "nvhost*", "nvgpu*", "dxg", "kfd")  # NVIDIA on servers and boards, GPUs under WSL, AMD
    return any(next(_DEVICES.glob(pattern), None) is not None for pattern in patterns)
