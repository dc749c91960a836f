"""Maps the folders of this repository to the packages that are installed; everything else stands in pyproject.toml.

`transforms/`, `udfs/` and `pipelines/` stand at the root of the repository and are installed as `clipmill.transforms`
and so on; all other rooms stand in `src/clipmill/`, because a folder `clipmill/` at the root would shadow an installed
wheel for whoever stands in a clone. Nothing is installed under a bare name.
"""

from __future__ import annotations

import ast
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
PACKAGE = "clipmill"
PACKAGE_FOLDER = "src/clipmill"
FOLDERS = ("pipelines", "transforms", "udfs")


def package_dir() -> dict[str, str]:
    """Return the folder of every package that is installed, found by its `__init__.py`."""
    places = {PACKAGE: PACKAGE_FOLDER, **{f"{PACKAGE}.{folder}": folder for folder in FOLDERS}}
    for package, folder in list(places.items()):
        for inner in find_packages(str(ROOT / folder)):
            places[f"{package}.{inner}"] = f"{folder}/{inner.replace('.', '/')}"
    return places


def version() -> str:
    """Return `__version__` of the root package, read without importing it (its dependencies are not there yet)."""
    source = (ROOT / PACKAGE_FOLDER / "__init__.py").read_text(encoding="utf-8")
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__version__":
            return str(ast.literal_eval(statement.value))
    raise RuntimeError(f"{PACKAGE_FOLDER}/__init__.py assigns no __version__")


PACKAGES = package_dir()

setup(
    version=version(),
    packages=sorted(PACKAGES),
    package_dir=PACKAGES,
    package_data={
        PACKAGE: ["py.typed"],
        # Recursive, since a folder that holds nothing but data has no `__init__.py` and is no package of its own.
        f"{PACKAGE}.models": ["**/*.json", "**/*.safetensors", "demo/*.onnx", "demo/*.data", "demo/*.gz", "demo/*.txt"],
        f"{PACKAGE}.reports": ["**/*.html", "**/*.css"],
    },
    zip_safe=False,
)
