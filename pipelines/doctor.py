"""`clipmill doctor`: examines this machine, and which runtimes work on it."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import subprocess
from typing import Any

from rich.table import Table

from ..errors import is_installed
from ..files.cache import cache_root
from ..models.installed import version_of
from ..models.runtimes.store import is_writable
from ..models.support_matrix import PACKAGES, RUNTIMES, combinations, has_native_bfloat16, may_have_gpu
from ..threads import allowed_cpus

_DISTRIBUTIONS = {
    "clipmill": "",
    "torch": "torch",
    "torchvision": "torch",
    "open_clip_torch": "torch",
    "pyarrow": "",
    "pillow": "",
    "numpy": "",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "nncf": "openvino",
    "transformers": "hf",
    "apache-beam": "beam",
    "pyspark": "spark",
    "pandas": "spark",
    "soundfile": "audio",
    "soxr": "audio",
    "pillow-heif": "heif",
    "pillow-jxl-plugin": "jxl",
    "faiss-cpu": "index",
    "pylance": "lance",
    "pg8000": "postgres",
    "qdrant-client": "qdrant",
    "pymilvus": "milvus",
    "bokeh": "report",
    "prometheus_client": "metrics",
    "httpcore": "remote",
    "s3fs": "remote",
    "gcsfs": "gcp",
}
MIN_JAVA = 17


def examine() -> dict[str, Any]:
    """Return the findings as plain values."""
    cache = cache_root()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: version_of(name) for name in _DISTRIBUTIONS},
        "cpus": os.cpu_count(),
        "allowed_cpus": allowed_cpus(),
        "devices": _devices(),
        "runtimes": {name: _examine_runtime(name) for name in RUNTIMES if name != "auto"},
        "cache": {"directory": str(cache), "writable": is_writable(cache)},
        "java": java_version(),
    }


def java_version() -> int | None:
    """Return the major version of the Java that Spark would start, or None without one."""
    home = os.environ.get("JAVA_HOME")
    command = os.path.join(home, "bin", "java") if home else "java"
    if shutil.which(command) is None:
        return None
    said = subprocess.run([command, "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(\d+)', said.stderr + said.stdout)
    return int(found.group(1)) if found else None


def doctor_table(found: dict[str, Any]) -> Table:
    """Return the findings as a table for the terminal, with a hint for everything that is missing."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    table.add_row("python", f"{found['python']} on {found['platform']}")
    for name, version in found["versions"].items():
        extra = _DISTRIBUTIONS[name]
        table.add_row(name, version or f"not installed: pip install 'clipmill[{extra}]'")
    table.add_row("cores", f"{found['allowed_cpus']} of {found['cpus']} allowed, so many threads are used")
    table.add_row("devices", ", ".join(found["devices"]))
    for name, runtime in found["runtimes"].items():
        table.add_row(f"runtime {name}", _told(name, runtime))
    cache = found["cache"]
    table.add_row("cache", cache["directory"] + ("" if cache["writable"] else ", which cannot be written"))
    java = found["java"]
    missing = f"install Java {MIN_JAVA} or newer for Spark"
    table.add_row(
        "java", f"none: {missing}" if java is None else f"{java}" if java >= MIN_JAVA else f"{java}: {missing}"
    )
    return table


def _devices() -> list[str]:
    if not may_have_gpu() or not is_installed("torch"):
        return ["cpu"]
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return ["cpu", *(f"cuda:{n} ({torch.cuda.get_device_name(n)})" for n in range(count))]


def _examine_runtime(name: str) -> dict[str, Any]:
    """Return a runtime's version, its problem (None: it works), its precisions by kind of device, and its providers.

    torch embeds a text by the demo model. The others' libraries are asked: to run them, graphs may have to be made.
    """
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
    has_gpu = "CUDAExecutionProvider" in providers and may_have_gpu()
    return {"cpu": False, **({"cuda": False} if has_gpu else {})}, providers


def _ask_openvino() -> tuple[dict[str, bool], list[str]]:
    """Do the same for OpenVINO, which calls its providers devices."""
    core = importlib.import_module("openvino").Core()
    return {"cpu": "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")}, list(core.available_devices)


def _told(name: str, runtime: dict[str, Any]) -> str:
    if runtime["version"] is None:
        return f"not installed: pip install 'clipmill[{name}]'"
    if runtime["problem"] is not None:
        return f"fails: {runtime['problem']}"
    able = "; ".join(f"{', '.join(precisions)} on {place}" for place, precisions in runtime["precisions"].items())
    providers = f" ({', '.join(runtime['providers'])})" if runtime["providers"] else ""
    return f"works: {runtime['version']}, {able}{providers}"
