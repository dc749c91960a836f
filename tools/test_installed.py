"""Install a wheel with its real dependencies into a fresh environment and use it from a directory that isn't ours.

    python tools/test_installed.py dist/clipmill-0.1.0-py3-none-any.whl

Needs nothing but the standard library. The environment is several gigabytes and is removed at the end.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

EXTRAS = "beam,spark,remote"

IMPORT_ALL = """
import importlib, sys
prefix = sys.argv[1]
for name in sys.argv[2:]:
    module = importlib.import_module(name)
    assert module.__file__.startswith(prefix), f"{name} came from {module.__file__}, not from {prefix}"
"""


def modules_of(wheel: Path) -> list[str]:
    """Return the name of every module in a wheel; walking packages would miss folders without an `__init__.py`."""
    with zipfile.ZipFile(wheel) as archive:
        files = [name.removesuffix(".py") for name in archive.namelist() if name.endswith(".py")]
    return sorted(name.removesuffix("/__init__").replace("/", ".") for name in files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("wheel", type=Path)
    wheel = parser.parse_args().wheel.resolve()
    modules = modules_of(wheel)
    # Neither the clone nor another environment may lend a module.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with tempfile.TemporaryDirectory(prefix="clipmill-installed-") as folder:
        environment, elsewhere = Path(folder, "venv").resolve(), Path(folder, "elsewhere")
        elsewhere.mkdir()
        python = environment / "bin" / "python"

        def run(*command: str | Path, quiet: bool = False) -> None:
            stdout = subprocess.DEVNULL if quiet else None
            subprocess.run(command, cwd=elsewhere, env=environ, stdout=stdout, check=True)

        started = time.monotonic()
        venv.create(environment, with_pip=True)
        pip = (python, "-m", "pip", "--disable-pip-version-check")
        run(*pip, "install", "--quiet", f"{wheel}[{EXTRAS}]")
        print(f"installed {wheel.name}[{EXTRAS}] in {time.monotonic() - started:.0f} s")
        run(*pip, "check")
        run(python, "-c", IMPORT_ALL, str(environment), *modules)
        print(f"imported {len(modules)} modules from the wheel")
        run(environment / "bin" / "clipmill", "--help", quiet=True)
        run(python, "-m", "clipmill", "--help", quiet=True)
        print("ran clipmill --help and python -m clipmill --help")


if __name__ == "__main__":
    sys.exit(main())
