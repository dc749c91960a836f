"""`clipmill doctor`: what this machine has, and what would work on it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
from typing import Any

from rich.table import Table

from ..encoders.threads import allowed_cpus

_DISTRIBUTIONS = {
    "clipmill": "",
    "torch": "",
    "torchvision": "",
    "open_clip_torch": "",
    "pyarrow": "",
    "pillow": "",
    "numpy": "",
    "apache-beam": "beam",
    "pyspark": "spark",
    "pandas": "spark",
    "soundfile": "audio",
    "soxr": "audio",
    "httpcore": "remote",
    "s3fs": "remote",
    "gcsfs": "gcp",
}
MIN_JAVA = 17


def examine() -> dict[str, Any]:
    """Return what was found, as plain values."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in _DISTRIBUTIONS},
        "cpus": os.cpu_count(),
        "allowed_cpus": allowed_cpus(),
        "devices": _devices(),
        "runtimes": {"torch": _works("torch")},
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
    """Return what was found as a table for the terminal, with the way out where something is missing."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    table.add_row("python", f"{found['python']} on {found['platform']}")
    for name, version in found["versions"].items():
        extra = _DISTRIBUTIONS[name]
        table.add_row(name, version or f"not installed: pip install 'clipmill[{extra}]'")
    table.add_row("cores", f"{found['allowed_cpus']} of {found['cpus']} allowed, so many threads are used")
    table.add_row("devices", ", ".join(found["devices"]))
    for name, problem in found["runtimes"].items():
        table.add_row(f"runtime {name}", "works" if problem is None else f"fails: {problem}")
    java = found["java"]
    missing = f"install Java {MIN_JAVA} or newer for Spark"
    table.add_row(
        "java", f"none: {missing}" if java is None else f"{java}" if java >= MIN_JAVA else f"{java}: {missing}"
    )
    return table


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> list[str]:
    if importlib.util.find_spec("torch") is None:
        return ["cpu"]
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return ["cpu", *(f"cuda:{n} ({torch.cuda.get_device_name(n)})" for n in range(count))]


def _works(runtime: str) -> str | None:
    """Return None if the demo model runs on a runtime, else why not."""
    from ..encoders import load_encoder

    try:
        load_encoder("demo", runtime=runtime, device="cpu").embed_texts(["a red circle"])
    except Exception as err:  # whatever it is, it is what the user wants to know
        return f"{type(err).__name__}: {err}"
    return None
