"""Checks of `clipmill doctor`: the runtimes, and the GPUs that they see."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ..errors import is_installed
from ..models.installed import version_of
from ..models.support_matrix import PACKAGES, RUNTIMES, combinations, has_native_bfloat16, may_have_gpu
from .check import Check, absent, not_installed, ok, problem, warning

_ONNX_BUILDS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-training",
)
"""Distributions that all own the module `onnxruntime`."""
_CUDA_PROVIDER = "CUDAExecutionProvider"


def examine_runtimes() -> dict[str, dict[str, Any]]:
    """Return each runtime's version, its problem (None: it works), its precisions by device, and its providers.

    torch embeds a text by the demo model. The others' libraries are asked: to run them, graphs may have to be made.
    """
    return {name: _examine_runtime(name) for name in RUNTIMES if name != "auto"}


def devices() -> list[str]:
    """Return the CPU, and the GPUs that torch sees, with their names."""
    torch = _torch() if may_have_gpu() else None
    if torch is None:
        return ["cpu"]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return ["cpu", *(f"cuda:{n} ({torch.cuda.get_device_name(n)})" for n in range(count))]


def runtime_checks(runtimes: Mapping[str, Mapping[str, Any]], seen: Sequence[str]) -> Iterator[Check]:
    """Yield the checks of runtimes and GPUs.

    Args:
        runtimes: What `examine_runtimes` returned.
        seen: What `devices` returned.
    """
    for name, runtime in runtimes.items():
        yield _runtime(name, runtime)
    if all(runtime["version"] is None for runtime in runtimes.values()):
        yield problem("runtimes", "none is installed", "pip install 'clipmill[torch]', 'clipmill[onnx]' or [openvino]")
    yield onnx_builds([name for name in _ONNX_BUILDS if version_of(name) is not None])
    providers = runtimes["onnx"].get("providers", ()) if runtimes["onnx"]["version"] else None
    yield gpus(seen[1:], _torch_build() if may_have_gpu() else None, providers, has_driver=may_have_gpu())


def _runtime(name: str, runtime: Mapping[str, Any]) -> Check:
    label = f"runtime {name}"
    if runtime["version"] is None:
        return not_installed(label, name)
    if runtime["problem"] is not None:
        hint = f"pip install --upgrade 'clipmill[{name}]' in a new environment; its packages must fit together"
        return problem(label, f"fails: {runtime['problem']}", hint)
    able = "; ".join(f"{', '.join(precisions)} on {place}" for place, precisions in runtime["precisions"].items())
    providers = f" ({', '.join(runtime['providers'])})" if runtime["providers"] else ""
    return ok(label, f"works: {runtime['version']}, {able}{providers}")


def onnx_builds(installed: Sequence[str]) -> Check:
    """Check that one build of ONNX Runtime is installed: each overwrites files of the others."""
    if len(installed) > 1:
        return warning(
            "onnx builds",
            f"{' and '.join(installed)} are installed together, and own the same files",
            f"pip uninstall {' '.join(installed)}, then pip install 'clipmill[onnx]' or 'clipmill[onnx-gpu]'",
        )
    return ok("onnx builds", installed[0]) if installed else not_installed("onnx builds", "onnx")


def gpus(seen: Sequence[str], torch: str | None, providers: Collection[str] | None, *, has_driver: bool) -> Check:
    """Check that runtimes see the GPU whose driver is loaded.

    Args:
        seen: The GPUs that torch sees.
        torch: What torch was built for: `cpu`, `cuda` or `rocm`. None if it is not installed.
        providers: The providers of ONNX Runtime, None if it is not installed.
        has_driver: Whether this machine has the driver of a GPU.
    """
    if not has_driver:
        return absent("gpu", "no driver of a GPU")
    if seen:
        on_cpu = providers is not None and _CUDA_PROVIDER not in providers
        return ok("gpu", ", ".join(seen) + ("; ONNX Runtime is a build for CPUs" if on_cpu else ""))
    if torch == "cpu":
        return warning(
            "gpu",
            "there is the driver of a GPU, but torch is a build for CPUs",
            "install torch's build for your CUDA: pytorch.org/get-started has the command",
        )
    if torch is not None:
        return warning(
            "gpu",
            f"there is the driver of a GPU, but torch, built for {torch}, sees none",
            "look at CUDA_VISIBLE_DEVICES and at what nvidia-smi prints; a container needs --gpus all, and a driver "
            "that is older than torch's CUDA is refused",
        )
    if providers is None or _CUDA_PROVIDER not in providers:
        return warning(
            "gpu",
            "there is the driver of a GPU, but no runtime that uses it",
            "pip install 'clipmill[torch]', or 'clipmill[onnx-gpu]' in place of onnxruntime",
        )
    return ok("gpu", "ONNX Runtime is a build for CUDA; torch is not installed")


def _torch() -> Any:
    """Return torch; None if it is not installed or cannot be imported, of which the check of the runtime says why."""
    if not is_installed("torch"):
        return None
    try:
        return importlib.import_module("torch")
    except Exception:  # whatever a broken library raises
        return None


def _torch_build() -> str | None:
    torch = _torch()
    if torch is None:
        return None
    return "cuda" if torch.version.cuda else "rocm" if torch.version.hip else "cpu"


def _examine_runtime(name: str) -> dict[str, Any]:
    version = next(filter(None, map(version_of, PACKAGES[name])), None)
    found: dict[str, Any] = {"version": version, "problem": None, "precisions": {}}
    if version is None:
        return found
    try:
        places, found["providers"] = {"torch": _try_torch, "onnx": _ask_onnx, "openvino": _ask_openvino}[name]()
    except Exception as err:  # users want to see any error
        return {**found, "problem": f"{type(err).__name__}: {err}"}
    for way, place in combinations(name, "auto", "auto"):
        if place in places and (way.precision != "bf16" or places[place]):
            found["precisions"].setdefault(place, []).append(way.precision)
    return found


def _try_torch() -> tuple[dict[str, bool], list[str]]:
    """Return the kinds of devices that torch runs on, each with whether it supports bfloat16 natively; no providers."""
    from ..encoders import load_encoder

    load_encoder("demo", runtime="torch", precision="fp32", device="cpu").embed_texts(["a red circle"])
    places = {"cpu": has_native_bfloat16()}
    if may_have_gpu():
        import torch

        if torch.cuda.is_available():
            places["cuda"] = torch.cuda.get_device_capability()[0] >= 8
    return places, []


def _ask_onnx() -> tuple[dict[str, bool], list[str]]:
    """Do the same for ONNX Runtime: its providers are those of the build; the GPU itself may be missing."""
    providers = list(importlib.import_module("onnxruntime").get_available_providers())
    has_gpu = _CUDA_PROVIDER in providers and may_have_gpu()
    return {"cpu": False, **({"cuda": False} if has_gpu else {})}, providers


def _ask_openvino() -> tuple[dict[str, bool], list[str]]:
    """Do the same for OpenVINO, which calls its providers devices."""
    core = importlib.import_module("openvino").Core()
    return {"cpu": "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")}, list(core.available_devices)
