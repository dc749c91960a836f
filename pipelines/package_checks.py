"""Checks of `clipmill doctor`: packages, whether they can be imported, and whether their versions fit together."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import warnings
from collections.abc import Iterator, Mapping

from ..models.installed import version_of
from ..models.support_matrix import PACKAGES
from .check import Check, first_line, not_installed, ok, problem, warning

DISTRIBUTIONS = {
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
"""Packages, and the extras that install them; "" for those that clipmill always installs."""

_MODULES = {
    "onnx": "onnx",
    "pandas": "pandas",
    "soundfile": "soundfile",
    "soxr": "soxr",
    "pillow-heif": "pillow_heif",
    "pillow-jxl-plugin": "pillow_jxl",
    "faiss-cpu": "faiss",
}
"""Modules of libraries in C that are quick to import. Runtimes import theirs, and torch's imports torchvision."""


def package_checks(versions: Mapping[str, str | None]) -> Iterator[Check]:
    """Yield a check for each package, and one of all versions together."""
    for name, version in versions.items():
        yield _package(name, version)
    yield matching(mismatches())


def _package(name: str, version: str | None) -> Check:
    extra = DISTRIBUTIONS[name]
    if version is None:
        return not_installed(name, extra)
    if (module := _MODULES.get(name)) is not None and (failed := _import_failure(module)):
        return problem(
            name, f"{version}, which cannot be imported: {failed}", f"pip install --force-reinstall --no-deps {name}"
        )
    return ok(name, version)


def _import_failure(module: str) -> str | None:
    try:
        with warnings.catch_warnings(action="ignore"):
            importlib.import_module(module)
    except Exception as err:  # whatever a broken library raises
        return first_line(err)
    return None


def matching(found: list[str]) -> Check:
    """Return the check of versions that do not fit together."""
    if not found:
        return ok("versions", "fit together")
    return warning(
        "versions",
        "; ".join(found),
        "install all in one call of pip, into a new environment, such as: pip install 'clipmill[torch,onnx,spark]'",
    )


def mismatches() -> list[str]:
    """Return where a package needs another version of a package than the installed one, by their own metadata.

    Examined are those of clipmill. What clipmill's extras need counts for packages that are installed.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    known = {_normalized(name) for name in (*DISTRIBUTIONS, *(one for some in PACKAGES.values() for one in some))}
    found: dict[str, None] = {}
    for name in sorted(known):
        if version_of(name) is None:
            continue
        metadata = importlib.metadata.metadata(name)
        extras = metadata.get_all("Provides-Extra", []) if name == "clipmill" else []
        for text in metadata.get_all("Requires-Dist", []):
            try:
                needed = Requirement(text)
            except InvalidRequirement:
                continue
            always = needed.marker is None or needed.marker.evaluate({"extra": ""})
            with_extra = _normalized(needed.name) in known and any(
                needed.marker is not None and needed.marker.evaluate({"extra": extra}) for extra in extras
            )
            installed = version_of(needed.name)
            wrong = always if installed is None else not needed.specifier.contains(installed, prereleases=True)
            if (always or with_extra) and wrong:
                has = "which is not installed" if installed is None else f"and {installed} is installed"
                found[f"{name} {version_of(name)} needs {needed.name}{needed.specifier}, {has}"] = None
    return list(found)


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
